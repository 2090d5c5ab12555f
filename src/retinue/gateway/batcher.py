"""Natural batching: while a batch runs, arrivals wait; the next batch takes all that wait. No timer.

One batcher per loaded version. Rows go back to their owners; when a batch of several requests fails, each of them
runs again alone, so a bad row fails only its own request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from retinue.core.batching import BatchKey, Column, merge, split, take
from retinue.core.contract import Field
from retinue.core.errors import InferenceError, RetinueError, UnavailableError
from retinue.gateway.values import arrays

Outputs = dict[str, list[Any]]
"""Output name → one value per row, or one list per row for outputs of several columns."""

Done = Callable[[dict[str, Any] | None, RetinueError | None], None]


class Runner(Protocol):
    """Runs one batch of a loaded model and calls `done` exactly once, on the loop's thread, now or later."""

    def run(self, columns: dict[str, Any], done: Done) -> None:
        """Numpy outputs by name, or the error that the whole batch has."""


class Item(Protocol):
    """The rows of one request for one model."""

    columns: list[Column]
    rows: int
    key: BatchKey
    deadline: float  # the loop's clock

    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""

    def finish(self, outputs: Outputs | None, error: RetinueError | None) -> None:
        """Take the answer: outputs with `rows` rows each, or the error."""


class Batcher:
    """The queue in front of one loaded version."""

    def __init__(
        self, runner: Runner, fields: tuple[Field, ...], max_rows: int, observe: Callable[[int], None]
    ) -> None:
        self._runner = runner
        self._fields = fields
        self._max_rows = max_rows
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._queues: dict[BatchKey, deque[Item]] = {}
        self._alone: deque[Item] = deque()
        self._running: list[Item] = []
        self._busy = False

    def add(self, item: Item) -> None:
        """Queue the rows; they run in the loop's next turn with all that arrive until then."""
        queue = self._queues.get(item.key)
        if queue is None:
            queue = self._queues[item.key] = deque()
        queue.append(item)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        items = self._alive(self._pick())
        if not items:
            self._busy = self._more()
            return
        self._running = items
        try:
            columns = arrays(merge([item.columns for item in items]), self._fields)
            self._observe(sum(item.rows for item in items))
            self._runner.run(columns, self._ran)
        except Exception as error:  # noqa: BLE001  one model's fault must leave the loop and the other models unharmed
            self._ran(None, InferenceError(f"{type(error).__name__}: {error}"))

    def _ran(self, outputs: dict[str, Any] | None, error: RetinueError | None) -> None:
        items, self._running = self._running, []
        self._busy = self._more()
        if outputs is not None:
            lists = {name: array.tolist() for name, array in outputs.items()}
            for item, part in zip(items, split(lists, [item.rows for item in items]), strict=True):
                item.finish(part, None)
        elif isinstance(error, InferenceError) and len(items) > 1:
            self._alone.extend(items)
            if not self._busy:
                self._busy = self._more()
        else:
            for item in items:
                item.finish(None, error)

    def _more(self) -> bool:
        """Whether something waits; then the next batch is on its way."""
        if self._alone or self._queues:
            self._loop.call_soon(self._next)
            return True
        return False

    def _pick(self) -> list[Item]:
        """What runs next: one request that failed in company, else as much as fits of the queue that waits longest."""
        if self._alone:
            return [self._alone.popleft()]
        if not self._queues:
            return []
        key = next(iter(self._queues))
        queue = self._queues.pop(key)
        count = take([item.rows for item in queue], self._max_rows)
        if count < len(queue):
            items = [queue.popleft() for _ in range(count)]
            self._queues[key] = queue  # behind the others
            return items
        return list(queue)

    def _alive(self, items: list[Item]) -> list[Item]:
        """Without those nobody waits for and those past their deadline, which are told so."""
        now = self._loop.time()
        alive: list[Item] = []
        for item in items:
            if not item.wanted():
                continue
            if item.deadline < now:
                item.finish(None, UnavailableError("the request waited past its deadline"))
            else:
                alive.append(item)
        return alive
