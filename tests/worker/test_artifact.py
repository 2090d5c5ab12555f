"""What training returned: an ONNX model is kept as it is when its names fit."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.helper as oh
import pytest

from retinue_worker.artifact import NonsenseError, keep

REQUEST = {"task": "regression", "target": "minutes", "features": ["a", "b"]}


def _graph(inputs: dict[str, int], output: str = "minutes") -> Any:
    shape: list[str | int | None] = ["n", 1]
    nodes = [oh.make_node("Identity", [next(iter(inputs))], [output])]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info(name, kind, shape) for name, kind in inputs.items()],
        [oh.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)],
    )
    return oh.make_model(graph)


def test_one_input_per_feature_or_one_for_all_are_mapped() -> None:
    kept = keep(_graph({"b": onnx.TensorProto.FLOAT, "a": onnx.TensorProto.INT64}), REQUEST)
    assert kept["format"] == "onnx"
    assert [(item["features"], item["dtype"]) for item in kept["onnx"]["inputs"]] == [(["b"], "FP32"), (["a"], "INT64")]
    assert kept["onnx"]["outputs"] == {"minutes": "minutes"}
    packed = keep(_graph({"x": onnx.TensorProto.DOUBLE}), REQUEST)
    assert packed["onnx"]["inputs"] == [{"name": "x", "features": ["a", "b"], "dtype": "FP64"}]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_graph({"a": 1, "z": 1}), "takes a, z, but the features are a, b"),
        (_graph({"a": 1, "b": 1}, "other"), "gives other, but minutes is wanted"),
        (_graph({"a": 1, "b": 5}), "'b' of the ONNX model is not"),
    ],
)
def test_names_and_types_that_do_not_fit_are_refused_with_what_would(model: Any, words: str) -> None:
    with pytest.raises(NonsenseError, match=words) as refused:
        keep(model, REQUEST)
    assert refused.value.hint
