"""What is known of one admitted request while it runs: the call, its groups of rows, their nodes, the parts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from time import monotonic, time_ns
from typing import Any, NamedTuple, Protocol

from retinue.core.batching import BatchKey
from retinue.core.errors import RetinueError
from retinue.core.state import ServedModel
from retinue.gateway.batcher import Batch, Outputs
from retinue.gateway.plans import Plan, Table
from retinue.gateway.recorder import Ran
from retinue.gateway.release import PinnedRelease, Route

_random = random.Random()  # noqa: S311  prediction ids must be unique, not secret
NORMAL = 1


class Plane(Protocol):
    """What a call says to the data plane that runs it."""

    def cancel(self, call: Call) -> None:
        """The client has gone."""

    def abort(self, call: Call, error: RetinueError) -> None:
        """Answer with this error now."""

    def finished(self, group: Group, error: RetinueError | None) -> None:
        """A group has its answer, or one of its nodes has failed."""


class Part:
    """Rows that one model answered together."""

    __slots__ = ("fallback", "outputs", "rows", "served")

    def __init__(self, rows: Sequence[int], served: ServedModel, outputs: Outputs, fallback: bool) -> None:
        self.rows = rows
        self.served = served
        self.outputs = outputs
        self.fallback = fallback


class Kept(NamedTuple):
    """An answer that may be given again: what the parts of a call hold, and the runs for the journal."""

    parts: tuple[Part, ...]
    runs: tuple[Ran, ...]
    ends: float  # the clock
    size: int


class Question(NamedTuple):
    """What was asked of an endpoint that keeps answers, of which endpoint in which release."""

    release: str
    endpoint: str
    digest: bytes


class Call:
    """One admitted request: its pinned release, its rows, and what has come back so far.

    `partial`: rows fail one by one and the rest is answered; else the first error is the whole request's. `to` is
    whatever `done` needs to answer.
    """

    __slots__ = ("__weakref__", "arrived", "began", "client", "client_id", "closed", "deadline", "done", "errors",
                 "groups", "id", "kept", "label", "name", "open", "partial", "parts", "plane", "priority", "question",
                 "release", "request", "route", "rows", "table", "timeout", "to")  # fmt: skip

    plane: Plane
    began: float  # the monotonic clock
    deadline: float

    def __init__(
        self, release: PinnedRelease, name: str, rows: int, done: Callable[[Call], None], to: Any, partial: bool
    ) -> None:
        self.release = release
        self.name = name
        self.rows = rows
        self.done = done
        self.to = to
        self.partial = partial
        self.table: Table | None = None
        self.question: Question | None = None  # of an endpoint that keeps answers
        self.kept: Kept | None = None  # the answer that is given again
        self.request: Any = None  # what a door needs to remember of what was asked
        self.label = name
        self.route: Route | None = None
        self.parts: list[Part] = []
        self.errors: dict[int, RetinueError] = {}
        self.groups: list[Group] = []
        self.id, self.arrived = IDS.next()
        self.client: str | None = None
        self.client_id: str | None = None
        self.priority = NORMAL
        self.timeout = 0.0  # seconds the client allows; 0: as the server does
        self.open = 0  # groups under way
        self.closed = False

    @property
    def by_fallback(self) -> int:
        """How many rows the endpoint's fallback answered."""
        return sum(len(part.rows) for part in self.parts if part.fallback) if self.route is not None else 0

    def cancel(self) -> None:
        """The client has gone."""
        self.plane.cancel(self)

    def let_go(self) -> None:
        """Nothing of its groups is needed any more: they point here, and circles would wait for the collector."""
        for group in self.groups:
            group.over = True
            group.runs = []
        self.groups = []

    def expire(self, error: RetinueError) -> None:
        """The deadline has come."""
        self.plane.abort(self, error)


class Group:
    """Rows of one call that run one plan together."""

    __slots__ = ("call", "fallback", "left", "outputs", "over", "plan", "plane", "rows", "runs")

    def __init__(self, plane: Plane, call: Call, plan: Plan, rows: Sequence[int], fallback: bool) -> None:
        self.plane = plane
        self.call = call
        self.plan = plan
        self.rows = rows
        self.fallback = fallback
        self.outputs: list[Outputs | None] = [None] * len(plan.models)
        self.left = [len(after) for after in plan.after]
        self.runs: list[NodeRun] = []
        self.over = False  # a node has failed, or the last has answered
        call.groups.append(self)

    def start(self, blocks: list[Any], keys: list[BatchKey]) -> None:
        """Queue every node that waits for no other."""
        rows = len(self.rows)
        self.runs = [NodeRun(self, index, block, keys[index], rows) for index, block in enumerate(blocks)]
        for index, after in enumerate(self.plan.after):
            if not after:
                self._queue(index)

    def finished(self, index: int, outputs: Outputs) -> None:
        """One node is done; those that waited only for it are queued."""
        if self.over:
            return
        self.outputs[index] = outputs
        if index == len(self.runs) - 1:
            self.over = True
            self.plane.finished(self, None)
            return
        for later in range(index + 1, len(self.runs)):
            if index in self.plan.after[later]:
                self.left[later] -= 1
                if self.left[later] == 0:
                    run = self.runs[later]
                    run.block = self.plan.readers[later].fill(run.block, run.key[0], self.outputs)
                    self._queue(later)

    def failed(self, error: RetinueError) -> None:
        """A node has failed: the others are not waited for."""
        if not self.over:
            self.over = True
            self.plane.finished(self, error)

    def _queue(self, index: int) -> None:
        run = self.runs[index]
        run.began = monotonic()
        self.plan.models[index].add(run)


class NodeRun:
    """The rows of a group at one node: what waits in a batcher."""

    __slots__ = ("began", "block", "deadline", "group", "index", "key", "outputs", "priority", "queued", "rows",
                 "seconds")  # fmt: skip

    def __init__(self, group: Group, index: int, block: Any, key: BatchKey, rows: int) -> None:
        self.group = group
        self.index = index
        self.block = block
        self.rows = rows
        self.key = key
        call = group.call
        self.deadline = call.deadline
        self.priority = call.priority
        self.began = 0.0  # waiting
        self.queued = 0.0
        self.seconds = 0.0
        self.outputs: Outputs | None = None

    def wanted(self) -> bool:
        """Whether the call still waits, and for this."""
        return not (self.group.call.closed or self.group.over)

    def ran(self, batch: Batch, start: int) -> None:
        """Hand the answer to the group."""
        rows, made = self.rows, batch.outputs
        if batch.rows != rows:
            made = {name: values[start : start + rows] for name, values in made.items()}
        self.outputs = made
        self.queued = batch.began - self.began
        self.seconds = batch.seconds
        self.group.finished(self.index, made)

    def failed(self, error: RetinueError) -> None:
        """Hand the error to the group."""
        self.group.failed(error)


class Ids:
    """UUIDv7 texts: milliseconds since 1970, a counter within each, then random bits that are this process's own.

    They are unique and sort by time. `next` gives the id and the moment in nanoseconds.
    """

    __slots__ = ("_count", "_head", "_ms", "_tail")

    def __init__(self) -> None:
        self._ms = 0
        self._head = self._tail = ""
        self._count = 0

    def next(self) -> tuple[str, int]:
        """A new id, and now."""
        now = time_ns()
        ms = now // 1_000_000
        if ms != self._ms or self._count > 0xFFF:
            self._turn(ms)
        count = self._count
        self._count = count + 1
        return f"{self._head}{count:03x}{self._tail}", now

    def _turn(self, ms: int) -> None:
        if ms <= self._ms or not self._tail:  # the clock went back, or more than a counter holds: other random bits
            bits = _random.getrandbits(62)
            self._tail = f"-{0x8000 | bits >> 48:04x}-{bits & (1 << 48) - 1:012x}"
        self._ms = ms
        self._head = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"
        self._count = 0


IDS = Ids()
