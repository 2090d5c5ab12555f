"""The runtime: columns in, contract outputs out, whatever names, shapes and types the graph has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from retinue_worker import runtime


def _field(name: str, dtype: str = "FP64", width: int = 1) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "nullable": True, "width": width}


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], initial: list[Any]) -> str:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initial)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return str(path)


def _classifier(path: Path, classes: int = 2) -> str:
    """Label = argmax and probabilities = softmax of x times fixed weights; text comes in and goes nowhere."""
    weights = helper.make_tensor("W", TensorProto.FLOAT, [2, classes], [float(n) for n in range(2 * classes)])
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["S"]),
        helper.make_node("Softmax", ["S"], ["P"], axis=1),
        helper.make_node("ArgMax", ["S"], ["L"], axis=1, keepdims=0),
        helper.make_node("Identity", ["T"], ["U"]),
    ]
    inputs = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2]),
        helper.make_tensor_value_info("T", TensorProto.STRING, [None, 1]),
    ]
    outputs = [
        helper.make_tensor_value_info("L", TensorProto.INT64, [None]),
        helper.make_tensor_value_info("P", TensorProto.FLOAT, [None, classes]),
        helper.make_tensor_value_info("U", TensorProto.STRING, [None, 1]),
    ]
    return _save(path, nodes, inputs, outputs, [weights])


def _signature(classes: int = 2) -> dict[str, Any]:
    width = 1 if classes == 2 else classes
    label = _field("label", "BOOL" if classes == 2 else "INT64")
    return {
        "task": "binary" if classes == 2 else "multiclass",
        "target": "late",
        "classes": [False, True] if classes == 2 else list(range(classes)),
        "inputs": [_field("a"), _field("n", "INT64"), _field("t", "BYTES")],
        "outputs": [label, _field("probability", width=width)],
        "container": "dataframe",
        "trusted": [],
        "onnx": {
            "inputs": [
                {"name": "X", "features": ["a", "n"], "dtype": "FP32"},
                {"name": "T", "features": ["t"], "dtype": "BYTES"},
            ],
            "outputs": {"label": "L", "probability": "P"},
        },
    }


def _columns() -> dict[str, Any]:
    return {
        "a": np.array([1.0, 0.5, -3.0]),
        "n": np.array([1, 2, -3]),
        "t": np.array(["x", None, ""], dtype=object),
    }


def test_a_compiled_binary_classifier_gives_labels_and_one_probability(tmp_path: Path) -> None:
    model = runtime.load(_classifier(tmp_path / "m"), "onnx", _signature())
    outputs = model.run(_columns())
    assert outputs["label"].dtype == np.bool_
    assert outputs["label"].tolist() == [True, True, False]
    assert outputs["probability"].dtype == np.float64
    assert outputs["probability"].shape == (3,)
    assert ((outputs["probability"] > 0.5) == outputs["label"]).all()
    model.close()
    with pytest.raises(runtime.ModelError, match="closed"):
        model.run(_columns())


def test_many_classes_keep_one_probability_each(tmp_path: Path) -> None:
    outputs = runtime.load(_classifier(tmp_path / "m", 3), "onnx", _signature(3)).run(_columns())
    assert outputs["label"].dtype == np.int64
    assert outputs["probability"].shape == (3, 3)
    assert np.allclose(outputs["probability"].sum(axis=1), 1, atol=1e-6)


def test_a_batch_answers_as_its_rows_do_one_by_one(tmp_path: Path) -> None:
    model = runtime.load(_classifier(tmp_path / "m"), "onnx", _signature())
    columns = _columns()
    together = model.run(columns)
    for row in range(3):
        alone = model.run({name: array[row : row + 1] for name, array in columns.items()})
        assert all(alone[name][0] == together[name][row] for name in together)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    path = _classifier(tmp_path / "m")
    wrong = _signature()
    wrong["onnx"]["inputs"][0]["name"] = "Z"
    with pytest.raises(runtime.ModelError, match="no input 'Z'; it has X, T"):
        runtime.load(path, "onnx", wrong)
    wrong = _signature()
    wrong["onnx"]["outputs"]["label"] = "Q"
    with pytest.raises(runtime.ModelError, match="no output 'Q'"):
        runtime.load(path, "onnx", wrong)
    with pytest.raises(runtime.ModelError, match="no `onnx` part"):
        runtime.load(path, "onnx", {**_signature(), "onnx": None})
    with pytest.raises(runtime.ModelError, match="unknown format 'pickle'"):
        runtime.load(path, "pickle", _signature())
    (tmp_path / "bad").write_bytes(b"not a model")
    with pytest.raises(runtime.ModelError, match="cannot load onnx model"):
        runtime.load(str(tmp_path / "bad"), "onnx", _signature())
    wrong = _signature(3)
    with pytest.raises(runtime.ModelError, match=r"'probability' has shape \[3, 2\], not \[3, 3\]"):
        runtime.load(path, "onnx", wrong).run(_columns())


def test_a_missing_integer_is_refused_by_a_graph_that_takes_integers(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["N"], ["Y"], to=TensorProto.DOUBLE)]
    inputs = [helper.make_tensor_value_info("N", TensorProto.INT64, [None, 1])]
    outputs = [helper.make_tensor_value_info("Y", TensorProto.DOUBLE, [None, 1])]
    signature = {
        "task": "regression",
        "target": "y",
        "inputs": [_field("n", "INT64")],
        "outputs": [_field("y")],
        "onnx": {"inputs": [{"name": "N", "features": ["n"], "dtype": "INT64"}], "outputs": {"y": "Y"}},
    }
    model = runtime.load(_save(tmp_path / "m", nodes, inputs, outputs, []), "onnx", signature)
    assert model.run({"n": np.array([4, 5])})["y"].tolist() == [4.0, 5.0]
    assert model.run(runtime.example(signature, 2))["y"].tolist() == [0.0, 0.0]
    with pytest.raises(runtime.ModelError, match="n is missing"):
        model.run({"n": np.array([4.0, np.nan])})


def test_a_frame_for_scikit_learn_has_the_types_that_arrow_gave_in_training() -> None:
    import pyarrow

    inputs = [_field("x"), _field("n", "INT64"), _field("b", "BOOL"), _field("t", "BYTES")]
    columns = {
        "x": np.array([1.0, np.nan]),
        "n": np.array([1.0, np.nan]),
        "b": np.array([1.0, np.nan]),
        "t": np.array(["a", None], dtype=object),
    }
    table = pyarrow.table({"x": [1.0, None], "n": [1, None], "b": [True, None], "t": ["a", None]})
    frame, trained = runtime._dataframe(columns, inputs), table.to_pandas()
    assert frame.dtypes.to_dict() == trained.dtypes.to_dict()
    assert frame.equals(trained)
    whole = {name: array[:1] for name, array in columns.items()} | {"n": np.array([1]), "b": np.array([True])}
    assert runtime._dataframe(whole, inputs).dtypes.to_dict() == table.slice(0, 1).to_pandas().dtypes.to_dict()
