"""What the benchmarks serve: ONNX tree ensembles made by hand, published as a release without any training."""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks._servers import Server, started

FEATURES = tuple(f"f{n}" for n in range(10))
WIDE = tuple(f"f{n}" for n in range(20))


@cache
def trees(features: int = len(FEATURES), count: int = 100, depth: int = 5, seed: int = 0) -> bytes:
    """A regression ensemble of full random trees over the features, as ONNX: `X` [n, features] to `Y` [n, 1]."""
    from onnx import TensorProto, helper

    rng = random.Random(seed)
    nodes: dict[str, list[Any]] = {
        key: [] for key in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    targets: dict[str, list[Any]] = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    inner = 2**depth - 1
    for tree in range(count):
        for node in range(2 ** (depth + 1) - 1):
            leaf = node >= inner
            row = (tree, node, rng.randrange(features), rng.random(), "LEAF" if leaf else "BRANCH_LEQ")
            for key, value in zip(nodes, (*row, 0 if leaf else 2 * node + 1, 0 if leaf else 2 * node + 2), strict=True):
                nodes[key].append(value)
            if leaf:
                for key, value in zip(targets, (tree, node, 0, rng.random() / count), strict=True):
                    targets[key].append(value)
    attributes: dict[str, Any] = {f"nodes_{key}": values for key, values in nodes.items()}
    attributes |= {f"target_{key}": values for key, values in targets.items()}
    ensemble = helper.make_node("TreeEnsembleRegressor", ["X"], ["Y"], domain="ai.onnx.ml", n_targets=1, **attributes)
    graph = helper.make_graph(
        [ensemble],
        "trees",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def signature(features: tuple[str, ...]) -> dict[str, Any]:
    """How `retinue_worker.runtime` loads `trees`."""
    return {
        "task": "regression",
        "target": "y",
        "inputs": [{"name": name, "dtype": "FP64", "nullable": True, "width": 1} for name in features],
        "outputs": [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}],
        "onnx": {"inputs": [{"name": "X", "features": list(features), "dtype": "FP32"}], "outputs": {"y": "Y"}},
    }


def key(folder: Path) -> bytes:
    """Register one client in the rights file beside the releases in `folder`; returns the header with its key."""
    from retinue.core.access import ClientRecord, new_key
    from retinue.store.accessfile import write_access

    moment = "2026-01-01T00:00:00.000000Z"
    text, recorded = new_key(bytes(range(37)), moment)
    write_access(folder, "bench", [ClientRecord("load", keys=(recorded,), created=moment)])
    return b"authorization: Bearer %s\r\n" % text.encode()


def publish(folder: Path, members: int = 0, **settings: Any) -> Any:
    """One release in `folder`, as `gateway` serves it; returns the settings to serve it with.

    Endpoints: `score` (one model of 10 features), `graph` (a model that needs another one's answer), `wide` (20
    features), and with `members` a family that `many` selects from by the field `segment`.
    """
    from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel, ServedNeed
    from retinue.settings import Settings
    from retinue.store.artifacts import FsspecArtifacts
    from retinue.store.releasefile import point, write_release

    found = Settings(folder, "none", f"file://{folder}/artifacts", port=0, admin_port=0, **settings)
    store = FsspecArtifacts(found.artifacts, found.cache)
    small, wide = store.put(trees()), store.put(trees(len(WIDE)))
    models = {
        "trees": ServedModel("trees", "v1", small, "onnx", signature(FEATURES), "none"),
        "wide": ServedModel("wide", "v1", wide, "onnx", signature(WIDE), "none"),
        "lower": ServedModel(
            "lower",
            "v1",
            small,
            "onnx",
            signature((*FEATURES[:-1], "above")),
            "none",
            needs=(ServedNeed("trees", "y", "above", {}),),
        ),
    }
    endpoints = {name: ServedEndpoint(name, model) for name, model in (("score", "trees"), ("graph", "lower"))}
    endpoints["wide"] = ServedEndpoint("wide", "wide")
    if members:
        endpoints["many"] = ServedEndpoint("many", "member-{segment}")
    for number in range(members):
        name = f"member-s{number}"
        models[name] = ServedModel(name, "v1", small, "onnx", signature(FEATURES), "none", family="member")
    image = ReleaseImage("bench", "prod", 1, models, endpoints)
    write_release(found.releases("bench", "prod"), image)
    point(found.releases("bench", "prod"), 1)
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """A server under load: where it is and whose CPU time is its own."""

    port: int
    pids: tuple[int, ...]
    grpc: int | None = None
    header: bytes = b""  # with the key of a client


@contextmanager
def gateway(folder: Path, environ: Mapping[str, str] | None = None, members: int = 0, **settings: Any) -> Iterator[Any]:
    """Retinue with one gateway process over a published release, as a Place."""
    from retinue.gateway.main import settings_text
    from retinue.gateway.record import read_record

    folder.mkdir(parents=True, exist_ok=True)
    found = publish(folder, members, **settings)
    header = key(found.releases("bench", "prod"))
    driver = (
        "import sys; from retinue.gateway.main import _settings; from retinue.processes.serve import serve; "
        "serve(_settings(sys.argv[1]), 'bench', 'prod')"
    )
    command = [sys.executable, "-c", driver, settings_text(found)]
    with started(command, folder / "serve.log", environ=environ) as server:
        record = _announced(server, lambda: read_record(found.releases("bench", "prod")))
        yield Place(record.port, tuple(record.gateways), getattr(record, "grpc_port", None), header)


@contextmanager
def echo(folder: Path) -> Iterator[Place]:
    """The bare echo on the same loop, as a Place."""
    from benchmarks._servers import free_port

    port = free_port()
    command = [sys.executable, "-m", "benchmarks._echo", str(port)]
    with started(command, folder / "echo.log", port) as server:
        yield Place(port, (server.process.pid,))


@contextmanager
def pair(folder: Path, **settings: Any) -> Iterator[tuple[Place, Place]]:
    """The echo and a gateway."""
    with ExitStack() as stack:
        yield stack.enter_context(echo(folder)), stack.enter_context(gateway(folder / "gateway", **settings))


def _announced(server: Server, read: Any) -> Any:
    import time

    for _ in range(3000):
        if "Serving" in server.tail():
            record = read()
            if record is not None:
                return record
        if server.process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the gateway did not come up:\n{server.tail()}")


def http(path: str, body: bytes, headers: bytes = b"") -> bytes:
    """One POST."""
    return b"POST %s HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s" % (
        path.encode(),
        len(body),
        headers,
        body,
    )


def row(rng: random.Random, features: tuple[str, ...] = FEATURES) -> dict[str, Any]:
    """One row of numbers with four digits."""
    return {name: round(rng.random(), 4) for name in features}


def rows(path: str, count: int = 256, headers: bytes = b"") -> list[bytes]:
    """Requests of one row each through the friendly door."""
    rng = random.Random(1)
    return [http(path, json.dumps(row(rng)).encode(), headers) for _ in range(count)]


def segments(path: str, members: int, headers: bytes = b"") -> list[bytes]:
    """Requests of one row each, one for every member of the family."""
    rng = random.Random(1)
    return [
        http(path, json.dumps({"segment": f"s{number}", **row(rng)}).encode(), headers) for number in range(members)
    ]


def tensors(path: str, count: int = 256, headers: bytes = b"") -> list[bytes]:
    """Open Inference requests of one row, all features packed into one JSON tensor."""
    rng = random.Random(1)
    return [
        http(path, json.dumps(infer(list(row(rng).values()), 1, len(FEATURES))).encode(), headers) for _ in range(count)
    ]


def infer(data: list[float], n: int, k: int) -> dict[str, Any]:
    """An Open Inference request with one packed input."""
    return {"inputs": [{"name": "X", "shape": [n, k], "datatype": "FP64", "data": data}]}


def binary(path: str, n: int, features: tuple[str, ...] = WIDE, headers: bytes = b"") -> bytes:
    """An Open Inference request with n rows in one FP32 tensor behind its JSON, the answer binary too."""
    rng = random.Random(1)
    k = len(features)
    data = struct.pack(f"<{n * k}f", *(rng.random() for _ in range(n * k)))
    head = json.dumps(
        {
            "inputs": [
                {"name": "X", "shape": [n, k], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return http(path, head + data, b"inference-header-content-length: %d\r\n" % len(head) + headers)


def grpc(model: str, header: bytes = b"") -> bytes:
    """One row as an Open Inference gRPC call for `_load.c`: path, metadata and message, by the wire format itself."""
    rng = random.Random(1)
    data = struct.pack("<10f", *row(rng).values())
    tensor = _text(1, b"X") + _text(2, b"FP32") + _text(3, _varint(1) + _varint(10))
    message = _text(1, model.encode()) + _text(5, tensor) + _text(7, data)
    name, _, value = header.strip().partition(b": ")
    extra = name.lower() + b"\0" + value if header else b"\0"
    return b"/inference.GRPCInferenceService/ModelInfer\0" + extra + b"\0" + message


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _text(field: int, value: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value
