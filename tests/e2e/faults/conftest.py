"""What fault tests serve: the stage of the serving tests, and a compiled model that kills the process it runs in."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.e2e.serve.conftest import Stage, regression, shared_stage, stage, until
from tests.e2e.serve.test_serve_workers import environment, hosted

from retinue.core.state import ServedModel

__all__ = ["Stage", "deadly", "environment", "hosted", "regression", "shared_stage", "stage", "until"]

LOWEST = -(2**63)


def fatal(at: float) -> bytes:
    """An ONNX graph y = 2x that divides the lowest integer by x - at - 1: by -1 when x is `at`.

    The quotient fits no 64-bit integer. onnxruntime looks for zero divisors but not for this one, and the processor
    answers with SIGFPE: a real model, a real crash.
    """
    whole = TensorProto.INT64
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["X"], ["I"], to=whole),
            helper.make_node("Sub", ["I", "AT"], ["D"]),
            helper.make_node("Div", ["LOWEST", "D"], ["Q"]),
            helper.make_node("Cast", ["Q"], ["F"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["F", "NOTHING"], ["N"]),
            helper.make_node("Mul", ["X", "TWO"], ["T"]),
            helper.make_node("Add", ["T", "N"], ["Y"]),
        ],
        "fatal",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor_value_info("Y", TensorProto.DOUBLE, [None, 1])],
        [
            helper.make_tensor("AT", whole, [1], [int(at) + 1]),
            helper.make_tensor("LOWEST", whole, [1], [LOWEST]),
            helper.make_tensor("NOTHING", TensorProto.DOUBLE, [1], [0.0]),
            helper.make_tensor("TWO", TensorProto.DOUBLE, [1], [2.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def deadly(stage: Stage) -> Any:
    """Makes served models that answer 2x and kill their process when x is `at`."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("only this processor traps when a quotient does not fit")

    def make(name: str, version: str, at: float = 13.0, features: Sequence[str] = ("x",)) -> ServedModel:
        digest = stage.artifacts.put(fatal(at))
        return ServedModel(name, version, digest, "onnx", regression(features, "y"), "none")

    return make


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
