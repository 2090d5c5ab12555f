"""Boosters to ONNX: onnxmltools for XGBoost and LightGBM, CatBoost's own exporter; one float tensor in.

The converters' label is a code; it is replaced by the class itself, so that every compiled model answers alike.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

_OPSET = 15


def convert(model: Any, framework: str, request: dict[str, Any]) -> dict[str, Any]:
    """`data` (bytes) and `onnx` (signature part). Raises whatever the converters raise, ValueError for text."""
    texts = [field["name"] for field in request["inputs"] if field["dtype"] == "BYTES"]
    if texts:
        raise ValueError(f"{framework} has no ONNX form for text categories ({', '.join(texts[:3])})")
    width = len(request["inputs"])
    graph = {"xgboost": _xgboost, "lightgbm": _lightgbm, "catboost": _catboost}[framework](model, width)
    given = [output.name for output in graph.graph.output]
    if request["task"] in ("binary", "multiclass"):
        outputs = {"label": _class_labels(graph, given[-1], request["classes"]), "probability": given[-1]}
    else:
        outputs = {request["target"]: given[0]}
        del graph.graph.output[0].type.tensor_type.shape.dim[:]  # several numbers a row are announced as one
    inputs = [{"name": graph.graph.input[0].name, "features": list(request["features"]), "dtype": "FP32"}]
    return {"data": graph.SerializeToString(deterministic=True), "onnx": {"inputs": inputs, "outputs": outputs}}


def register() -> None:
    """Tell skl2onnx of the wrappers that pipelines may hold, as far as their frameworks are imported."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator as shapes

    kinds = {"options": {"nocl": [True, False], "zipmap": [True, False, "columns"]}}
    if "xgboost" in sys.modules:
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
        from xgboost import XGBClassifier, XGBRegressor

        update_registered_converter(XGBClassifier, "XGBClassifier", shapes.calculate_linear_classifier_output_shapes,
                                    convert_xgboost, **kinds)  # fmt: skip
        update_registered_converter(XGBRegressor, "XGBRegressor", shapes.calculate_linear_regressor_output_shapes,
                                    convert_xgboost)  # fmt: skip
    if "lightgbm" in sys.modules:
        from lightgbm import LGBMClassifier, LGBMRegressor
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        update_registered_converter(LGBMClassifier, "LGBMClassifier", shapes.calculate_linear_classifier_output_shapes,
                                    convert_lightgbm, **kinds)  # fmt: skip
        update_registered_converter(LGBMRegressor, "LGBMRegressor", shapes.calculate_linear_regressor_output_shapes,
                                    convert_lightgbm, options={"split": None})  # fmt: skip


def _tensor(width: int) -> list[tuple[str, Any]]:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [("features", FloatTensorType([None, width]))]


def _xgboost(model: Any, width: int) -> Any:
    import onnxmltools

    native = model.get_booster() if hasattr(model, "get_booster") else model
    best = native.attr("best_iteration") if native is not model else None
    native = native[: int(best) + 1] if best is not None else native.copy()
    native.feature_names = native.feature_types = None  # the converter knows features by number
    return onnxmltools.convert_xgboost(native, "retinue", initial_types=_tensor(width), target_opset=_OPSET)


def _lightgbm(model: Any, width: int) -> Any:
    import lightgbm
    import onnxmltools

    native = lightgbm.Booster(model_str=getattr(model, "booster_", model).model_to_string())  # the best iterations
    return onnxmltools.convert_lightgbm(
        native, "retinue", initial_types=_tensor(width), target_opset=_OPSET, zipmap=False
    )


def _catboost(model: Any, width: int) -> Any:
    import catboost
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model")
        model.save_model(path)
        copy = catboost.CatBoost()
        copy.load_model(path)
        metadata = copy.get_metadata()
        parameters = json.loads(metadata["class_params"]) if "class_params" in metadata else {}
        if parameters.get("class_label_type") == "Boolean":  # which it cannot export
            count = len(parameters["class_names"])
            parameters.update(class_label_type="Integer", class_names=list(range(count)))
            metadata["class_params"] = json.dumps(parameters)
            copy.save_model(path)
            copy.load_model(path)
        copy.save_model(path, format="onnx", export_parameters={"onnx_graph_name": "retinue"})
        graph = onnx.load(path)
    for node in [node for node in graph.graph.node if node.op_type == "ZipMap"]:
        graph.graph.output[-1].CopyFrom(
            onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, [None, None])
        )
        graph.graph.node.remove(node)
    if not any(item.domain in ("", "ai.onnx") for item in graph.opset_import):
        graph.opset_import.append(onnx.helper.make_opsetid("", _OPSET))
    return graph


def _class_labels(graph: Any, probability: str, classes: list[Any]) -> str:
    """Replace the label by the class of the largest probability; gives its name."""
    from onnx import TensorProto, helper

    elements = {bool: TensorProto.BOOL, int: TensorProto.INT64, float: TensorProto.DOUBLE}
    kinds = {type(value) for value in classes}
    element = elements.get(kinds.pop(), TensorProto.STRING) if len(kinds) == 1 else TensorProto.STRING
    values: Any = [str(value).encode() for value in classes] if element == TensorProto.STRING else classes
    graph.graph.initializer.append(helper.make_tensor("classes", element, [len(classes)], values))
    graph.graph.node.extend(
        [
            helper.make_node("ArgMax", [probability], ["class_code"], axis=1, keepdims=0),
            helper.make_node("Gather", ["classes", "class_code"], ["class_label"]),
        ]
    )
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info("class_label", element, [None]))
    return "class_label"
