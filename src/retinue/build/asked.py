"""What is asked of a trainer, what is said to it of a model, and what is needed to load the artifact that it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retinue.build.environment import Environment
from retinue.core.contract import DType, Field, Label, Task, outputs_of
from retinue.core.portfolio import Limits

Json = Any
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """One training. `tables` and `labels` are Arrow IPC files; what is made goes into `folder` (created)."""

    model: str
    environment: Environment
    bundle: Path  # the unpacked bundle's project folder
    entry: str  # "package.module:function"
    tables: Mapping[str, Path]
    inputs: tuple[Field, ...]  # the features with their types, in order
    target: str
    task: Task
    folder: Path
    params: Mapping[str, Json] = field(default_factory=dict)
    seed: int = 0
    labels: Path | None = None
    limits: Limits = _LIMITS
    compile: Literal["auto", "require", "forbid"] = "auto"
    overlay: Path | None = None  # converters; None: no compilation
    no_overlay: str | None = None  # why there are none, for the record
    quantiles: tuple[float, ...] = ()  # of the task `quantiles`
    targets: tuple[str, ...] = ()  # of the task `forecast`: a column per step
    prepare: Mapping[str, Json] | None = None  # entry, folder and files of the function over the features


def wide_of(request: TrainRequest) -> dict[str, Json]:
    """What the columns of a wide output are: only in the requests and signatures of tasks that have one."""
    if request.targets:
        return {"steps": list(request.targets)}
    return {"quantiles": list(request.quantiles)} if request.quantiles else {}


def field_json(item: Field) -> dict[str, Json]:
    """An input or output as signatures name it."""
    return {"name": item.name, "dtype": item.dtype, "nullable": item.nullable, "width": item.width}


def signature_of(request: TrainRequest, result: Mapping[str, Json]) -> dict[str, Json]:
    """What `retinue_worker.runtime.load` needs beside the artifact."""
    classes = result["classes"]
    width = len(classes or request.quantiles or request.targets)
    outputs = outputs_of(request.task, request.target, _label_dtype(classes), width)
    return {
        "task": request.task,
        "target": request.target,
        "classes": classes,
        "inputs": [field_json(item) for item in request.inputs],
        "outputs": [field_json(item) for item in outputs],
        "container": result["container"],
        "trusted": result["trusted"],
        "onnx": result["onnx"],
        **wide_of(request),
    }


def _label_dtype(classes: Sequence[Label] | None) -> DType:
    kinds = {type(value) for value in classes or ()}
    for kind, dtype in ((bool, "BOOL"), (int, "INT64"), (float, "FP64")):
        if kinds <= {kind}:
            return dtype  # type: ignore[return-value]  # literals in a tuple widen to str
    return "BYTES"
