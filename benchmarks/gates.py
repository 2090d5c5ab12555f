"""How often do the gates pass, fail or stay undecided? Seeded simulations, beside a plain point comparison.

    python -m benchmarks gates            200 simulations a row
    python -m benchmarks gates --quick    a few, for continuous integration; exits 1 when a promise is broken

A challenger is the truth's logit with noise of its own. `identical retrain` has the champion's noise, so its
true loss is the same; the others have more, tuned on a million rows so that their true loss is worse by the
stated multiple of the margin. At exactly 1 × margin a pass is an error, promised in about 5 % of cases; a member of a
family has two ways to pass (alone, with its family), so its errors may add up to about twice that.
Slices pass when no group's estimate is beyond its bound, so one exactly at its bound passes every other time.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from benchmarks import _further_gates

from retinue.build.evaluate import Evaluation, pool
from retinue.core.gates import decide_comparison, total
from retinue.core.portfolio import MetricGate
from retinue.core.stats import metrics
from retinue.core.stats.intervals import Sample
from retinue.core.stats.metrics import Array, Scored

MARGIN = 0.02
NOISE = 0.30
SCENARIOS = {"identical retrain": 0.0, "worse by 1 × margin": 1.0, "worse by 3 × margin": 3.0}


@dataclass(frozen=True)
class Row:
    """One line of the table: how many simulations ended how."""

    gate: str
    scenario: str
    n: int
    verdicts: Counter[str]
    blocked_by_point: int
    runs: int

    def __str__(self) -> str:
        cells = [
            f"{self.verdicts[v]:>5} {self.verdicts[v] / self.runs:>5.0%}" for v in ("pass", "inconclusive", "fail")
        ]
        point = f"{self.blocked_by_point:>5} {self.blocked_by_point / self.runs:>5.0%}"
        return f"{self.gate:<26}{self.scenario:<22}{self.n:>8,}   " + "   ".join(cells) + f"   {point}"


def answers(rng: np.random.Generator, truth: Array, logit: Array, noise: float) -> Scored:
    score = 1 / (1 + np.exp(-(logit + rng.normal(0, noise, len(logit)))))
    return Scored("binary", truth, score, (score > 0.5).astype(np.int64))


def world(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    logit = rng.normal(-1.2, 1.0, n)
    return (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64), logit


@cache
def noise_for(metric: str, multiple: float) -> float:
    """The noise whose true loss is worse than the champion's by `multiple` margins, by bisection on a million rows."""
    if multiple == 0:
        return NOISE
    truth, logit = world(np.random.default_rng(99), 1_000_000)

    def loss(noise: float) -> float:
        found = metrics.value(metric, answers(np.random.default_rng(98), truth, logit, noise))
        assert found is not None
        return -found if metric == "roc_auc" else found

    base = loss(NOISE)
    low, high = NOISE, 3.0
    for _ in range(18):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) - base < multiple * MARGIN * abs(base) else (low, middle)
    return high


def simulate(seed: int, metric: str, noise: float, n: int) -> tuple[Evaluation, bool]:
    """One challenger against its champion; the verdict, and whether a point comparison would block it."""
    rng = np.random.default_rng([seed, n])
    truth, logit = world(rng, n)
    champion, challenger = answers(rng, truth, logit, NOISE), answers(rng, truth, logit, noise)
    found = Sample(challenger, champion, None, rng).difference(metric)
    gate = MetricGate(metric, vs_champion=True, margin=MARGIN, on_inconclusive="pooled")
    result = decide_comparison(gate, found, metrics.value(metric, champion))
    return Evaluation((result,), total([result]), {}), (found.estimate or 0.0) > 0


def alone(metric: str, scenario: str, n: int, runs: int) -> Row:
    noise = noise_for(metric, SCENARIOS[scenario])
    found = [simulate(seed, metric, noise, n) for seed in range(runs)]
    return Row(metric, scenario, n, Counter(e.verdict for e, _ in found), sum(b for _, b in found), runs)


def family(metric: str, scenario: str, n: int, members: int, runs: int) -> Row:
    """Families of `members`, n rows each; counted per member after the pooled test."""
    noise, verdicts, blocked = noise_for(metric, SCENARIOS[scenario]), Counter[str](), 0
    for run in range(runs):
        found = [simulate(run * members + i, metric, noise, n) for i in range(members)]
        settled = pool({f"m{i:03}": e for i, (e, _) in enumerate(found)}, np.random.default_rng(run))
        verdicts.update(p.verdict for p in settled.values())
        blocked += sum(b for _, b in found)
    return Row(f"{metric}, pooled × {members}", scenario, n, verdicts, blocked, runs * members)


def broken_promises(rows: Sequence[Row]) -> list[str]:
    """What the table must show: errors within their level (with room for chance), and more power with more rows."""
    found = []
    for row in rows:
        share = {v: c / row.runs for v, c in row.verdicts.items()}
        room = 3 * (0.05 * 0.95 / row.runs) ** 0.5
        if row.scenario.startswith("identical") and share.get("fail", 0.0) > 0.05 + room:
            found.append(f"{row.gate} n={row.n}: an identical retrain fails {share['fail']:.0%}")
        if "1 ×" in row.scenario and "pooled" not in row.gate and share.get("pass", 0.0) > 0.06 + room:
            found.append(f"{row.gate} n={row.n}: a model at the margin passes {share['pass']:.0%}")
        if row.scenario in ("within the bound", "at the bound") and share.get("fail", 0.0) > 0.05 + room:
            found.append(f"{row.gate} n={row.n}: {row.scenario}, and {share['fail']:.0%} fail")
        decided = row.scenario == "beyond the bound" or (row.scenario == "at the bound" and "slices" not in row.gate)
        if decided and share.get("pass", 0.0) > 0.05 + room:
            found.append(f"{row.gate} n={row.n}: {row.scenario}, and {share['pass']:.0%} pass")
        if "3 ×" in row.scenario and share.get("pass", 0.0) > 0.01 + room:
            found.append(f"{row.gate} n={row.n}: a model three margins worse passes {share['pass']:.0%}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few simulations, for continuous integration")
    quick = parser.parse_args(argv).quick
    runs, sizes = (40, (300, 3_000)) if quick else (200, (300, 1_000, 3_000, 10_000))
    print(f"margin {MARGIN:.0%} of the champion's metric, one-sided 95 % bounds, {runs} simulations a row")
    print(f"{'gate':<26}{'truth':<22}{'rows':>8}   {'pass':>11}   {'inconclusive':>11}   {'fail':>11}   point blocks")
    rows = []
    for metric in ("log_loss", "roc_auc"):
        for scenario in SCENARIOS:
            for n in sizes:
                rows.append(alone(metric, scenario, n, runs))
                print(rows[-1], flush=True)
    for scenario in SCENARIOS:
        rows.append(family("log_loss", scenario, 300, 26, max(runs // 10, 4)))
        print(rows[-1], flush=True)
    for name, truth, n, verdicts, blocked in _further_gates.rows(runs, sizes[1:]):
        rows.append(Row(name, truth, n, verdicts, blocked, runs))
        print(rows[-1], flush=True)
    problems = broken_promises(rows)
    print("\n".join(problems) or "all promises held")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
