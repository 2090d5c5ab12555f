"""Loads on threads beside the loop, each with a limit in time: one that hangs keeps neither requests nor the others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from retinue.core.errors import UnavailableError
from retinue.core.state import ServedModel
from retinue.gateway.breadcrumb import Hook
from retinue.gateway.memory import stand_back
from retinue.store.base import Artifacts
from retinue_worker import runtime

LIMIT = (
    60.0  # seconds that a load may take; a small model takes milliseconds, the largest from a cold disk some seconds
)

T = TypeVar("T")


class Loaders:
    """So many loader threads. One whose work is overdue is left to itself, and another takes its place."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads = self._new()
        self.overdue = 0  # loads that were given up

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns or raises. Raises UnavailableError when it has not ended in time."""
        threads = self._threads
        future = asyncio.get_running_loop().run_in_executor(threads, work)
        done, _ = await asyncio.wait((future,), timeout=LIMIT)
        if done:
            return future.result()
        future.cancel()
        self.overdue += 1
        if threads is self._threads:
            self._threads = self._new()
            threads.shutdown(wait=False)  # what is queued there still runs there
        raise UnavailableError(
            f"loading took over {LIMIT:g} s", hint="See whether the disk or network that holds artifacts hangs."
        )

    def close(self) -> None:
        """Begin no other."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _new(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._count, thread_name_prefix="loader", initializer=stand_back)


def load_warm(artifacts: Artifacts, served: ServedModel, enter: Hook, leave: Hook) -> tuple[runtime.Model, int, float]:
    """On a loader thread: load and run once on synthetic rows; what those rows raise is not held against it.

    Returns the model, the bytes of its file, and the seconds it took.
    """
    began = time.perf_counter()
    path = artifacts.local(served.artifact)
    signature = dict(served.signature)
    enter()
    try:
        model = runtime.load(str(path), served.format, signature)
        with contextlib.suppress(runtime.ModelError):
            model.run(runtime.example(signature))
    except runtime.ModelError as error:
        raise UnavailableError(str(error)) from error
    finally:
        leave()
    return model, path.stat().st_size, time.perf_counter() - began
