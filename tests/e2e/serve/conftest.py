"""A stage to serve: small real ONNX models, real release files and artifacts, a real supervisor with its gateways."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from onnx import TensorProto, helper

from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel, ServedNeed
from retinue.gateway.main import settings_text
from retinue.gateway.record import ServeRecord, read_record
from retinue.settings import Settings
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.releasefile import point, write_release

_DRIVER = """
import sys
from retinue.core.errors import RetinueError
from retinue.gateway.main import _settings
from retinue.processes.serve import serve
try:
    sys.exit(serve(_settings(sys.argv[1]), "shop", "prod"))
except RetinueError as error:
    sys.stderr.write(f"{error}\\nhint: {error.hint}\\n")
    sys.exit(1)
"""


def linear(slopes: Sequence[float], offset: float) -> bytes:
    """An ONNX graph y = x · slopes + offset over a packed float64 input [n, k]."""
    width = len(slopes)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["P"]), helper.make_node("Add", ["P", "B"], ["Y"])],
        "linear",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor_value_info("Y", TensorProto.DOUBLE, [None, 1])],
        [
            helper.make_tensor("W", TensorProto.DOUBLE, [width, 1], list(slopes)),
            helper.make_tensor("B", TensorProto.DOUBLE, [1], [offset]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def regression(features: Sequence[str], target: str, **more: Any) -> dict[str, Any]:
    """The signature of a regression over FP64 features, packed into one ONNX input."""
    return {
        "task": "regression",
        "target": target,
        "classes": None,
        "inputs": [{"name": name, "dtype": "FP64", "nullable": True, "width": 1} for name in features],
        "outputs": [{"name": target, "dtype": "FP64", "nullable": False, "width": 1}],
        "container": "array",
        "trusted": [],
        "onnx": {"inputs": [{"name": "X", "features": list(features), "dtype": "FP64"}], "outputs": {target: "Y"}},
        **more,
    }


@dataclass
class Running:
    """A supervisor that serves."""

    process: subprocess.Popen[str]
    record: ServeRecord
    line: str

    @property
    def url(self) -> str:
        return self.record.url

    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = httpx.get(f"{self.record.admin_url}/status", timeout=10).json()
        return body

    def wait(self, number: int, seconds: float = 20) -> None:
        """Until that release is served."""
        until(lambda: self.status()["release"] == number, seconds, f"release {number}")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def until(true: Any, seconds: float, what: str) -> None:
    """Wait for something that must come true; the limit only ends a test that has failed."""
    ends = time.monotonic() + seconds
    while not true():
        if time.monotonic() > ends:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)


@dataclass
class Stage:
    """A folder with releases of portfolio `shop`, stage `prod`, and what it takes to serve it."""

    settings: Settings
    running: list[Running] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.settings.releases("shop", "prod")

    @property
    def artifacts(self) -> FsspecArtifacts:
        return FsspecArtifacts(self.settings.artifacts, self.settings.cache / "artifacts")

    def model(
        self,
        name: str,
        version: str,
        features: Sequence[str] = ("x",),
        slopes: Sequence[float] = (1.0,),
        offset: float = 0.0,
        target: str = "y",
        needs: tuple[ServedNeed, ...] = (),
    ) -> ServedModel:
        digest = self.artifacts.put(linear(slopes, offset))
        return ServedModel(name, version, digest, "onnx", regression(features, target), "none", needs)

    def publish(
        self, number: int, models: Sequence[ServedModel], endpoints: Mapping[str, ServedEndpoint] | None = None
    ) -> None:
        """Write the release and point at it, as an apply does."""
        image = ReleaseImage("shop", "prod", number, {m.name: m for m in models}, endpoints or {})
        write_release(self.folder, image)
        point(self.folder, number)

    def start(self, **overrides: Any) -> Running:
        """Serve in real processes; returns when all gateways answer."""
        process = self.launch(quiet=False, **overrides)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Serving"), line
        record = read_record(self.folder)
        assert record is not None
        running = Running(process, record, line)
        self.running.append(running)
        return running

    def launch(self, quiet: bool = True, **overrides: Any) -> subprocess.Popen[str]:
        settings = replace(self.settings, **overrides)
        return subprocess.Popen(
            [sys.executable, "-c", _DRIVER, settings_text(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": ""},
        )


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Stage]:
    settings = Settings(
        directory=folder,
        database="sqlite:///nowhere/at/all.db",  # serving must not need it
        artifacts=f"file://{folder / 'artifacts'}",
        port=0,
        admin_port=0,
    )
    made = Stage(settings)
    yield made
    for running in made.running:
        if running.process.poll() is None:
            running.process.terminate()
        try:
            running.process.wait(20)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
        if running.process.stdout:
            running.process.stdout.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """An empty stage; whatever was started in it is stopped."""
    with opened(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An empty stage that the tests of one file share."""
    with opened(tmp_path_factory.mktemp("stage")) as made:
        yield made
