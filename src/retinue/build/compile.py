"""Compile: which artifact of a version serves. A conversion serves only where parity with the original is proved.

Both models answer the holdout and edge rows: the original in its own environment, the conversion on the very
onnxruntime that gateways run. Converters do not always say when they are wrong (HistGradientBoosting with
`categorical_features` converts without an error), so nothing is believed that was not seen.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retinue.build.train import Answers, Columns, Compiled, Trainers, TrainResult, probe_of
from retinue.core.contract import NUMERIC, Field
from retinue.core.errors import TrainingError
from retinue_worker.runtime import Model, ModelError, load

Json = Any
Array = np.ndarray[Any, Any]

TOLERANCE = 1e-4
MAX_ROWS = 2_000
_SHOWN = 5  # rows that are recorded where the two differ
_TIMED = 50  # single-row calls of a conversion of which the median is taken


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a conversion is from its original.

    `largest` is the largest difference: of probabilities, or relative for regression; None when it did not run.
    `label_agreement` is the share of rows with the same label (1 for regression), `where` shows some of the rows
    that differ, `excluded` counts rows on which the original itself fails, `reason` says why `ok` is false.
    """

    ok: bool
    largest: float | None
    label_agreement: float | None
    tolerance: float
    rows: int
    where: tuple[Mapping[str, Json], ...] = ()
    excluded: int = 0
    reason: str | None = None

    def as_json(self) -> dict[str, Json]:
        """For the manifest of a version."""
        return {name: getattr(self, name) for name in self.__slots__} | {"where": [dict(item) for item in self.where]}


@dataclass(frozen=True, slots=True)
class Served:
    """The artifact that serves. `reason` says why it is the original; None when the conversion serves.

    `latency_us`: median microseconds of one single-row call, without transport, for what was measured.
    """

    artifact: Path
    format: str
    signature: Mapping[str, Json]
    reason: str | None
    parity: Parity | None
    latency_us: Mapping[str, float]


def prove_parity(
    native: Mapping[str, Array],
    path: Path,
    signature: Mapping[str, Json],
    columns: Columns,
    model: Model | None = None,
) -> Parity:
    """Compare the original's answers on `columns` with a conversion's, in this process's onnxruntime.

    `model` is the conversion where it is loaded already.
    Every row counts: probabilities within 1e-4 (regression: relative to the value), labels equal wherever the
    original's margin between its first two classes is above the tolerance.
    """
    rows = len(next(iter(columns.values()), ()))
    try:
        with _loaded(path, signature, model) as asked:
            compiled = asked.run(dict(columns))
    except ModelError as error:
        return Parity(False, None, None, TOLERANCE, rows, reason=f"the conversion does not run: {_line(error, path)}")
    if signature["task"] in NUMERIC:
        distance = _relative(native[signature["target"]], compiled[signature["target"]])
        distance = distance.max(axis=1) if distance.ndim == 2 else distance
        same = np.ones(rows, dtype=bool)
        bad = ~(distance <= TOLERANCE)
    else:
        distance = _absolute(native["probability"], compiled["probability"])
        same = np.asarray(native["label"] == compiled["label"], dtype=bool)
        bad = ~(distance <= TOLERANCE) | (~same & (_margin(native["probability"]) > TOLERANCE))
    largest = float(distance.max()) if rows else 0.0
    agreement = float(same.mean()) if rows else 1.0
    if not bad.any():
        return Parity(True, largest, agreement, TOLERANCE, rows)
    worst = np.argsort(-np.where(bad, distance, -1), kind="stable")[: min(_SHOWN, int(bad.sum()))]
    where = tuple(_example(int(row), columns, native, compiled) for row in worst)
    reason = f"{int(bad.sum())} of {rows} rows differ by up to {largest:.2g} (tolerance {TOLERANCE:g})"
    return Parity(False, _finite(largest), agreement, TOLERANCE, rows, where, reason=reason)


def edge_rows(columns: Columns, inputs: Sequence[Field]) -> dict[str, Array]:
    """Rows at the edges of what may come: each column's odd values, one at a time, on a typical row.

    Missing (where the contract allows it), zero, the ends of the range, plus and minus a million, unseen
    categories, empty text. The first row is the typical one: medians and most frequent values of `columns`.
    """
    typical = {field.name: _typical(columns[field.name], field) for field in inputs}
    rows: list[dict[str, Any]] = [typical]
    for field in inputs:
        rows.extend({**typical, field.name: value} for value in _odd(columns[field.name], field))
    return {field.name: _column([row[field.name] for row in rows], field) for field in inputs}


def proof_batches(inputs: Sequence[Field], holdout: Columns) -> list[dict[str, Array]]:
    """What original and conversion are compared on: the first rows of the holdout, and rows at the edges."""
    sample = {field.name: holdout[field.name][:MAX_ROWS] for field in inputs}
    return [sample, edge_rows(sample, inputs)]


def choose(result: TrainResult, holdout: Columns, trainers: Trainers) -> Served:
    """Which artifact serves: the conversion if it is proved right and not slower, else the original with the reason.

    `holdout` holds the features; at most the first 2,000 rows are used. An input that is never missing there, and
    without which the model has no answer, is not nullable in what serves: the door refuses such a row. Raises
    TrainingError when `compile` is `require` and the original would serve, and when it cannot be loaded.
    """
    inputs = result.request.inputs
    batches = proof_batches(inputs, holdout)
    sample = batches[0]
    if result.format == "onnx":
        return _as_onnx(result, sample)
    if not len(next(iter(sample.values()))):
        return _original(result, "there are no holdout rows to prove parity on", None, {})
    answers, microseconds = result.proof or trainers.probe(probe_of(result), batches)
    served = _proved(result, trainers, batches, answers, microseconds)
    return _without_null(served, _indispensable(inputs, sample, answers[1]))


# --------------------------------------------------------------------------------------------------------- choosing
def _proved(
    result: TrainResult,
    trainers: Trainers,
    batches: Sequence[Columns],
    answers: Sequence[Answers],
    microseconds: float | None,
) -> Served:
    """The first conversion that is proved equal, or the original."""
    latency = {} if microseconds is None else {"native": microseconds}
    compiled, reason, closest = result.compiled, result.compile_reason, None
    while compiled is not None:
        model = _try(compiled)
        try:
            parity = _prove(compiled, answers, batches, model)
            if parity.ok and model is not None:
                return _faster(result, compiled, parity, latency, _latency(model, batches[0]))
        finally:
            if model is not None:
                model.close()
        closest = _closer(closest, parity)
        compiled, _ = trainers.convert(result, compiled.way + 1)
    if closest is not None:
        reason = closest.reason if closest.largest is None else f"not proved equal: {closest.reason}"
    return _original(result, reason or "not converted", closest, latency)


def _try(compiled: Compiled) -> Model | None:
    """The conversion loaded once for all that is asked of it; None if it does not load, which its proof tells."""
    try:
        return load(str(compiled.path), "onnx", dict(compiled.signature))
    except ModelError:
        return None


@contextlib.contextmanager
def _loaded(path: Path, signature: Mapping[str, Json], model: Model | None) -> Iterator[Model]:
    """A conversion, loaded if it is not; only what is loaded here is closed. Raises ModelError."""
    own = model or load(str(path), "onnx", dict(signature))
    try:
        yield own
    finally:
        if model is None:
            own.close()


def _indispensable(inputs: Sequence[Field], sample: Columns, edge: Answers) -> frozenset[str]:
    """Inputs that no row of the sample lacks, and whose absence on a typical row leaves the model without answer."""
    found, position = set(), 1  # the first edge row is the typical one
    for field in inputs:
        failed = sum(1 for row in edge.failed if row < position)
        if field.nullable and not _missing(sample[field.name]).any():
            silent = position in edge.failed or any(
                values.dtype.kind == "f" and np.isnan(values[position - failed]).any()
                for values in edge.outputs.values()
            )
            if silent:
                found.add(field.name)
        position += len(_odd(sample[field.name], field))
    return frozenset(found)


def _missing(values: Array) -> Array:
    if values.dtype == object:
        return np.array([value is None for value in values.tolist()], dtype=bool)
    mask: Array = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
    return mask


def _without_null(served: Served, names: frozenset[str]) -> Served:
    inputs = [{**field, "nullable": field["nullable"] and field["name"] not in names}
              for field in served.signature["inputs"]]  # fmt: skip
    return replace(served, signature={**served.signature, "inputs": inputs})


def _closer(one: Parity | None, other: Parity) -> Parity:
    """Of two failed proofs the one that tells more: one that ran, and with the smaller difference."""
    if one is None or (one.largest is None and other.largest is not None):
        return other
    if one.largest is not None and other.largest is not None and other.largest < one.largest:
        return other
    return one


def _prove(compiled: Compiled, answers: Sequence[Answers], batches: Sequence[Columns], model: Model | None) -> Parity:
    """Parity over all batches as one; rows on which the original fails are left out and counted."""
    parts = []
    for given, columns in zip(answers, batches, strict=True):
        rows = len(next(iter(columns.values())))
        kept = np.array([row not in given.failed for row in range(rows)], dtype=bool)
        if kept.any():
            there = {name: values[kept] for name, values in columns.items()}
            parts.append(prove_parity(given.outputs, compiled.path, compiled.signature, there, model))
    excluded = sum(len(given.failed) for given in answers)
    if not parts:
        return Parity(False, None, None, TOLERANCE, 0, excluded=excluded, reason="the original fails on every row")
    bad = [part for part in parts if not part.ok]
    measured = [part for part in parts if part.largest is not None and part.label_agreement is not None]
    rows = sum(part.rows for part in parts)
    return Parity(
        ok=not bad,
        largest=max((part.largest for part in measured if part.largest is not None), default=None),
        label_agreement=sum((part.label_agreement or 0) * part.rows for part in measured) / rows if measured else None,
        tolerance=TOLERANCE,
        rows=rows,
        where=tuple(example for part in bad for example in part.where)[:_SHOWN],
        excluded=excluded,
        reason="; ".join(dict.fromkeys(part.reason for part in bad if part.reason)) or None,
    )


def _faster(
    result: TrainResult, compiled: Compiled, parity: Parity, latency: Mapping[str, float], microseconds: float
) -> Served:
    """The conversion, unless it was measured to be slower than the original and is not required."""
    measured = {**latency, "compiled": microseconds}
    native = measured.get("native")
    # an original that needs no hop to a worker process would have to be clearly faster to be worth one
    if native is not None and measured["compiled"] > 2 * native and result.request.compile != "require":
        reason = f"the conversion is slower: {measured['compiled']:.0f} µs against {native:.0f} µs a row"
        return _original(result, reason, parity, measured)
    return Served(compiled.path, "onnx", compiled.signature, None, parity, measured)


def _original(result: TrainResult, reason: str, parity: Parity | None, latency: Mapping[str, float]) -> Served:
    """The original serves, and why; an error where the portfolio requires a conversion."""
    request = result.request
    if request.compile == "require":
        raise TrainingError(
            f"{request.model}: `compile: require`, but {reason}",
            hint="Set `compile: auto` to serve the original framework, or change the model to one that converts.",
        )
    return Served(result.artifact, result.format, result.signature, reason, parity, latency)


def _as_onnx(result: TrainResult, sample: Columns) -> Served:
    """A model that was returned as ONNX: nothing to prove, but it must run."""
    inputs = result.request.inputs
    try:
        model = load(str(result.artifact), "onnx", dict(result.signature))
        latency = _latency(model, sample)
        needed = _indispensable(inputs, sample, Answers(model.run(edge_rows(sample, inputs)), {}))
        model.close()
    except ModelError as error:
        raise TrainingError(
            f"{result.request.model}: the returned ONNX model does not run: {_line(error, result.artifact)}",
            hint="Export it for an operator set that onnxruntime knows, with the declared inputs and outputs.",
        ) from error
    return _without_null(Served(result.artifact, "onnx", result.signature, None, None, {"compiled": latency}), needed)


def _latency(model: Model, sample: Columns) -> float:
    """Median microseconds of a call with one row."""
    row = {name: values[:1] for name, values in sample.items()}
    times = []
    for _ in range(_TIMED + 2):  # the first two only warm up
        start = time.perf_counter()
        model.run(row)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:]) * 1e6


# -------------------------------------------------------------------------------------------------------- comparing
def _absolute(native: Array, compiled: Array) -> Array:
    """Largest absolute difference per row; equal where both are NaN, infinite where one is."""
    difference = _gap(native, compiled)
    largest: Array = difference.max(axis=1) if difference.ndim == 2 else difference
    return largest


def _relative(native: Array, compiled: Array) -> Array:
    """Difference per row relative to the value, or to a hundredth of the typical value where that is larger."""
    finite = np.abs(native[np.isfinite(native)])
    typical = float(np.median(finite)) if len(finite) else 0.0
    scale = np.maximum(np.abs(native), max(0.01 * typical, np.finfo(np.float64).tiny))
    gap = _gap(native, compiled)
    relative: Array = np.divide(gap, scale, out=gap.copy(), where=np.isfinite(gap))
    return relative


def _gap(native: Array, compiled: Array) -> Array:
    with np.errstate(invalid="ignore"):
        difference = np.abs(native - compiled)
    alike = (native == compiled) | (np.isnan(native) & np.isnan(compiled))
    gap: Array = np.where(alike, 0.0, np.where(np.isnan(difference), np.inf, difference))
    return gap


def _margin(probability: Array) -> Array:
    """Distance between the first two classes of each row."""
    if probability.ndim == 1:
        probability = np.stack([1 - probability, probability], axis=1)
    top = np.sort(probability, axis=1)[:, -2:]
    difference: Array = top[:, 1] - top[:, 0]
    return difference


def _example(row: int, columns: Columns, native: Mapping[str, Array], compiled: Mapping[str, Array]) -> dict[str, Json]:
    return {
        "row": {name: _json(values[row]) for name, values in columns.items()},
        "native": {name: _json(values[row]) for name, values in native.items()},
        "compiled": {name: _json(values[row]) for name, values in compiled.items()},
    }


def _json(value: Any) -> Json:
    plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    if isinstance(plain, list):
        return [_json(item) for item in plain]
    return _finite(plain) if isinstance(plain, float) else plain


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _line(error: Exception, path: Path) -> str:
    """An error on one line, without the folder of this machine that the file happens to be in."""
    return " ".join(str(error).replace(str(path), path.name).split())[:300]


# ------------------------------------------------------------------------------------------------------- edge rows
def _typical(values: Array, field: Field) -> Any:
    if field.dtype == "BYTES":
        there = [value for value in values.tolist() if value is not None]
        return statistics.mode(sorted(there)) if there else ""
    numbers = values.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    middle = float(np.median(numbers)) if len(numbers) else 0.0
    return middle if field.dtype == "FP64" else round(middle)


def _odd(values: Array, field: Field) -> list[Any]:
    """Odd values of one column; None stands for missing."""
    missing = [None] if field.nullable else []
    if field.dtype == "BYTES":
        return [*missing, "", "unseen category", "Ünsichtbar ✈"]
    if field.dtype == "BOOL":
        return [*missing, 0, 1]
    numbers = values.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 0.0)
    found = [0.0, low, high, -1e6, 1e6]
    return [*missing, *(found if field.dtype == "FP64" else [int(value) for value in found])]


def _column(values: list[Any], field: Field) -> Array:
    if field.dtype == "BYTES":
        return np.array([*values, None], dtype=object)[:-1]
    if field.dtype == "FP64" or None in values:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.array(values, dtype=np.int64 if field.dtype == "INT64" else np.bool_)
