"""Where a batch runs: on the loop's thread, on another thread, or in a worker process. Decided by measured time."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from retinue.core.batching import MATRIX, ROWS
from retinue.core.contract import Field
from retinue.core.errors import InferenceError, RetinueError
from retinue.gateway.values import columns_of
from retinue.gateway.workers import Worker
from retinue_worker import runtime

HAND_OFF = 0.001  # seconds: a run that should take longer goes to a thread, so that it does not hold the loop

Done = Callable[[dict[str, Any] | None, RetinueError | None, float], None]
"""Numpy outputs by name, or the error that the whole batch has; and the seconds that the run itself took."""


class Runner(Protocol):
    """Runs one batch of a loaded model and calls `done` exactly once, on the loop's thread, now or later."""

    def run(self, form: str, block: Any, expected: float, done: Done) -> None:
        """Run it; `expected` is how many seconds it should take."""


class InlineRunner:
    """Runs a compiled model on the loop's thread, or on another one when the run will be long.

    `enter` and `leave` are called around each run: what is noted there tells which model a dead gateway died of.
    """

    def __init__(
        self,
        model: runtime.Model,
        fields: tuple[Field, ...],
        threads: ThreadPoolExecutor,
        enter: Callable[[], None] | None = None,
        leave: Callable[[], None] | None = None,
    ) -> None:
        self._model = model
        self._fields = fields
        self._threads = threads
        self._enter, self._leave = enter, leave
        self._loop = asyncio.get_running_loop()

    def run(self, form: str, block: Any, expected: float, done: Done) -> None:
        """Run one batch; `done` is called on the loop's thread."""
        if expected > HAND_OFF:
            self._threads.submit(self._elsewhere, form, block, done)
        else:
            done(*self._timed(form, block))

    def _timed(self, form: str, block: Any) -> tuple[dict[str, Any] | None, RetinueError | None, float]:
        began = time.perf_counter()
        if self._enter is not None:
            self._enter()
        try:
            return self._outputs(form, block), None, time.perf_counter() - began
        except runtime.ModelError as error:
            return None, InferenceError(str(error)), time.perf_counter() - began
        finally:
            if self._leave is not None:
                self._leave()

    def _outputs(self, form: str, block: Any) -> dict[str, Any]:
        model = self._model
        if form == ROWS and model.takes_rows:
            return model.run_rows(block)
        if form == MATRIX and model.takes_matrix:
            return model.run_matrix(block)
        return model.run(columns_of(form, block, self._fields))

    def _elsewhere(self, form: str, block: Any, done: Done) -> None:
        try:
            result = self._timed(form, block)
        except Exception as error:  # noqa: BLE001  a thread's error would otherwise be lost, and its requests with it
            result = (None, InferenceError(f"{type(error).__name__}: {error}"), 0.0)
        try:
            self._loop.call_soon_threadsafe(done, *result)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


class WorkerRunner:
    """Runs a model in the worker process of its environment; unloads it there when nothing holds it here."""

    def __init__(self, worker: Worker, model: str, fields: tuple[Field, ...]) -> None:
        self._worker = worker
        self._model = model
        self._fields = fields
        weakref.finalize(self, worker.unload, model).atexit = False

    def run(self, form: str, block: Any, expected: float, done: Done) -> None:
        """Run one batch; `done` is called when the worker has answered or is lost."""
        began = time.perf_counter()
        self._worker.run(
            self._model,
            columns_of(form, block, self._fields),
            lambda outputs, error: done(outputs, error, time.perf_counter() - began),
        )
