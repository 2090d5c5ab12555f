"""Loaded models: compiled ones inline in this process, the others in one worker process per environment.

A version is loaded once however many releases name it, and is unloaded when the last release or request that holds
it lets go. A model that cannot be loaded is an answer too: a `LoadedModel` with a reason and no batcher.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retinue.core.contract import Field
from retinue.core.errors import InferenceError, RetinueError, UnavailableError
from retinue.core.identity import short
from retinue.core.routing import fields_of
from retinue.core.state import ServedModel
from retinue.gateway.batcher import Batcher, Done
from retinue.gateway.workers import Worker, worker_folder
from retinue.settings import Settings
from retinue.store.base import Artifacts
from retinue_worker import runtime

MAX_ROWS = 1024  # rows of one batch; a larger request runs alone
HAND_OFF = 0.002  # seconds: a run that takes longer goes to a thread, so that it does not hold the loop


class LoadedModel:
    """One version, ready to run (`batcher`) or not (`reason`)."""

    __slots__ = ("__weakref__", "batcher", "fields", "outputs", "reason", "served")

    def __init__(self, served: ServedModel, batcher: Batcher | None, reason: str | None = None) -> None:
        self.served = served
        self.batcher = batcher
        self.reason = reason
        self.fields = fields_of(served.signature["inputs"])
        self.outputs: tuple[Field, ...] = fields_of(served.signature["outputs"])


class InlineRunner:
    """Runs a compiled model on the loop's thread, or on another one when its runs are long."""

    def __init__(self, model: runtime.Model, threads: ThreadPoolExecutor) -> None:
        self._model = model
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._seconds = 0.0  # moving average of a run

    def run(self, columns: dict[str, Any], done: Done) -> None:
        """Run one batch; `done` is called on the loop's thread."""
        if self._seconds > HAND_OFF:
            self._threads.submit(self._elsewhere, columns, done)
        else:
            done(*self._timed(columns))

    def _timed(self, columns: dict[str, Any]) -> tuple[dict[str, Any] | None, RetinueError | None]:
        began = time.perf_counter()
        try:
            return self._model.run(columns), None
        except runtime.ModelError as error:
            return None, InferenceError(str(error))
        finally:
            self._seconds += 0.2 * (time.perf_counter() - began - self._seconds)

    def _elsewhere(self, columns: dict[str, Any], done: Done) -> None:
        result = self._timed(columns)
        try:
            self._loop.call_soon_threadsafe(done, *result)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


class WorkerRunner:
    """Runs a model in the worker process of its environment; unloads it there when nothing holds it here."""

    def __init__(self, worker: Worker, model: str) -> None:
        self._worker = worker
        self._model = model
        weakref.finalize(self, worker.unload, model).atexit = False

    def run(self, columns: dict[str, Any], done: Done) -> None:
        """Run one batch; `done` is called when the worker has answered or is lost."""
        self._worker.run(self._model, columns, done)


class Pool:
    """All models this gateway has loaded, by what they are made of."""

    def __init__(self, artifacts: Artifacts, settings: Settings, observe: Callable[[int], None]) -> None:
        self._artifacts = artifacts
        self._settings = settings
        self._observe = observe
        self._loaded: weakref.WeakValueDictionary[str, LoadedModel] = weakref.WeakValueDictionary()
        self._workers: dict[str, Worker] = {}
        self._count = 0
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._runs = ThreadPoolExecutor(2, thread_name_prefix="run")

    async def load(self, served: ServedModel) -> LoadedModel:
        """The version, loaded and warm; one that is loaded already is shared. Never raises for a broken model."""
        key = f"{served.version} {served.artifact} {served.format}"
        found = self._loaded.get(key)
        if found is not None and found.served == served:
            return found
        try:
            path = await asyncio.get_running_loop().run_in_executor(
                self._loader, self._artifacts.local, served.artifact
            )
            load = self._inline if served.format == "onnx" else self._hosted
            loaded = await load(served, path)
        except RetinueError as error:
            return LoadedModel(served, None, str(error))
        self._loaded[key] = loaded
        return loaded

    def status(self) -> list[dict[str, Any]]:
        """The worker processes: environment, pid, restarts."""
        return [
            {"environment": short(name), **worker.status()}
            for name, worker in sorted(self._workers.items())
        ]

    def close(self) -> None:
        """End all workers and threads."""
        for worker in self._workers.values():
            worker.close()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._runs.shutdown(wait=False, cancel_futures=True)

    async def _inline(self, served: ServedModel, path: Path) -> LoadedModel:
        try:
            model = await asyncio.get_running_loop().run_in_executor(self._loader, _load_warm, str(path), served)
        except runtime.ModelError as error:
            raise UnavailableError(str(error)) from error
        return self._batched(served, InlineRunner(model, self._runs))

    async def _hosted(self, served: ServedModel, path: Path) -> LoadedModel:
        worker = self._worker(served.environment)
        self._count += 1
        name = f"{short(served.version)}-{self._count}"
        await worker.load(name, path, served.format, dict(served.signature))
        runner = WorkerRunner(worker, name)
        warm: asyncio.Future[RetinueError | None] = asyncio.get_running_loop().create_future()
        runner.run(runtime.example(dict(served.signature)), lambda _, error: warm.set_result(error))
        error = await warm
        if isinstance(error, UnavailableError):  # an InferenceError may be the synthetic row's fault
            raise error
        return self._batched(served, runner)

    def _worker(self, environment: str) -> Worker:
        worker = self._workers.get(environment)
        if worker is None:
            python = self._settings.environments / environment / "bin" / "python"
            if not python.exists():
                raise UnavailableError(
                    f"environment {short(environment)} is not on this machine",
                    hint="Run `retinue rebuild MODEL --reason TEXT`: it makes the environment again.",
                )
            worker = self._workers[environment] = Worker(
                python=python,
                folder=worker_folder(self._settings.cache),
                log=self._settings.logs / f"worker-{short(environment)}.log",
                run_timeout=self._settings.request_timeout,
            )
        return worker

    def _batched(self, served: ServedModel, runner: InlineRunner | WorkerRunner) -> LoadedModel:
        fields = fields_of(served.signature["inputs"])
        return LoadedModel(served, Batcher(runner, fields, MAX_ROWS, self._observe))


def _load_warm(path: str, served: ServedModel) -> runtime.Model:
    """On the loader thread: load and run once on synthetic rows; what those rows raise is not held against it."""
    signature = dict(served.signature)
    model = runtime.load(path, served.format, signature)
    try:
        model.run(runtime.example(signature))
    except runtime.ModelError:
        return model
    return model
