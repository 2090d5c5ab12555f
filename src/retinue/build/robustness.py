"""Robustness: how far little noise and inputs beyond the seen range move the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.build.contract import Columns
from retinue.build.evaluate import Case
from retinue.core.contract import NUMERIC
from retinue.core.errors import RetinueError
from retinue.core.gate_specs import RobustnessGate
from retinue.core.gates import GateResult, Interval, failed
from retinue.core.gates_further import three_way
from retinue.core.stats.quantiles import quantile

Array = NDArray[Any]
ROWS = 1_000
DRAWS = 4
QUANTILE = 0.95
FAR = 10.0
"""Extremes lie so many times the seen range beyond it."""
PROBED = 20


def robustness_results(case: Case, gate: RobustnessGate, rng: np.random.Generator) -> list[GateResult]:
    """`robustness.noise` and `robustness.extremes`, those that are asked for; a model that raises has failed."""
    n = len(case.truth)
    rows = np.sort(rng.choice(n, size=min(ROWS, n), replace=False)) if n else np.empty(0, dtype=np.int64)
    results = []
    asked = {"noise": gate.noise is not None, "extremes": gate.extremes}
    for name in (name for name, wanted in asked.items() if wanted):
        if n == 0:
            found = Interval(0, 0, why="not enough data: no holdout rows")
            results.append(three_way(f"robustness.{name}", found, gate.bound, gate.on_inconclusive))
            continue
        try:
            tried = _noise(case, gate, rows, rng) if name == "noise" else _extremes(case, gate, rows)
        except RetinueError as error:
            tried = failed(f"robustness.{name}", f"the model raised: {error}", n=len(rows))
        except Exception as error:  # noqa: BLE001 — whatever the model's code raises is its failed gate
            tried = failed(f"robustness.{name}", f"the model raised {type(error).__name__}: {error}", n=len(rows))
        results.append(tried)
    return results


def _noise(case: Case, gate: RobustnessGate, rows: Array, rng: np.random.Generator) -> GateResult:
    """The largest move of each row over a few draws; 95 of 100 rows must stay below the bound."""
    assert gate.noise is not None
    given = _batch(case, rows)
    before = _answers(case, given)
    noisy = [f.name for f in case.schema.inputs if f.dtype == "FP64"]
    spreads = {name: float(np.nan_to_num(np.nanstd(given[name]))) if _some(given[name]) else 0.0 for name in noisy}
    moves = np.zeros(len(rows))
    for _ in range(DRAWS):
        moved = dict(given)
        for name in noisy:
            moved[name] = given[name] + rng.normal(size=len(rows)) * gate.noise * spreads[name]
        moves = np.maximum(moves, _distance(before, _answers(case, moved)))
    bound = gate.bound * (_spread(before) if gate.relative else 1.0)
    found = quantile(moves, QUANTILE)
    detail = f"{gate.noise:.3g} of each spread moves 95 of 100 rows by less; the largest move is {moves.max():.3g}"
    return three_way("robustness.noise", found, bound, gate.on_inconclusive, detail=detail)


def _extremes(case: Case, gate: RobustnessGate, rows: Array) -> GateResult:
    """Each numeric input far beyond its range, one at a time: answers are numbers, and those of a regression stay
    within what they are on the holdout, widened by the bound; probabilities stay probabilities."""
    picked = rows[np.unique(np.linspace(0, len(rows) - 1, PROBED).astype(np.int64))]
    given, usual = _batch(case, picked), _answers(case, _batch(case, rows))
    bound = gate.bound * (_spread(usual) if gate.relative else 1.0)
    low, high = (usual.min(), usual.max()) if case.task in NUMERIC else (0.0, 1.0)
    worst, where, probes = 0.0, "", 0
    for field in case.schema.inputs:
        if field.dtype not in ("FP64", "INT64"):
            continue
        values = np.asarray(case.columns[field.name], dtype=np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        least, most = float(values.min()), float(values.max())
        reach = FAR * max(most - least, 1.0)
        for value in (least - reach, most + reach):
            kind = given[field.name].dtype
            probe = {**given, field.name: np.full(len(picked), value).astype(kind)}
            answers = _answers(case, probe)
            probes += len(picked)
            if not np.isfinite(answers).all():
                return failed(
                    "robustness.extremes", f"with {field.name} = {value:.6g} an answer is no number", n=probes
                )
            beyond = float(max(answers.max() - high, low - answers.min(), 0.0))
            if beyond > worst:
                worst, where = beyond, f"{field.name} = {value:.6g}"
    detail = f"furthest with {where}" if where else "no answer leaves the range of the holdout's answers"
    ok = worst <= bound
    return GateResult(
        gate="robustness.extremes",
        metric="",
        verdict="pass" if ok else "fail",
        estimate=worst,
        n=probes,
        threshold=bound,
        method="every numeric input beyond its range, one at a time",
        detail=detail,
        on_inconclusive=gate.on_inconclusive,
    )


def _batch(case: Case, rows: Array) -> dict[str, Array]:
    return {f.name: np.asarray(case.columns[f.name])[rows] for f in case.schema.inputs}


def _answers(case: Case, batch: Columns) -> Array:
    """The numbers that a model answers with, [n, k]."""
    found = case.predict({name: column.copy() for name, column in batch.items()})
    values = np.asarray(found[case.target if case.task in NUMERIC else "probability"], dtype=np.float64)
    return values if values.ndim == 2 else values[:, None]


def _distance(one: Array, two: Array) -> Array:
    """Largest difference per row; infinite where an answer is no number."""
    found: Array = np.nan_to_num(np.abs(one - two), nan=np.inf).max(axis=1)
    return found


def _spread(answers: Array) -> float:
    return float(answers.std(axis=0).max())


def _some(values: Array) -> bool:
    return bool(np.isfinite(np.asarray(values, dtype=np.float64)).any())
