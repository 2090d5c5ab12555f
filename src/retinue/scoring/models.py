"""Models for batch scoring, loaded when first needed: compiled ones here, the others in their environment's workers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

from retinue.core.batching import COLUMNS
from retinue.core.errors import CorruptArtifactError, InferenceError, RetinueError, UnavailableError
from retinue.core.routing import fields_of
from retinue.core.state import ServedModel
from retinue.gateway.hosts import Hosts
from retinue.gateway.runners import WorkerRunner
from retinue.settings import Settings
from retinue.store.base import Artifacts
from retinue_worker import runtime

Outputs = dict[str, Any]
BUDGET = 256 * 1024**2  # bytes that loaded models may take together before the least recently used one goes
GUESS = 8  # bytes in memory per byte of a model's file, where its memory was not measured
FRAME = 8_192  # rows that a worker process gets at once
PATIENCE = 600.0  # seconds that one such run may take: a table is no request that somebody waits for


class Runs(Protocol):
    """A loaded model."""

    def run(self, columns: dict[str, Any]) -> Outputs:
        """Outputs by name. Raises InferenceError (these rows) or UnavailableError (the model)."""


class _Inline:
    def __init__(self, model: runtime.Model) -> None:
        self._model = model

    def run(self, columns: dict[str, Any]) -> Outputs:
        try:
            return self._model.run(columns)
        except runtime.ModelError as error:
            raise InferenceError(str(error)) from error


class _Elsewhere:
    """A model in worker processes; large batches travel in frames of a bounded size."""

    def __init__(self, runner: WorkerRunner, loop: asyncio.AbstractEventLoop) -> None:
        self._runner = runner
        self._loop = loop
        weakref.finalize(self, _let_go, loop, [runner]).atexit = False

    def run(self, columns: dict[str, Any]) -> Outputs:
        import numpy as np

        rows = len(next(iter(columns.values())))
        if rows <= FRAME:
            return self._one(columns)
        parts = [
            self._one({name: values[start : start + FRAME] for name, values in columns.items()})
            for start in range(0, rows, FRAME)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _one(self, columns: dict[str, Any]) -> Outputs:
        answer: Future[Outputs] = Future()

        def done(outputs: Outputs | None, error: RetinueError | None, _: float) -> None:
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(outputs or {})

        def begin() -> None:
            try:
                self._runner.run(COLUMNS, columns, 0.0, done)
            except Exception as error:  # noqa: BLE001  it would be lost on the loop, and whoever waits with it
                answer.set_exception(InferenceError(f"{type(error).__name__}: {error}"))

        self._loop.call_soon_threadsafe(begin)
        return answer.result()


def _let_go(loop: asyncio.AbstractEventLoop, held: list[WorkerRunner]) -> None:
    """Drop a runner where it unloads its model: on the loop's thread, not on that of whoever dropped the model."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and its processes with it
        loop.call_soon_threadsafe(held.clear)


class Models:
    """Loads each version once, keeps those used last within `budget`, remembers what cannot be loaded. Thread-safe."""

    def __init__(self, artifacts: Artifacts, settings: Settings, workers: int = 1, budget: int = BUDGET) -> None:
        self._artifacts = artifacts
        self._settings = replace(settings, workers_per_environment=workers, request_timeout=PATIENCE)
        self._budget = budget
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._loaded: OrderedDict[str, tuple[Runs, int]] = OrderedDict()
        self._failed: dict[str, UnavailableError] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._hosts: Hosts | None = None

    def get(self, served: ServedModel) -> Runs:
        """The model, loaded. Raises UnavailableError with why it cannot be, as a gateway says it."""
        key = f"{served.version} {served.artifact} {served.format}"
        with self._lock:
            found = self._loaded.get(key)
            if found is not None:
                self._loaded.move_to_end(key)
                return found[0]
            failed = self._failed.get(key)
            if failed is None:
                alone = self._loading.setdefault(key, threading.Lock())
        if failed is not None:
            raise UnavailableError(failed.message, hint=failed.hint)
        with alone:
            with self._lock:
                if key in self._loaded:
                    return self._loaded[key][0]
            return self._load(key, served)

    def _load(self, key: str, served: ServedModel) -> Runs:
        try:
            path = self._artifacts.local(served.artifact)
            if served.format == "onnx":
                model: Runs = _Inline(runtime.load(str(path), served.format, dict(served.signature)))
            else:
                model = self._elsewhere(served, str(path))
        except (runtime.ModelError, UnavailableError, CorruptArtifactError) as error:
            text = error.message if isinstance(error, RetinueError) else str(error)
            hint = error.hint if isinstance(error, RetinueError) else None
            with self._lock:
                failed = self._failed[key] = UnavailableError(
                    f"model {served.name!r} is not available: {text}", hint=hint
                )
            raise UnavailableError(failed.message, hint=failed.hint) from error
        size = served.memory or GUESS * path.stat().st_size
        with self._lock:
            self._loaded[key] = (model, size)
            while len(self._loaded) > 1 and sum(size for _, size in self._loaded.values()) > self._budget:
                self._loaded.popitem(last=False)  # who still runs it keeps it until the run is over
        return model

    def _elsewhere(self, served: ServedModel, path: str) -> Runs:
        from pathlib import Path

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="workers", daemon=True)
                self._thread.start()
                self._hosts = Hosts(self._settings)
        assert self._hosts is not None
        fields = fields_of(served.signature["inputs"])
        loading = asyncio.run_coroutine_threadsafe(self._hosts.load(served, Path(path), fields), self._loop)
        runner, _ = loading.result()
        return _Elsewhere(runner, self._loop)

    @property
    def failures(self) -> Mapping[str, UnavailableError]:
        """What could not be loaded, and why."""
        return dict(self._failed)

    def close(self) -> None:
        """Let go of all models and end the worker processes."""
        self._loaded.clear()
        loop, thread, hosts = self._loop, self._thread, self._hosts
        if loop is None or thread is None:
            return

        async def stop() -> None:
            if hosts is not None:
                hosts.close()
            await asyncio.sleep(0)  # transports say goodbye in the turn after

        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._loop = self._thread = self._hosts = None
