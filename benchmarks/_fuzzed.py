"""What the fuzzers ask: a release of small models of all kinds of inputs, published without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.soak import linear


def publish(folder: Path, **settings: Any) -> Any:
    """Release 1 of portfolio `fuzz` in `folder`; returns the settings to serve it with.

    Models: `two` (y = 2x), `wide` (the sum of five numbers), `word` (text, a whole number and a truth value; gives the
    text and the number back). Endpoint `pick` selects between two members by `k` and falls back on `two`.
    """
    from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel
    from retinue.settings import Settings
    from retinue.store.artifacts import FsspecArtifacts
    from retinue.store.releasefile import point, write_release

    found = Settings(folder, "none", f"file://{folder}/artifacts", port=0, admin_port=0, **settings)
    store = FsspecArtifacts(found.artifacts, found.cache)
    two, wide, word = (store.put(data) for data in (linear(1, [2.0], 0.0), linear(5, [1.0] * 5, 0.0), _word()))
    numbers = [_field(f"f{n}", "FP64") for n in range(5)]
    x = [_field("x", "FP64")]
    models = {
        "two": ServedModel("two", "v1", two, "onnx", _regression(x), "none"),
        "pick-a": ServedModel("pick-a", "v1", two, "onnx", _regression(x), "none", family="pick"),
        "pick-b": ServedModel("pick-b", "v1", two, "onnx", _regression(x), "none", family="pick"),
        "wide": ServedModel("wide", "v1", wide, "onnx", _regression(numbers), "none"),
        "word": ServedModel("word", "v1", word, "onnx", _word_signature(), "none"),
    }
    endpoints = {name: ServedEndpoint(name, name) for name in ("two", "wide", "word")}
    endpoints["pick"] = ServedEndpoint("pick", "pick-{k}", "two")
    image = ReleaseImage("fuzz", "prod", 1, models, endpoints)
    write_release(found.releases("fuzz", "prod"), image)
    point(found.releases("fuzz", "prod"), 1)
    return found


def _field(name: str, dtype: str, nullable: bool = True) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "nullable": nullable, "width": 1}


def _regression(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    features = [field["name"] for field in inputs]
    return {
        "task": "regression",
        "target": "y",
        "inputs": inputs,
        "outputs": [_field("y", "FP64", nullable=False)],
        "onnx": {"inputs": [{"name": "X", "features": features, "dtype": "FP64"}], "outputs": {"y": "Y"}},
    }


def _word_signature() -> dict[str, Any]:
    inputs = [_field("text", "BYTES"), _field("count", "INT64", nullable=False), _field("flag", "BOOL", nullable=False)]
    entries = [{"name": f["name"], "features": [f["name"]], "dtype": f["dtype"]} for f in inputs]
    return {
        "task": "other",
        "target": "echo",
        "inputs": inputs,
        "outputs": [_field("echo", "BYTES", nullable=False), _field("number", "INT64", nullable=False)],
        "onnx": {"inputs": entries, "outputs": {"echo": "E", "number": "N"}},
    }


def _word() -> bytes:
    """An ONNX graph that gives its text back, and its number where the truth value is true, else 0."""
    from onnx import TensorProto, helper

    kinds = {"text": TensorProto.STRING, "count": TensorProto.INT64, "flag": TensorProto.BOOL}
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["text"], ["E"]),
            helper.make_node("Where", ["flag", "count", "ZERO"], ["N"]),
        ],
        "word",
        [helper.make_tensor_value_info(name, kind, [None, 1]) for name, kind in kinds.items()],
        [
            helper.make_tensor_value_info("E", TensorProto.STRING, [None, 1]),
            helper.make_tensor_value_info("N", TensorProto.INT64, [None, 1]),
        ],
        [helper.make_tensor("ZERO", TensorProto.INT64, [1], [0])],
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
