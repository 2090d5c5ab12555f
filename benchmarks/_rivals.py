"""How each peer is started and asked: the same trees, the equivalent JSON request, one row."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _install, _load, _world
from benchmarks._servers import free_port, started

PROGRAMS = Path(__file__).resolve().parent / "_peers"


@dataclass(frozen=True, slots=True)
class Peer:
    """One other server. `command` gets the interpreter, a folder for its files, and its ports (three)."""

    name: str
    label: str
    command: Callable[[Path, Path, Sequence[int]], list[str]]
    requests: Callable[[], list[bytes]]
    target: float  # Retinue's requests a second over its own, as the design asks
    environment: str = ""  # whose environment it uses, if not one of its own name
    batch: int = 64


def _rows() -> list[bytes]:
    return _world.rows("/predict")


def _inference() -> list[bytes]:
    return _world.rows("/inference")


def _named() -> list[bytes]:
    rng = random.Random(1)
    return [_world.http("/predict", json.dumps({"row": _world.row(rng)}).encode()) for _ in range(256)]


def _mlserver(python: Path, folder: Path, ports: Sequence[int]) -> list[str]:
    settings = {
        "host": "127.0.0.1",
        "http_port": ports[0],
        "grpc_port": ports[1],
        "metrics_port": ports[2],
        "parallel_workers": 0,  # inference in the server's own process: on one core the faster way
        "debug": False,
    }
    model = {
        "name": "trees",
        "implementation": "mlserver_server.Predictor",
        "max_batch_size": 64,
        "max_batch_time": 0.001,
        "platform": "onnx",
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(python.with_name("mlserver")), "start", str(folder)]


def _bentoml(python: Path, folder: Path, ports: Sequence[int]) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(ports[0]), "--working-dir", str(PROGRAMS)]
    return [str(python.with_name("bentoml")), "serve", "bentoml_server:Predictor", *options]


def _script(name: str, *options: str) -> Callable[[Path, Path, Sequence[int]], list[str]]:
    def command(python: Path, folder: Path, ports: Sequence[int]) -> list[str]:
        numbers = [option.format(*ports) for option in options]
        return [str(python), str(PROGRAMS / name), *numbers]

    return command


def _tensors() -> list[bytes]:
    rng = random.Random(1)
    body = [_world.infer(list(_world.row(rng).values()), 1, len(_world.FEATURES)) for _ in range(256)]
    for one in body:
        one["inputs"][0]["datatype"] = "FP32"
    return [_world.http("/v2/models/trees/infer", json.dumps(one).encode()) for one in body]


_MOSEC = _script("mosec_server.py", "--address", "127.0.0.1", "--port", "{0}")

PEERS = (
    Peer("mosec", "Mosec", _MOSEC, _inference, 6),
    Peer("mosec-1", "Mosec, no batching", _MOSEC, _inference, 6, environment="mosec", batch=1),
    Peer("pytriton", "Triton (Python backend)", _script("pytriton_server.py", "{0}", "{1}", "{2}"), _tensors, 15),
    Peer("mlserver", "MLServer", _mlserver, _tensors, 20),
    Peer("litserve", "LitServe", _script("litserve_server.py", "{0}"), _rows, 40),
    Peer("bentoml", "BentoML", _bentoml, _named, 40),
    Peer("ray", "Ray Serve", _script("ray_server.py", "{0}"), _rows, 40),
)


@contextmanager
def serving(peer: Peer, folder: Path, *, install: bool) -> Iterator[_world.Place]:
    """The peer, warm, on the servers' core. Raises PeerMissingError, or RuntimeError when it does not come up."""
    python = _install.python(peer.environment or peer.name, install=install)
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "trees.onnx"
    model.write_bytes(_world.trees())
    ports = [free_port() for _ in range(3)]
    environ = {
        "MODEL": str(model),
        "BATCH": str(peer.batch),
        "PYTHONPATH": str(PROGRAMS),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "BENTOML_DO_NOT_TRACK": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
    }
    with started(peer.command(python, folder, ports), folder / "log", ports[0], environ, folder) as server:
        _answers(ports[0], _load.traffic(peer.requests()), server)
        yield _world.Place(ports[0], tuple(server.pids()), ports[1])


def _answers(port: int, what: _load.Traffic, server: Any) -> None:
    """Until the model answers: a server that accepts may still be loading."""
    ends = time.monotonic() + 90
    while True:
        try:
            _load.load(port, what, connections=1, seconds=0.2, warmup=0.0)
        except (_load.LoadFailedError, OSError) as error:
            if time.monotonic() > ends or server.process.poll() is not None:
                raise RuntimeError(f"it does not answer: {error}\n{server.tail()}") from error
            time.sleep(0.5)
        else:
            return
