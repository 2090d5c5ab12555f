"""What is said of a model to a trainer, and what is needed to load the artifact that it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retinue.core.contract import DType, Field, Label, outputs_of

if TYPE_CHECKING:
    from retinue.build.train import TrainRequest

Json = Any


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
