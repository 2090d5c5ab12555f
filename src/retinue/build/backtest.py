"""Rolling-origin backtests of forecasts, and how their errors grow with the step, as part of the evidence.

    training rows │ block 0 │ block 1 │ block 2 │ …        fold i is trained on what was known before block i
                              ▲ fold 1  ▲ fold 2           and answers for the origins of block i

(Tashman, "Out-of-sample tests of forecasting accuracy", Int. J. Forecasting 16 (2000), 437-450: rolling origins, an
expanding window, the model refitted at each.) All of it lies before the cutoff: the holdout stays unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.build.chain import Beside, Chain, mapped_fields
from retinue.build.columns import Columns, Table, target_values, to_columns
from retinue.build.dataset import DataSet, scales, training
from retinue.build.evaluate import Case, Evaluation, known_rows, scored
from retinue.build.folds import Fold, folds, in_fold
from retinue.build.forecast import scale_of
from retinue.build.train import PredictRequest, TrainResult
from retinue.core.errors import DataError, TrainingError
from retinue.core.gates import GateResult, metric_names, passed
from retinue.core.portfolio import ModelSpec
from retinue.core.state import Version
from retinue.core.stats import metrics
from retinue.core.stats.metrics import Scored
from retinue.sources.base import Pin
from retinue_worker.runtime import ModelError, load

Array = NDArray[Any]
Json = Any


@dataclass(frozen=True, slots=True)
class Backtested:
    """What a backtest is made from: the chain of upstreams, the step's definition and pinned data."""

    chain: Chain
    definition: str
    pinned: Mapping[str, Json]
    beside: Beside


def backtest(job: Backtested, spec: ModelSpec, data: DataSet, rows: Table) -> list[dict[str, Json]]:
    """One entry per fold: its moments, rows, every metric, and the error of each step. Nothing without `backtest`.

    `rows` are the training rows with their upstream columns. Raises DataError where a fold has too few rows before
    it, and TrainingError for what the user's code does wrong on them.
    """
    if not spec.forecast.folds:
        return []
    assert data.time is not None, "a forecast has time"
    found = []
    for number, fold in enumerate(folds(rows.column(data.time), job.pinned["cutoff"], spec.forecast.folds), start=1):
        origins = rows.filter(in_fold(rows, fold, data.time))
        if origins.num_rows:
            job.chain.workshop.say(spec.name, f"backtest {number} of {spec.forecast.folds}")
            found.append(_fold(job, spec, data, fold, origins))
    return found


def _fold(job: Backtested, spec: ModelSpec, data: DataSet, fold: Fold, origins: Table) -> dict[str, Json]:
    workshop, pin, cutoff = job.chain.workshop, Pin.from_json(job.pinned["sources"]), job.pinned["cutoff"]
    try:
        tables = training(workshop.tables, spec, pin, cutoff, fold, mapped_fields(spec, job.beside))
        before = job.chain.out_of_fold(data, tables[data.primary], spec, job.beside, fold.train_before)
    except DataError as error:
        raise DataError(
            f"backtest before {fold.train_before}: {error.message}",
            where=spec.where,
            hint="Ask for fewer `folds`: the first is trained on 1 of folds + 1 parts of the rows; or less `horizon`.",
        ) from error
    result = workshop.train(spec, job.definition, {**tables, data.primary: before})
    outputs = _answers(job, spec, result, to_columns(origins, spec.features))
    scale = scale_of(origins, spec, scales(workshop.tables, spec, pin, fold.train_before))
    steps = tuple(range(1, spec.forecast.horizon + 1))
    try:
        judged = scored("forecast", spec.target, target_values(origins, spec), outputs, steps, scale)
    except ValueError as error:
        raise TrainingError(f"{spec.name}: {error}", where=spec.where, hint="Fit on `df[job.targets]`.") from error
    return {
        "train_before": fold.train_before,
        "end": fold.end,
        "train": before.num_rows,
        "origins": origins.num_rows,
        "metrics": _numbers(judged),
        "steps": by_step(judged),
    }


def _answers(job: Backtested, spec: ModelSpec, result: TrainResult, columns: Columns) -> Columns:
    if result.format != "onnx":
        opened = job.chain.workshop.opened(job.definition, spec.name)
        request = PredictRequest(
            environment=opened.environment,
            artifact=result.artifact,
            format=result.format,
            signature=result.signature,
            overlay=opened.overlay,
            model=spec.name,
        )
        return job.chain.workshop.trainers.predict(request, columns)
    try:
        model = load(str(result.artifact), "onnx", dict(result.signature))
        try:
            return model.run(columns)
        finally:
            model.close()
    except ModelError as error:
        raise TrainingError(f"model {spec.name} cannot answer: {error}") from error


def _numbers(judged: Scored) -> dict[str, float]:
    found = {name: metrics.value(name, judged) for name in metric_names("forecast")}
    return {name: value for name, value in found.items() if value is not None}


def by_step(judged: Scored) -> dict[str, list[float | None]]:
    """Mean absolute and root mean squared error of each step ahead, over all origins."""
    ahead = range(judged.truth.shape[1])
    each = [replace(judged, truth=judged.truth[:, [h]], score=judged.score[:, [h]]) for h in ahead]
    return {name: [metrics.value(name, one) for one in each] for name in ("mae", "rmse")}


def told(evaluation: Evaluation, case: Case, version: Version) -> Evaluation:
    """The evaluation with the backtest's metrics per fold, and the error per step there and on the holdout.

    They decide nothing: gates do. They are evidence for people.
    """
    if case.task != "forecast":
        return evaluation
    results = [r for entry in enumerate(version.manifest.get("backtest", ()), start=1) for r in _results(*entry)]
    try:
        judged = scored(case.task, case.target, case.truth, case.outputs, case.classes, case.scale)
        results.append(_steps("holdout", len(judged), by_step(judged.take(known_rows(case)))))
    except ValueError:
        pass  # the contract gate says what is wrong with the answers
    return replace(evaluation, results=(*evaluation.results, *results))


def _results(number: int, fold: Mapping[str, Json]) -> list[GateResult]:
    n = fold["origins"]
    detail = f"origins from {fold['train_before']} to {fold['end']}, trained on {fold['train']:,} rows before"
    found = [
        replace(passed(f"backtest.{number}", detail, n=n, metric=name), estimate=value)
        for name, value in fold["metrics"].items()
    ]
    return [*found, _steps(f"backtest.{number}", n, fold["steps"])]


def _steps(where: str, n: int, errors: Mapping[str, list[float | None]]) -> GateResult:
    text = ", ".join("–" if value is None else f"{value:.4g}" for value in errors["mae"])
    known = [value for value in errors["mae"] if value is not None]
    result = passed(f"{where}.steps", f"mae by step: {text}", n=n, metric="mae")
    return replace(result, estimate=float(np.mean(known)) if known else None)
