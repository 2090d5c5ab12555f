"""One running server, and every client at once against it, each in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.e2e.serve.conftest import Running, Stage, opened

from retinue.core.state import ServedEndpoint, ServedModel

HERE = Path(__file__).parent
PROGRAMS = {
    "triton_http": "triton",
    "triton_http_aio": "triton",
    "triton_grpc": "triton",
    "triton_grpc_aio": "triton",
    "kserve_rest": "kserve",
    "kserve_grpc": "kserve",
    "mlserver_infer": "mlserver",
}
"""Program → the requirements it runs with."""

CLASSES = ["ash", "birch", "cedar"]


def environment(name: str) -> Path:
    """The Python of that client's environment, made from its lock when it is not there yet."""
    lock = HERE / "requirements" / f"{name}.txt"
    folder = HERE / ".cache" / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([str(uv), "venv", "-q", "--clear", "--python", "3.11", str(folder)], check=True)
        install = [str(uv), "pip", "sync", "-q", "--python", str(python), "--require-hashes", str(lock)]
        subprocess.run(install, check=True, timeout=280)
        (folder / "ready").touch()
    return python


def trees(stage: Stage) -> ServedModel:
    """A classifier of all four types: score = number + count + flag + (text is "b"), times 0, 1, 2 for its classes."""
    nodes = [
        helper.make_node("Cast", ["count"], ["c"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["flag"], ["f"], to=TensorProto.DOUBLE),
        helper.make_node("Equal", ["text", "B"], ["same"]),
        helper.make_node("Cast", ["same"], ["t"], to=TensorProto.DOUBLE),
        helper.make_node("Sum", ["number", "c", "f", "t"], ["score"]),
        helper.make_node("MatMul", ["score", "W"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["names", "best"], ["label"]),
    ]
    texts: Any = (["b"], CLASSES)  # the function takes text, its types do not say so
    kinds = {
        "number": TensorProto.DOUBLE,
        "count": TensorProto.INT64,
        "flag": TensorProto.BOOL,
        "text": TensorProto.STRING,
    }
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info(name, kind, [None, 1]) for name, kind in kinds.items()],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, [None]),
            helper.make_tensor_value_info("probability", TensorProto.DOUBLE, [None, 3]),
        ],
        [
            helper.make_tensor("W", TensorProto.DOUBLE, [1, 3], [0.0, 1.0, 2.0]),
            helper.make_tensor("B", TensorProto.STRING, [1], texts[0]),
            helper.make_tensor("names", TensorProto.STRING, [3], texts[1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    dtypes = {"number": "FP64", "count": "INT64", "flag": "BOOL", "text": "BYTES"}
    signature = {
        "task": "multiclass",
        "target": "tree",
        "classes": CLASSES,
        "inputs": [{"name": n, "dtype": d, "nullable": False, "width": 1} for n, d in dtypes.items()],
        "outputs": [
            {"name": "label", "dtype": "BYTES", "nullable": False, "width": 1},
            {"name": "probability", "dtype": "FP64", "nullable": False, "width": 3},
        ],
        "container": "array",
        "trusted": [],
        "onnx": {
            "inputs": [{"name": n, "features": [n], "dtype": d} for n, d in dtypes.items()],
            "outputs": {"label": "label", "probability": "probability"},
        },
    }
    digest = stage.artifacts.put(model.SerializeToString())
    return ServedModel("trees", "trees-v1", digest, "onnx", signature, "none")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose release has a regression, a classifier, an endpoint over members, and a model that is broken."""
    with opened(tmp_path_factory.mktemp("clients")) as stage:
        broken = ServedModel(
            "broken", "b1", stage.artifacts.put(b"no model"), "onnx", stage.model("x", "x", ("a",)).signature, "none"
        )
        models = [
            stage.model("line", "line-v1", ("a", "b"), (1.0, 10.0)),
            stage.model("one", "one-v1", ("a",), (2.0,)),
            stage.model("late-JFK", "j1", ("a",), (3.0,)),
            trees(stage),
            broken,
        ]
        stage.publish(7, models, {"late": ServedEndpoint("late", "late-{origin}")})
        yield stage.start(grpc_port=0, repository_control=True, gateways=2)


@pytest.fixture(scope="session")
def said(server: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Program → check → what it said; None where all was well."""
    pythons = {name: environment(name) for name in sorted(set(PROGRAMS.values()))}
    address = f"{server.record.host}:{server.record.port}"
    door = f"{server.record.host}:{server.record.grpc_port}"
    running = {
        name: subprocess.Popen(
            [pythons[kind], HERE / "programs" / f"{name}.py", address, door],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path_factory.mktemp(name),
            env={
                **os.environ,
                "PYTHONPATH": "",
                "PYTHONWARNINGS": "ignore",
                "PATH": f"{pythons[kind].parent}:/bin:/usr/bin",
            },
        )
        for name, kind in PROGRAMS.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for name, process in running.items():
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += "\nit did not end in time"
        lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"check"')]
        found[name] = {line["check"]: line["error"] for line in lines}
        found[name].setdefault("", f"it did not get so far: {err[-3000:]}")
    return found
