"""The further gates on one version: slices, calibration, fairness, robustness, latency, memory, the user's tests.

What the model's code does wrong is a failed gate; what cannot be measured is not enough data, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.build.contract import Columns
from retinue.build.evaluate import Case, Evaluation, known_rows, scored
from retinue.build.robustness import robustness_results
from retinue.build.timing import Timed
from retinue.core.gate_specs import FairnessGate, LatencyGate, SliceGate, TestFile
from retinue.core.gates import ALPHA, METRICS, GateResult, Interval, failed, passed, total, undecided
from retinue.core.gates_further import settled, three_way
from retinue.core.stats.calibration import calibration_error
from retinue.core.stats.intervals import codes_of
from retinue.core.stats.metrics import Scored
from retinue.core.stats.quantiles import quantile
from retinue.core.stats.rates import groups_of, largest_gap
from retinue.core.stats.slices import SliceTest, names_of, slice_tests

Array = NDArray[Any]
SHOWN = 5
MOST_GROUPS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Around:
    """What these gates need beside the case: `columns` [n] that rows are grouped by, and ways to measure."""

    columns: Columns
    time: Callable[[], Timed]
    weigh: Callable[[], int | None]
    run_tests: Callable[[tuple[TestFile, ...]], list[GateResult]]


def with_further(evaluation: Evaluation, case: Case, around: Around) -> Evaluation:
    """The evaluation with the further gates' results, in the order of the reference page."""
    results = [*evaluation.results, *further_results(case, around)]
    return replace(evaluation, results=tuple(results), verdict=total(results))


def further_results(case: Case, around: Around) -> list[GateResult]:
    """One result per question asked; none where no further gate is."""
    gates = case.gates
    results: list[GateResult] = []
    if gates.memory is not None:
        results.append(_memory(around.weigh(), gates.memory))
    if gates.slices or gates.fairness or gates.calibration is not None:
        results += _on_rows(case, around)
    if gates.robustness is not None:
        results += robustness_results(case, gates.robustness, np.random.default_rng(case.seed))
    if gates.latency is not None:
        results += _latency(gates.latency, around.time())
    if gates.pytest:
        results += around.run_tests(gates.pytest)
    return results


def _on_rows(case: Case, around: Around) -> list[GateResult]:
    """The gates that compare answers with the truth."""
    named = [f"slices.{_by(g.by)}" for g in case.gates.slices] + [f"fairness.{_by(g.by)}" for g in case.gates.fairness]
    named += ["calibration.ece"] if case.gates.calibration is not None else []
    try:
        found = scored(case.task, case.target, case.truth, case.outputs, case.classes, case.scale)
    except ValueError as error:
        return [failed(name, str(error)) for name in named]
    known = known_rows(case)
    found = found.take(known)
    if not bool(found.finite.all()):
        return [failed(name, f"{int((~found.finite).sum()):,} answers are NaN or infinite") for name in named]
    codes = None if case.keys is None else codes_of(np.asarray(case.keys)[known])
    results = []
    for gate in case.gates.slices:
        names = names_of([np.asarray(around.columns[c])[known] for c in gate.by])
        results.append(_slices(gate, found, names, codes))
    for fair in case.gates.fairness:
        names = names_of([np.asarray(around.columns[c])[known] for c in fair.by])
        results.append(_fairness(fair, found, names, codes))
    if case.gates.calibration is not None:
        asked = case.gates.calibration
        results.append(three_way("calibration.ece", calibration_error(found, codes), asked.ece, asked.on_inconclusive))
    return results


def _slices(gate: SliceGate, found: Scored, names: Array, codes: Array | None) -> GateResult:
    name = f"slices.{_by(gate.by)}"
    if len(set(names.tolist())) > MOST_GROUPS:
        text = f"not enough data: {_by(gate.by)} has {len(set(names.tolist())):,} values; group them in a view"
        return settled(replace(undecided(name, text, n=len(found)), on_inconclusive=gate.on_inconclusive))
    tests = slice_tests(gate, found, names, codes)
    tested = [t for t in tests if not t.why]
    small = [t for t in tests if t.why]
    told = _small(small)
    if not tested:
        text = f"not enough data: {told or 'no rows'}"
        return settled(replace(undecided(name, text, n=len(found)), on_inconclusive=gate.on_inconclusive))
    worst = max(tested, key=lambda t: (t.failed, -t.p, t.excess or 0.0))
    broken = [t for t in tested if t.failed]
    beyond = [t for t in tested if (t.excess or 0.0) > 0]
    verdict = "fail" if broken else ("inconclusive" if beyond else "pass")
    text = f"{'; '.join(_slice(t, gate) for t in (broken or beyond or [worst])[:SHOWN])}"
    if len(broken or beyond) > SHOWN:
        text += f" and {len(broken or beyond) - SHOWN} more"
    text += f"; {len(tested)} groups tested" + (f"; not enough data: {told}" if told else "")
    if verdict == "inconclusive":
        text = f"not enough data to tell: {text}"
    result = GateResult(
        gate=name,
        metric=gate.metric,
        verdict=verdict,  # type: ignore[arg-type]  # one of the three above
        estimate=worst.excess,
        low=worst.low,
        high=worst.high,
        n=worst.n,
        threshold=0.0,
        method=f"linear form per group, Holm over {len(tested)}",
        detail=text,
        groups=len(tested),
        on_inconclusive=gate.on_inconclusive,
    )
    return settled(result)


def _slice(test: SliceTest, gate: SliceGate) -> str:
    side = "at least" if METRICS[gate.metric].higher_is_better else "at most"
    return (
        f"{_by(gate.by)}={test.name} has {gate.metric} {test.value:.4g}, {side} {test.bound:.4g} passes (n={test.n:,})"
    )


def _small(tests: list[SliceTest]) -> str:
    shown = ", ".join(f"{t.name} ({t.why})" for t in tests[:SHOWN])
    return shown + (f" and {len(tests) - SHOWN} more" if len(tests) > SHOWN else "")


def _fairness(gate: FairnessGate, found: Scored, names: Array, codes: Array | None) -> GateResult:
    name = f"fairness.{_by(gate.by)}"
    distinct = len(set(names.tolist()))
    groups = groups_of(gate.metric, found, names, codes) if distinct <= MOST_GROUPS else []
    kept = [g for g in groups if g.effective >= gate.min_rows]
    small = [f"{g.name} ({g.n} of {gate.min_rows} rows)" for g in groups if g.effective < gate.min_rows]
    told = f"not enough data: {', '.join(small[:SHOWN])}" if small else ""
    if len(kept) < 2:
        why = told or f"not enough data: {distinct:,} groups"
        interval = Interval(sum(g.n for g in groups), len(groups), why=why)
        return three_way(name, interval, gate.gap, gate.on_inconclusive, metric=gate.metric)
    gap = largest_gap(kept)
    interval = Interval(
        sum(g.n for g in kept),
        len(kept),
        gap.estimate,
        gap.low,
        gap.high,
        method=f"Newcombe's intervals, simultaneous over {gap.pairs} pairs",
    )
    text = f"{gate.metric} {gap.less.rate:.3f} ({gap.less.name}) to {gap.more.rate:.3f} ({gap.more.name})"
    detail = f"{text}; {told}" if told else text
    return three_way(name, interval, gate.gap, gate.on_inconclusive, metric=gate.metric, detail=detail)


def _memory(found: int | None, allowed: int) -> GateResult:
    if found is None:
        return undecided("memory", "not enough data: memory cannot be measured on this system")
    result = passed if found <= allowed else failed
    return replace(
        result("memory", "bytes of a loaded copy"), estimate=float(found), threshold=float(allowed), method="weighed"
    )


def _latency(gate: LatencyGate, timed: Timed) -> list[GateResult]:
    results = []
    for name, q, allowed in (("p50", 0.5, gate.p50), ("p99", 0.99, gate.p99)):
        if allowed is None:
            continue
        interval = quantile(timed.seconds * 1e3, q)
        interval = replace(interval, why=timed.why) if timed.why else interval
        detail = "milliseconds of a call with one row"
        results.append(three_way(f"latency.{name}", interval, allowed * 1e3, gate.on_inconclusive, detail=detail))
    if gate.vs_champion is not None:
        results.append(_against(gate, gate.vs_champion, timed))
    return results


def _against(gate: LatencyGate, allowed: float, timed: Timed) -> GateResult:
    """The ratio of the medians, from paired blocks: a t-interval of the log ratio."""
    from scipy.special import stdtrit

    name = "latency.vs_champion"
    if timed.why:
        interval = Interval(0, 0, why=timed.why)
        return three_way(name, interval, allowed, gate.on_inconclusive)
    if timed.rival is None:
        return passed(name, "no champion to compare with")
    ratio = np.log(timed.blocks / timed.rival)
    b = len(ratio)
    if b < 5:
        return three_way(name, Interval(b, b, why=f"not enough data: {b} of 5 blocks"), allowed, gate.on_inconclusive)
    middle = float(ratio.mean())
    reach = float(stdtrit(b - 1, 1 - ALPHA)) * float(ratio.std(ddof=1)) / float(np.sqrt(b))
    estimate, low, high = (float(np.exp(middle + x)) for x in (0.0, -reach, reach))
    method = f"medians of {b} interleaved blocks, t-interval of their ratio"
    interval = Interval(len(timed.seconds), b, estimate, low, high, method=method)
    champion = float(np.median(timed.rival)) * 1e3
    detail = f"times the champion's median of {champion:.3g} ms"
    return three_way(name, interval, allowed, gate.on_inconclusive, detail=detail)


def _by(columns: tuple[str, ...]) -> str:
    return ",".join(columns)
