"""Evaluate one version: every gate on the same holdout rows, and the pooled test that settles a family later.

`evaluate` never raises because of the model: what the model's code does wrong is a failed gate. What it returns
is JSON-light, so a family's members can be judged together after a restart, from their recorded results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.build.contract import Columns, Predict, Subject, contract_results, example_results
from retinue.core.contract import NUMERIC, Label, Schema, Task
from retinue.core.errors import DataError
from retinue.core.gates import (
    GateResult,
    decide_absolute,
    decide_comparison,
    decide_pooled,
    failed,
    holm,
    metric_names,
    passed,
    total,
)
from retinue.core.portfolio import Gates, MetricGate
from retinue.core.state import Verdict
from retinue.core.stats import metrics
from retinue.core.stats.intervals import Sample
from retinue.core.stats.metrics import Scored, encode
from retinue.core.stats.pooled import Share, pooled, worse_p

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """All that the gates need of one version.

    `columns` are the holdout rows (at least the schema's inputs), `truth` [n] the target as labels or numbers, with
    None or NaN where unknown (of a forecast [n, horizon]).
    `outputs` and `champion` are answers for these rows by contract name; `champion` is
    None when there is none or it cannot answer them, and `champion_classes` is None when they equal `classes`.
    `keys` [n] groups rows that are not independent. `predict` is the model that will serve; `size` its bytes.
    """

    gates: Gates
    task: Task
    target: str
    classes: tuple[Label, ...] | None
    schema: Schema
    columns: Columns
    truth: Array
    outputs: Columns
    predict: Predict
    size: int
    seed: int
    keys: Array | None = None
    champion: Columns | None = None
    champion_classes: tuple[Label, ...] | None = None
    scale: Array | None = None  # of a forecast, see `Scored`


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the gates said. `metrics` holds every metric of the task that these rows define, for the manifest."""

    results: tuple[GateResult, ...]
    verdict: Verdict
    metrics: Mapping[str, float]

    @property
    def waits_for_family(self) -> bool:
        """Whether a pooled test could still settle this version: nothing failed, something inconclusive may pool."""
        return self.verdict == "inconclusive" and any(_pools(r) and r.verdict == "inconclusive" for r in self.results)


@dataclass(frozen=True, slots=True)
class Pooled:
    """One member after its family was tested as one: the new verdict and all its results."""

    verdict: Verdict
    results: tuple[GateResult, ...]


def evaluate(case: Case) -> Evaluation:
    """Run all gates of `case`: metrics, contract, examples, size. Draws come from `case.seed` alone.

    Raises DataError when truth, keys and holdout columns differ in length: that is never the model's doing.
    """
    _check_lengths(case)
    rng = np.random.default_rng(case.seed)
    measured, numbers = _metric_results(case, rng)
    subject = Subject(case.predict, case.schema, case.task, case.classes, case.columns)
    results = [*measured, *contract_results(subject, rng), *example_results(subject, case.gates.examples)]
    if case.gates.size is not None:
        results.append(_size(case.size, case.gates.size))
    return Evaluation(tuple(results), total(results), numbers)


def pool(evaluations: Mapping[str, Evaluation], rng: np.random.Generator) -> dict[str, Pooled]:
    """Test members that share one change as one family, gate by gate; settles what was inconclusive alone.

    Give all members with the same change, also those that passed or failed alone: they are part of the family's
    evidence. A member's own failure stays a failure, other inconclusive gates stay inconclusive.
    """
    results = {name: list(evaluation.results) for name, evaluation in evaluations.items()}
    gates = sorted({r.gate for found in results.values() for r in found if _pools(r)})
    for gate in gates:
        places = {
            name: place
            for name in sorted(results)
            for place, r in enumerate(results[name])
            if r.gate == gate and _pools(r)
        }
        shares = {name: _share(results[name][place]) for name, place in places.items()}
        known = {name: share for name, share in shares.items() if share is not None}
        family, margin = pooled(list(known.values()), rng)
        broken = dict(zip(known, holm([worse_p(share) for share in known.values()]), strict=True))
        for name in known:
            own = results[name][places[name]]
            results[name][places[name]] = decide_pooled(own, family, margin, broken[name])
    return {name: Pooled(total(found), tuple(found)) for name, found in results.items()}


def _pools(result: GateResult) -> bool:
    return result.on_inconclusive == "pooled" and result.gate.endswith(".vs_champion")


def _share(result: GateResult) -> Share | None:
    """What a result brings to the family test; None if it has no numbers (too few rows for any spread)."""
    if result.estimate is None or result.se is None or result.threshold is None:
        return None
    return Share(result.n, result.estimate, result.se, result.groups, result.threshold)


def _check_lengths(case: Case) -> None:
    rows = len(case.truth)
    lengths = {name: len(column) for name, column in case.columns.items()}
    if case.keys is not None:
        lengths["keys"] = len(case.keys)
    for name, length in lengths.items():
        if length != rows:
            raise DataError(f"holdout: {name} has {length:,} rows, {case.target} has {rows:,}")


def _size(found: int, allowed: int) -> GateResult:
    detail = f"{found:,} of {allowed:,} bytes"
    return passed("size", detail) if found <= allowed else failed("size", detail)


def _metric_results(case: Case, rng: np.random.Generator) -> tuple[list[GateResult], dict[str, float]]:
    try:
        challenger = scored(case.task, case.target, case.truth, case.outputs, case.classes, case.scale)
    except ValueError as error:
        return [
            failed(f"{gate.metric}.{side}", str(error), metric=gate.metric) for gate, side in _asked(case.gates)
        ], {}
    known = known_rows(case)
    challenger = challenger.take(known)
    bad = int((~challenger.finite).sum())
    if bad:
        detail = f"{bad:,} of {len(challenger):,} answers are NaN or infinite"
        return [
            failed(f"{gate.metric}.{side}", detail, n=len(challenger), metric=gate.metric)
            for gate, side in _asked(case.gates)
        ], {}
    keys = None if case.keys is None else np.asarray(case.keys)[known]
    numbers = {name: metrics.value(name, challenger) for name in metric_names(case.task)}
    alone = Sample(challenger, None, keys, rng)
    champion = _champion(case)
    both = None if champion is None else _paired(challenger, champion.take(known), keys, rng)
    results = [_judge(gate, side, alone, both) for gate, side in _asked(case.gates)]
    return results, {name: number for name, number in numbers.items() if number is not None}


def _asked(gates: Gates) -> list[tuple[MetricGate, str]]:
    """Each metric gate's sides: `min`, `max`, `vs_champion`, in the order of the file."""
    asked = []
    for gate in gates.metrics:
        sides = {"min": gate.minimum is not None, "max": gate.maximum is not None, "vs_champion": gate.vs_champion}
        asked += [(gate, side) for side, wanted in sides.items() if wanted]
    return asked


def _judge(gate: MetricGate, side: str, alone: Sample, both: Sample | None) -> GateResult:
    if side != "vs_champion":
        return decide_absolute(gate, "min" if side == "min" else "max", alone.own(gate.metric))
    if both is None or both.champion is None:
        return passed(f"{gate.metric}.vs_champion", "no champion to compare with", n=alone.n, metric=gate.metric)
    return decide_comparison(gate, both.difference(gate.metric), metrics.value(gate.metric, both.champion))


def _paired(challenger: Scored, champion: Scored, keys: Array | None, rng: np.random.Generator) -> Sample:
    """Both on the rows that the champion could answer."""
    answered = champion.finite
    return Sample(challenger.take(answered), champion.take(answered), None if keys is None else keys[answered], rng)


def known_rows(case: Case) -> Array:
    """Mask [n] of the rows whose truth is known."""
    truth = np.asarray(case.truth)
    if truth.dtype.kind == "O":
        return np.array(
            [v is not None and not (isinstance(v, float) and math.isnan(v)) for v in truth.tolist()], dtype=bool
        )
    if truth.ndim == 2:
        return np.asarray(~np.isnan(truth).any(axis=1))
    return np.asarray(~np.isnan(truth)) if truth.dtype.kind == "f" else np.ones(len(truth), dtype=bool)


def _champion(case: Case) -> Scored | None:
    """The champion's answers in the challenger's classes; None if there is none or they do not fit the task."""
    if case.champion is None:
        return None
    classes = case.champion_classes or case.classes
    try:
        if case.task in ("binary", "quantiles", "forecast") and classes != case.classes:
            return None  # the probability of another class, another quantile, another horizon is no comparison
        return scored(case.task, case.target, case.truth, _aligned(case, classes), case.classes, case.scale)
    except ValueError:
        return None


def _aligned(case: Case, classes: tuple[Label, ...] | None) -> Columns:
    """Multiclass probabilities with the columns in the order of the challenger's classes, 0 for those it lacks."""
    assert case.champion is not None, "asked only for a champion"
    if case.task != "multiclass" or classes == case.classes or classes is None:
        return case.champion
    theirs = np.asarray(case.champion["probability"], dtype=np.float64)
    ours = np.zeros((len(theirs), len(case.classes or ())))
    for place, label in enumerate(case.classes or ()):
        if label in classes:
            ours[:, place] = theirs[:, classes.index(label)]
    return {**case.champion, "probability": ours}


def scored(
    task: Task,
    target: str,
    truth: Array,
    outputs: Columns,
    classes: tuple[Label, ...] | None,
    scale: Array | None = None,
) -> Scored:
    """Answers by contract name beside the truth, as metrics read them.

    `classes` are the levels of quantiles and the steps of a forecast, of which `scale` is as `Scored` has it.

    Raises ValueError with a sentence for people when an output is lacking or has the wrong shape.
    """
    names = [target] if task in NUMERIC else ["label", "probability"]
    lacking = [name for name in names if name not in outputs]
    if lacking:
        raise ValueError(f"the model gave no output {lacking[0]}")
    score = np.asarray(outputs[names[-1]], dtype=np.float64)
    wide = task == "multiclass" or (task in ("quantiles", "forecast") and len(classes or ()) > 1)
    shape = (len(truth), len(classes or ())) if wide else (len(truth),)
    if score.shape != shape or any(len(outputs[name]) != len(truth) for name in names):
        raise ValueError(f"{names[-1]} has shape {list(score.shape)}, not {list(shape)}")
    if task in NUMERIC:
        levels = tuple(float(str(level)) for level in classes or ()) if task == "quantiles" else ()
        score = score.reshape(np.shape(truth)) if task == "forecast" else score
        return Scored(task, np.asarray(truth, dtype=np.float64), score, np.empty(0, dtype=np.int64), levels, scale)
    assert classes is not None, "a classification has classes"
    return Scored(task, encode(truth, classes), score, encode(outputs["label"], classes))
