"""Slices, calibration and fairness over seeded models: far within the bound, exactly at it, beyond it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from retinue.build.evaluate import Case
from retinue.build.further import Around, further_results
from retinue.build.timing import Timed
from retinue.core.contract import Field, Schema, outputs_of
from retinue.core.gate_specs import CalibrationGate, FairnessGate, SliceGate
from retinue.core.gates import GateResult
from retinue.core.portfolio import Gates
from retinue.core.stats.metrics import Array

SCHEMA = Schema((Field("x", "FP64"),), outputs_of("binary", "late", "BOOL", 2))
GROUPS = 20
SLICE_BOUND, ECE_BOUND, GAP_BOUND = 0.1, 0.05, 0.1
TRUTHS = ("within the bound", "at the bound", "beyond the bound")
Answers = tuple[Array, Array, Array, Array]
"""Truth, probability, label and group, each [n]."""


def judged(gates: Gates, made: Answers) -> GateResult:
    truth, score, label, group = made
    columns: dict[str, Array] = {"x": score}
    outputs = {"label": label, "probability": score}
    case = Case(gates, "binary", "late", (False, True), SCHEMA, columns, truth, outputs, lambda batch: outputs, 1, 0)
    around = Around({"group": group}, lambda: Timed(score, score), lambda: 0, lambda tests: [])
    return further_results(case, around)[0]


def sliced(rng: np.random.Generator, n: int, strength: float) -> Answers:
    """Misses of 20 % everywhere but in one of the groups, whose share lies `strength` bounds above that of all."""
    group = rng.integers(0, GROUPS, n)
    rate = np.where(group == 0, 0.2 + strength * SLICE_BOUND * GROUPS / (GROUPS - 1), 0.2)
    label = rng.random(n) < 0.5
    return label ^ (rng.random(n) < rate), np.where(label, 0.8, 0.2), label, group.astype(str).astype(object)


def calibrated(rng: np.random.Generator, n: int, strength: float) -> Answers:
    """A model that says too little by `strength` bounds."""
    score = rng.uniform(0.1, 0.8, n)
    return rng.random(n) < score + strength * ECE_BOUND, score, score > 0.5, np.full(n, "all", dtype=object)


def selected(rng: np.random.Generator, n: int, strength: float) -> Answers:
    """Four groups, of which one is selected less often by `strength` bounds."""
    group = rng.integers(0, 4, n)
    label = rng.random(n) < np.where(group == 0, 0.4 - strength * GAP_BOUND, 0.4)
    return rng.random(n) < 0.4, np.where(label, 0.7, 0.3), label, group.astype(str).astype(object)


KINDS: dict[str, tuple[Gates, Callable[[np.random.Generator, int, float], Answers], tuple[float, ...]]] = {
    f"slices × {GROUPS}": (
        Gates(slices=(SliceGate(("group",), "accuracy", SLICE_BOUND, relative=False, min_rows=10),)),
        sliced,
        (0.0, 1.0, 2.0),
    ),
    "calibration": (Gates(calibration=CalibrationGate(ECE_BOUND)), calibrated, (0.0, 1.0, 2.0)),
    "fairness × 4": (
        Gates(fairness=(FairnessGate(("group",), "selection_rate", GAP_BOUND),)),
        selected,
        (0.0, 1.0, 2.0),
    ),
}


def rows(runs: int, sizes: tuple[int, ...]) -> Iterator[tuple[str, str, int, Counter[str], int]]:
    """(gate, truth, n, verdicts, how often the plain estimate is beyond its bound) per line of the table."""
    for name, (gates, make, strengths) in KINDS.items():
        for truth, strength in zip(TRUTHS, strengths, strict=True):
            for n in sizes:
                found = [judged(gates, make(np.random.default_rng([seed, n]), n, strength)) for seed in range(runs)]
                blocked = sum((r.estimate or 0.0) > (r.threshold or 0.0) for r in found)
                yield name, truth, n, Counter(r.verdict for r in found), blocked
