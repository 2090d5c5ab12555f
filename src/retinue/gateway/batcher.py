"""Natural batching: while a batch runs, arrivals wait; the next batch takes all that wait. No timer.

One batcher per loaded version. Urgent requests go first, then those that wait longest; every ninth batch is of those
that were passed over. Rows go back to their owners;
when a batch of several requests fails, each of them runs again alone, so a bad row fails only its own request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Protocol

from retinue.core.batching import ROWS, BatchKey, Column, RunTimes, take
from retinue.core.errors import DeadlineError, InferenceError, RetinueError
from retinue.gateway.runners import Runner
from retinue.gateway.values import assemble

MAX_ROWS = 4096  # rows of one batch; a larger request runs alone
PRIORITIES = 3
PASSED = 8  # batches in a row that may go ahead of requests that are less urgent

Outputs = dict[str, Column]
"""Output name → one value per row, or one list per row for outputs of several columns; lists or arrays."""


class Batch:
    """What ran together, as each of its owners gets to see it. `began` is the monotonic clock, `seconds` the run."""

    __slots__ = ("began", "done", "items", "outputs", "rows", "seconds")

    def __init__(self, items: list[Item], rows: int, began: float) -> None:
        self.items = items
        self.rows = rows
        self.began = began
        self.seconds = 0.0
        self.done = False
        self.outputs: Outputs = {}


class Item(Protocol):
    """The rows of one request for one model."""

    block: Any
    rows: int
    key: BatchKey
    began: float  # since when it waits; the monotonic clock
    deadline: float  # likewise
    priority: int  # 0 urgent, 1 normal, 2 patient

    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""

    def ran(self, batch: Batch, start: int) -> None:
        """Take the answer: `rows` rows of the batch's outputs, from `start`."""

    def failed(self, error: RetinueError) -> None:
        """Take the error."""


class Batcher:
    """The queue in front of one loaded version; `concurrency` batches run at once."""

    def __init__(
        self,
        runner: Runner,
        observe: Callable[[Batch], None],
        concurrency: int = 1,
        failed: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._runner = runner
        self._observe = observe
        self._count_failure = failed  # told of each request that the model failed: how long it was there
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        self._lanes: tuple[dict[BatchKey, deque[Item]], ...] = tuple({} for _ in range(PRIORITIES))
        self._alone: deque[Item] = deque()
        self._running = 0
        self._scheduled = False
        self._passed = 0  # batches that went ahead of less urgent requests, one after the other
        self.times = RunTimes(MAX_ROWS)
        self.batches = 0

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not (self._running or self._scheduled)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._alone) + sum(len(queue) for lane in self._lanes for queue in lane.values())

    def add(self, item: Item) -> None:
        """Queue the rows; they run in the loop's next turn with all that arrive until then."""
        lane = self._lanes[item.priority]
        queue = lane.get(item.key)
        if queue is None:
            queue = lane[item.key] = deque()
        queue.append(item)
        if not self._scheduled and self._running < self._concurrency:
            self._scheduled = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        items = self._alive(self._pick())
        if items:
            self._run(items)
        self._more()

    def _run(self, items: list[Item]) -> None:
        form = items[0].key[0]
        rows = items[0].rows if len(items) == 1 else sum([item.rows for item in items])
        batch = Batch(items, rows, monotonic())
        self._running += 1
        try:
            block = items[0].block if len(items) == 1 else assemble(form, [item.block for item in items])
            self._runner.run(form, block, self.times.expect(rows), partial(self._ran, batch))
        except Exception as error:  # noqa: BLE001  one model's fault must leave the loop and the other models unharmed
            self._ran(batch, None, InferenceError(f"{type(error).__name__}: {error}"), 0.0)

    def _ran(self, batch: Batch, outputs: dict[str, Any] | None, error: RetinueError | None, seconds: float) -> None:
        if batch.done:
            return
        batch.done = True
        self._running -= 1
        items = batch.items
        if outputs is None:
            self._failed(items, error)
        else:
            batch.seconds = seconds
            self.batches += 1
            self.times.measured(batch.rows, seconds)
            if items[0].key[0] == ROWS:  # a worker's outputs are arrays, those of a run inline are lists already
                outputs = {name: v if type(v) is list else v.tolist() for name, v in outputs.items()}
            batch.outputs = outputs
            start = 0
            for item in items:
                try:
                    item.ran(batch, start)
                except Exception as fault:  # noqa: BLE001  one owner's fault must not leave the others without answer
                    item.failed(InferenceError(f"{type(fault).__name__}: {fault}"))
                start += item.rows
            self._observe(batch)
        self._more()

    def _failed(self, items: list[Item], error: RetinueError | None) -> None:
        if isinstance(error, InferenceError) and len(items) > 1:
            self._alone.extend(items)
            return
        assert error is not None
        now = monotonic()
        for item in items:
            self._count_failure(now - item.began)
            item.failed(error)

    def _more(self) -> None:
        """If something waits and may run, the next batch is on its way."""
        if self._scheduled or self._running >= self._concurrency:
            return
        if self._alone or any(self._lanes):
            self._scheduled = True
            self._loop.call_soon(self._next)

    def _pick(self) -> list[Item]:
        """What runs next: one request that failed in company, else as much as fits of the queue that waits longest."""
        if self._alone:
            return [self._alone.popleft()]
        lanes = [lane for lane in self._lanes if lane]
        if not lanes:
            return []
        lane = self._lane(lanes) if len(lanes) > 1 else lanes[0]
        key = next(iter(lane))
        queue = lane.pop(key)
        if len(queue) == 1:
            return [queue[0]]
        count = take([item.rows for item in queue], self.times.best)
        if count < len(queue):
            items = [queue.popleft() for _ in range(count)]
            lane[key] = queue  # behind the others
            return items
        return list(queue)

    def _lane(self, lanes: list[dict[BatchKey, deque[Item]]]) -> dict[BatchKey, deque[Item]]:
        """The most urgent lane, but every so often that of the passed over that waits longest: nobody starves."""
        self._passed += 1
        if self._passed <= PASSED:
            return lanes[0]
        self._passed = 0
        return min(lanes[1:], key=lambda lane: next(iter(lane.values()))[0].began)

    def _alive(self, items: list[Item]) -> list[Item]:
        """Without those nobody waits for and those past their deadline, which are told so."""
        now = monotonic()
        alive: list[Item] = []
        for item in items:
            if not item.wanted():
                continue
            if item.deadline < now:
                item.failed(DeadlineError("the request waited past its deadline"))
            else:
                alive.append(item)
        return alive
