"""What a version weighs: measured in a fresh process, near what copies really take, and never a build's failure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from retinue.build.weigher import Weighers
from retinue.control.publish import compile_release
from retinue.core.state import MEMORY_BYTES, Entry, Evidence, Release, Version


def _matrix(rows: int) -> bytes:
    """A graph that holds rows × 1,000 doubles."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["X", "W"], ["P"]), helper.make_node("ReduceSum", ["P"], ["Y"], keepdims=0)],
        "matrix",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor_value_info("Y", TensorProto.DOUBLE, None)],
        [helper.make_tensor("W", TensorProto.DOUBLE, [rows, 1000], [float(n % 97) for n in range(rows * 1000)])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


SIGNATURE: dict[str, Any] = {
    "task": "regression",
    "target": "y",
    "inputs": [{"name": "x", "dtype": "FP64", "nullable": True, "width": 1}],
    "outputs": [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}],
    "onnx": {"inputs": [{"name": "X", "features": ["x"], "dtype": "FP64"}], "outputs": {"y": "Y"}},
}


@pytest.fixture
def weighers(tmp_path: Path) -> Iterator[Weighers]:
    made = Weighers(tmp_path)
    yield made
    made.close()


def test_a_model_weighs_what_it_holds_each_time_alike(weighers: Weighers, tmp_path: Path) -> None:
    found = {}
    for rows in (10, 2000):
        path = tmp_path / f"{rows}.onnx"
        path.write_bytes(_matrix(rows))
        found[rows] = [weighers.weigh(path, "onnx", SIGNATURE) for _ in range(3)]
    small, large = ([size or 0 for size in found[rows]] for rows in (10, 2000))
    assert all(10_000 < size < 2_000_000 for size in small)
    assert all(0.9 * 16e6 < size < 3.5 * 16e6 for size in large)
    assert max(large) - min(large) < 0.2 * max(large)


def test_what_cannot_be_weighed_stays_unmeasured(weighers: Weighers, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nonsense")
    assert weighers.weigh(broken, "onnx", SIGNATURE) is None
    assert weighers.weigh(broken, "skops", SIGNATURE, tmp_path / "no" / "python") is None
    sound = tmp_path / "sound.onnx"
    sound.write_bytes(_matrix(10))
    assert weighers.weigh(sound, "onnx", SIGNATURE)


class _Registry:
    """The two questions that compiling a release asks."""

    def __init__(self, version: Version, evidence: list[Evidence]) -> None:
        self._version, self._evidence = version, evidence

    def versions(self, ids: Any) -> dict[str, Version]:
        return {self._version.id: self._version}

    def evidence(self, ids: Any) -> dict[str, list[Evidence]]:
        return {self._version.id: self._evidence}


def test_a_release_says_what_was_measured_when_the_version_was_built() -> None:
    manifest: dict[str, Any] = {
        "artifact": {"digest": "0" * 64, "format": "onnx", "signature": SIGNATURE},
        "environment": "e",
        "needs": [],
        "family": None,
    }
    version = Version("v1", "p", "m", "d", "s", manifest, "now")
    release = Release("p", "prod", 1, {"m": Entry("v1")}, {}, (), None, "apply", "", "ada", None, "now")
    measured = {"gate": MEMORY_BYTES, "passed": True, "estimate": 250_000.0}
    later = Evidence("v1", {"u": "u2"}, "g", "pass", (), None, "later")
    first = Evidence("v1", {"u": "u1"}, "g", "pass", ({"gate": "roc_auc", "estimate": 0.9}, measured), None, "now")
    weighed: Any = _Registry(version, [later, first])
    assert compile_release(release, weighed).models["m"].memory == 250_000
    unknown: Any = _Registry(version, [later])
    assert compile_release(release, unknown).models["m"].memory == 0


def test_sisters_of_one_kind_and_size_are_weighed_once(weighers: Weighers, tmp_path: Path) -> None:
    python, paths = Path(sys.executable), {}
    for name, rows in {"one": 10, "sister": 10, "large": 2000}.items():
        paths[name] = tmp_path / f"{name}.onnx"
        paths[name].write_bytes(_matrix(rows))
    one = weighers.weigh_like(paths["one"], "onnx", SIGNATURE, python)
    assert weighers.weigh_like(paths["sister"], "onnx", SIGNATURE, python) == one
    large = weighers.weigh_like(paths["large"], "onnx", SIGNATURE, python)
    assert large is not None
    assert large > 0.9 * 16e6
