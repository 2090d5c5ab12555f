"""Builds of models that come from outside: the artifact takes the place of what a training would have given.

With data everything else is as for a trained model. Without, what will serve is tested on rows made from the declared
types and on the user's examples: no metric can be told then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retinue.build.asked import TrainRequest, signature_of
from retinue.build.columns import Columns, from_columns
from retinue.build.contract import Subject, contract_results, example_results
from retinue.build.dataset import DataSet
from retinue.build.evaluate import Evaluation
from retinue.build.train import Compiled, Trainers, TrainResult
from retinue.core.contract import NUMERIC, Field, Schema
from retinue.core.errors import TrainingError
from retinue.core.gates import failed, passed, total
from retinue.core.portfolio import ModelSpec
from retinue.core.state import Version
from retinue_worker.exchange import read_table

Json = Any
_KINDS = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(int64)": "INT64",
    "tensor(string)": "BYTES",
    "tensor(bool)": "BOOL",
}
_MADE: Mapping[str, Sequence[Any]] = {
    "FP64": (0.0, 1.0, -1.0, 0.5),
    "INT64": (0, 1, -1, 2),
    "BOOL": (False, True, False, True),
    "BYTES": ("", "a", "b", "a"),
}


# ------------------------------------------------------------------------------------------------------------ adopting
@dataclass(frozen=True, slots=True)
class Declared:
    """What is declared of a model that a graph must fit."""

    model: str
    features: tuple[str, ...]
    task: str
    target: str


def adopt(
    path: Path, trainers: Trainers, request: TrainRequest, spec: ModelSpec, artifact: Mapping[str, Json]
) -> TrainResult:
    """What a training would have given, from the artifact of a definition. Raises TrainingError when it does not fit.

    `path`: the artifact's file. `request` says what is declared of the model; its entry is not called.
    """
    classes = list(spec.classes) or None
    if spec.task not in NUMERIC and classes is None:
        classes = _classes_seen(request)
    log = request.folder / "train.log"
    log.write_text(f"{spec.artifact}: {artifact['format']}, sha256 {artifact['digest']}\n")
    compiled: Compiled | None = None
    reason: str | None = None
    if artifact["format"] == "onnx":
        features = tuple(field.name for field in request.inputs)
        told = told_by_onnx(path, Declared(spec.name, features, request.task, request.target), classes)
    else:
        told = trainers.adopt(request, (path, artifact["format"]), classes, log)
        if spec.classes and told["classes"] != list(spec.classes):
            raise TrainingError(
                f"{spec.name} declares the classes {list(spec.classes)}, the artifact knows {told['classes']}",
                where=str(spec.where),
                hint="Declare them in the model's own order.",
            )
    result = TrainResult(
        request=request,
        artifact=path,
        format=artifact["format"],
        signature=signature_of(request, told),
        digest=artifact["digest"],
        compiled=None,
        compile_reason=None,
        seconds=0.0,
        conversion_seconds=0.0,
        logged={},
        log=log,
        files=request.folder / "files",
    )
    if artifact["format"] == "onnx":
        return result
    if not spec.data:
        reason = "there is no data to prove a conversion on"
    elif spec.compile == "forbid":
        reason = "compilation is forbidden in the portfolio"
    else:
        compiled, reason = trainers.convert(result, 0)
    return TrainResult(
        **{name: getattr(result, name) for name in result.__slots__ if name not in ("compiled", "compile_reason")},
        compiled=compiled,
        compile_reason=reason,
    )


def _classes_seen(request: TrainRequest) -> list[Json]:
    """The distinct targets of the rows, sorted: an ONNX model does not tell its classes."""
    table = read_table(str(next(iter(request.tables.values()))))
    return sorted(value for value in set(table.column(request.target).to_pylist()) if value is not None)


def told_by_onnx(path: Path, declared: Declared, classes: list[Json] | None) -> dict[str, Json]:
    """What a graph says of itself, matched with what is declared. Raises TrainingError."""
    import onnxruntime

    model = declared.model
    try:  # from bytes: a graph that needs files beside itself would not be there later
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    except Exception as error:
        line = (str(error).strip().splitlines() or ["nothing said"])[0]
        raise TrainingError(
            f"{model}: the artifact is no ONNX model that onnxruntime loads: {line[:300]}",
            hint="Export it as one file (no external data), for an operator set that onnxruntime knows.",
        ) from error
    inputs = [(item.name, _KINDS.get(item.type, item.type)) for item in session.get_inputs()]
    outputs = {item.name: item.type for item in session.get_outputs()}
    return {
        "classes": classes,
        "container": "array",
        "trusted": [],
        "onnx": {
            "inputs": _feeders(model, inputs, declared.features),
            "outputs": _outputs(model, outputs, declared),
        },
    }


def _feeders(model: str, inputs: Sequence[tuple[str, str]], features: Sequence[str]) -> list[dict[str, Json]]:
    names = [name for name, _ in inputs]
    odd = [(name, kind) for name, kind in inputs if kind not in _KINDS.values()]
    if odd:
        raise TrainingError(
            f"{model}: input {odd[0][0]!r} of the graph is {odd[0][1]}",
            hint="Cast it in the graph to float, double, int64, bool or string.",
        )
    if sorted(names) == sorted(features):
        return [{"name": name, "features": [name], "dtype": kind} for name, kind in inputs]
    if len(names) == 1:
        return [{"name": names[0], "features": list(features), "dtype": inputs[0][1]}]
    raise TrainingError(
        f"{model}: the graph takes {', '.join(names)}, but the features are {', '.join(features)}",
        hint="Name the features as the graph's inputs, or export it with one input [n, k] for all in order.",
    )


def _outputs(model: str, outputs: Mapping[str, str], declared: Declared) -> dict[str, str]:
    """Contract name → the graph's own: by name, else where only one output can be meant."""
    target = declared.target
    floats = [name for name, kind in outputs.items() if kind in ("tensor(float)", "tensor(double)")]
    if declared.task in NUMERIC:
        if target in outputs:
            return {target: target}
        if len(floats) == 1:
            return {target: floats[0]}
    elif {"label", "probability"} <= set(outputs):
        return {"label": "label", "probability": "probability"}
    else:
        labels = [name for name, kind in outputs.items() if kind in ("tensor(int64)", "tensor(string)", "tensor(bool)")]
        if len(floats) == len(labels) == 1:
            return {"label": labels[0], "probability": floats[0]}
    wanted = [target] if declared.task in NUMERIC else ["label", "probability"]
    zipmap = " skl2onnx: convert with options={'zipmap': False}." if any("map" in k for k in outputs.values()) else ""
    given = ", ".join(f"{name} {kind}" for name, kind in outputs.items())
    raise TrainingError(
        f"{model}: the graph gives {given}; {' and '.join(wanted)} cannot be told among them",
        hint=f"Rename the graph's outputs to {' and '.join(wanted)}.{zipmap}",
    )


# --------------------------------------------------------------------------------------------------------- without data
def made_data(spec: ModelSpec) -> DataSet:
    """Stands for the data of a model that has none: no rows to train on, made rows where a holdout would be."""
    types = dict(spec.types)
    made = {name: _column(types[name], _MADE[types[name]]) for name in spec.features}
    holdout = from_columns(made, types)
    return DataSet("", None, None, {"": holdout.slice(0, 0)}, holdout, {})


def _column(dtype: str, values: Sequence[Any]) -> Any:
    kinds: dict[str, Any] = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": object}
    return np.array(list(values), dtype=kinds[dtype])


def evaluate_made(
    spec: ModelSpec, version: Version, columns: Columns, answers: Callable[[Version, Columns], Columns]
) -> Evaluation:
    """Contract, examples and size: all that can be judged without data."""
    artifact = version.manifest["artifact"]
    signature, size = artifact["signature"], artifact["size"]
    classes = tuple(signature["classes"]) if signature["classes"] is not None else None
    inputs, outputs = (
        tuple(Field(f["name"], f["dtype"], f["nullable"], f["width"]) for f in signature[part])
        for part in ("inputs", "outputs")
    )
    subject = Subject(lambda batch: answers(version, batch), Schema(inputs, outputs), spec.task, classes, columns)
    results = [
        *contract_results(subject, np.random.default_rng(0)),
        *example_results(subject, spec.gates.examples),
    ]
    allowed = spec.gates.size
    if allowed is not None:
        detail = f"{size:,} of {allowed:,} bytes"
        results.append(passed("size", detail) if size <= allowed else failed("size", detail))
    return Evaluation(tuple(results), total(results), {})
