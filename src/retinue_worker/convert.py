"""Models to ONNX: scikit-learn through skl2onnx, several ways of typing the inputs tried in turn; boosters in one.

A way that converts may still not load in onnxruntime or answer wrongly; the platform, which has onnxruntime,
proves each one and asks for the next.
"""

from __future__ import annotations

import sys
from typing import Any

from retinue_worker import booster_convert, boosters


class ConversionError(Exception):
    """No way is left. The text says what the last converters said."""


def convert(model: Any, request: dict[str, Any], container: str, start: int = 0) -> dict[str, Any]:
    """The first way from number `start` on that converts: `data` (bytes), `onnx` (signature part), `way` (number).

    Raises ConversionError.
    """
    framework = boosters.framework_of(model)
    ways: list[Any] = _ways(model, request["inputs"]) if framework is None else [framework]
    reason = "no other way is left to try"
    for way in range(start, len(ways)):
        try:
            if framework is not None:
                return {**booster_convert.convert(model, framework, request), "way": way}
            return {**_attempt(model, request, container, ways[way]), "way": way}
        except Exception as error:  # noqa: BLE001  converters raise all sorts of errors for what they do not know
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = f"{type(error).__name__}: {' '.join(lines)[:300]}"
    raise ConversionError(reason)


def _ways(model: Any, inputs: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """(type of real numbers, whether whole numbers and booleans keep their type), the most promising first.

    Doubles are exact, but onnxruntime has no double kernel for imputers and for HistGradientBoosting. Whole
    numbers as such cannot be missing, so they are only tried where the contract says that none is.
    """
    parts = [model, *getattr(model, "get_params", dict)().values()]
    kinds = {type(part).__name__ for part in parts}
    single = any(kind.startswith("HistGradientBoosting") or kind == "SimpleImputer" for kind in kinds)
    reals = ["FP32", "FP64"] if single else ["FP64", "FP32"]
    whole = [item for item in inputs if item["dtype"] in ("INT64", "BOOL")]
    strict = [False, True] if whole and not any(item["nullable"] for item in whole) else [False]
    return [(real, keep) for real in reals for keep in strict]


def _attempt(model: Any, request: dict[str, Any], container: str, way: tuple[str, bool]) -> dict[str, Any]:
    from skl2onnx import convert_sklearn
    from skl2onnx.common import data_types

    if any(name in sys.modules for name in ("xgboost", "lightgbm")):
        booster_convert.register()
    makers = {
        "FP32": data_types.FloatTensorType,
        "FP64": data_types.DoubleTensorType,
        "INT64": data_types.Int64TensorType,
        "BOOL": data_types.BooleanTensorType,
        "BYTES": data_types.StringTensorType,
    }
    real, strict = way
    inputs = []
    for field in request["inputs"]:
        exact = field["dtype"] == "BYTES" or (strict and field["dtype"] != "FP64")
        inputs.append({"name": field["name"], "features": [field["name"]], "dtype": field["dtype"] if exact else real})
    if container == "array" or not _takes_columns(model):
        kinds = {item["dtype"] for item in inputs}
        if len(kinds) > 1:
            raise ValueError(
                f"one tensor cannot hold {' and '.join(sorted(kinds))}; use a ColumnTransformer on a DataFrame"
            )
        inputs = [{"name": "features", "features": [item["name"] for item in inputs], "dtype": kinds.pop()}]
    task = request["task"]
    graph = convert_sklearn(
        model,
        "retinue",  # the default is a new UUID each time
        [(item["name"], makers[item["dtype"]]([None, len(item["features"])])) for item in inputs],
        options=None if task in ("regression", "quantiles", "forecast") else {"zipmap": False},
    )
    given = [output.name for output in graph.graph.output]
    wanted = [request["target"]] if task in ("regression", "quantiles", "forecast") else ["label", "probability"]
    outputs = {name: given[index] for index, name in enumerate(wanted)}
    # the converter may spell names its own way, in the order that was given
    for index, item in enumerate(graph.graph.input):
        inputs[index]["name"] = item.name
    return {"data": graph.SerializeToString(deterministic=True), "onnx": {"inputs": inputs, "outputs": outputs}}


def _takes_columns(model: Any) -> bool:
    """Whether columns are picked by name at the door: otherwise several inputs would silently be taken for one."""
    while True:
        kind = type(model).__name__
        if kind == "ColumnTransformer":
            return True
        if kind == "Pipeline":
            model = model.steps[0][1]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            return False
