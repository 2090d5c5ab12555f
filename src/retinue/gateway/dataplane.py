"""One request through the data plane; the room to read first.

    admit      the queue is bounded; the release is pinned: all that follows happens in this one release
    route      an endpoint's rows scatter to the members they name, or to its fallback
    clean      JSON values become typed columns, or a refusal that names row and field
    run        upstreams first, independent ones side by side; each node waits in its version's batcher
    answer     parts gather in the call; when the last one is in, `done` is called once

Nothing here blocks and nothing here is a task: every step is a callback on the loop's thread.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from retinue.core.batching import BatchKey, batch_key
from retinue.core.errors import (
    InferenceError,
    RequestError,
    RetinueError,
    TooLargeError,
    UnavailableError,
    UnknownModelError,
)
from retinue.gateway.batcher import Outputs
from retinue.gateway.meter import Meter
from retinue.gateway.pool import LoadedModel
from retinue.gateway.release import PinnedRelease, Plan, Route
from retinue.gateway.values import Column, clean

_random = random.Random()  # noqa: S311  prediction ids must be unique, not secret


class Table(Protocol):
    """The rows of a request as JSON values."""

    def column(self, name: str, rows: Sequence[int]) -> Column:
        """The values of one field in these rows; None where it is missing."""

    def values(self, names: Sequence[str], row: int) -> Column:
        """The values of several fields in one row."""


class Part:
    """Rows that one model answered together."""

    __slots__ = ("fallback", "model", "outputs", "rows")

    def __init__(self, rows: Sequence[int], model: LoadedModel, outputs: Outputs, fallback: bool) -> None:
        self.rows = rows
        self.model = model
        self.outputs = outputs
        self.fallback = fallback


class Call:
    """One admitted request: its pinned release, its rows, and what has come back so far.

    `partial`: rows fail one by one and the rest is answered; else the first error is the whole request's.
    """

    __slots__ = ("__weakref__", "began", "closed", "deadline", "done", "errors", "id", "name", "open", "partial",
                 "parts", "release", "route", "rows", "table")  # fmt: skip

    def __init__(self, release: PinnedRelease, name: str, table: Table, rows: int, partial: bool) -> None:
        self.release = release
        self.name = name
        self.table = table
        self.rows = rows
        self.partial = partial
        self.route: Route | None = None
        self.parts: list[Part] = []
        self.errors: dict[int, RetinueError] = {}
        self.id = prediction_id()
        self.open = 0  # groups under way
        self.closed = False
        self.began = 0.0
        self.deadline = 0.0
        self.done: Callable[[Call], None]


class DataPlane:
    """Admits requests, runs them in the release they were admitted under, and answers them."""

    def __init__(
        self, pin: Callable[[], PinnedRelease | None], meter: Meter, max_queue: int, max_rows: int, timeout: float
    ) -> None:
        self._pin = pin
        self._meter = meter
        self._max_queue = max_queue
        self._max_rows = max_rows
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._calls: dict[Call, None] = {}  # in order of admission, so in order of deadline

    @property
    def in_flight(self) -> int:
        """Requests admitted and not yet answered."""
        return len(self._calls)

    def release(self) -> PinnedRelease:
        """The release of this moment. Raises UnavailableError when there is none yet."""
        release = self._pin()
        if release is None:
            raise UnavailableError("no release is served yet", hint="Run `retinue apply`.")
        return release

    def admit(self) -> PinnedRelease:
        """Say no at the door, or pin the release. Raises UnavailableError."""
        if len(self._calls) >= self._max_queue:
            raise UnavailableError(f"{self._max_queue} requests are waiting already")
        return self.release()

    def infer(self, call: Call, done: Callable[[Call], None]) -> None:
        """Run the call; `done` is called once, now or later. Raises what is wrong with the whole request."""
        if call.rows > self._max_rows:
            raise TooLargeError(
                f"{call.rows} rows are more than the {self._max_rows} that one request may have",
                hint="Send fewer rows in one request, or raise `max_rows` in retinue.toml.",
            )
        release = call.release
        call.began = self._loop.time()
        call.deadline = call.began + self._timeout
        call.done = done
        call.route = release.routes.get(call.name)
        plan = release.plan(call.name) if call.route is None else None
        self._calls[call] = None
        self._meter.in_flight += 1
        call.open = 1  # until everything is scattered
        if plan is not None:
            self._start(call, plan, range(call.rows), fallback=False)
        elif call.route is not None:
            self._scatter(call, call.route)
        self._less(call)

    def cancel(self, call: Call) -> None:
        """The client has gone: nothing of the call is computed any more."""
        if not call.closed:
            self._close(call)

    def expire(self) -> None:
        """Answer the calls that are past their deadline; called by the gateway's clock."""
        now = self._loop.time()
        for call in list(self._calls):
            if call.deadline > now:
                return
            self._abort(call, UnavailableError(f"not answered within {self._timeout:g} s"))

    # ------------------------------------------------------------------------------------------------------ route
    def _scatter(self, call: Call, route: Route) -> None:
        if call.rows == 1:
            values = dict(zip(route.keys, call.table.values(route.keys, 0), strict=True))
            name = call.release.select(route, values)
            self._send(call, route, name, [0], [[value] for value in values.values()])
            return
        every = range(call.rows)
        columns = [call.table.column(key, every) for key in route.keys]
        groups: dict[str | None, list[int]] = {}
        for row in every:
            values = {key: column[row] for key, column in zip(route.keys, columns, strict=True)}
            groups.setdefault(call.release.select(route, values), []).append(row)
        for name, rows in groups.items():
            if call.closed:
                return
            self._send(call, route, name, rows, columns)

    def _send(self, call: Call, route: Route, name: str | None, rows: list[int], columns: list[Column]) -> None:
        """Rows that select the same member go to it, or to the fallback."""
        if name is None:
            self._unknown(call, route, rows, columns)
            return
        try:
            plan = call.release.plan(name)
        except UnavailableError as problem:
            self._second(call, route, rows, "unavailable", problem)
            return
        self._start(call, plan, rows, fallback=False)

    def _unknown(self, call: Call, route: Route, rows: list[int], columns: list[Column]) -> None:
        """Rows whose key names no member of this release."""
        endpoint = route.endpoint
        if endpoint.fallback is not None and "unknown" in endpoint.fallback_when:
            self._second(call, route, rows, "unknown", UnknownModelError("no such member"))
            return
        for row in rows:
            values = {key: column[row] for key, column in zip(route.keys, columns, strict=True)}
            gaps = [key for key, value in values.items() if value is None]
            shown = ", ".join(f"{key}={value!r}" for key, value in values.items())
            error: RetinueError = UnknownModelError(f"row {row}: endpoint {endpoint.name!r} has no model for {shown}")
            if gaps:
                error = RequestError(f"row {row}: {gaps[0]!r} is missing; endpoint {endpoint.name!r} selects by it")
            self._fail(call, [row], error)

    def _second(self, call: Call, route: Route, rows: Sequence[int], reason: str, error: RetinueError) -> None:
        """The fallback, where the endpoint has one for this reason; else the error."""
        endpoint = route.endpoint
        if endpoint.fallback is None or reason not in endpoint.fallback_when:
            self._fail(call, rows, error)
            return
        try:
            plan = call.release.plan(endpoint.fallback)
        except RetinueError as problem:
            self._fail(call, rows, UnavailableError(f"{error.message}; its fallback: {problem.message}"))
            return
        self._start(call, plan, rows, fallback=True)

    # ------------------------------------------------------------------------------------------------ clean, run
    def _start(self, call: Call, plan: Plan, rows: Sequence[int], *, fallback: bool) -> None:
        """Clean all columns of all nodes, then run the nodes that wait for nothing."""
        if len(rows) == 1 and self._start_one(call, plan, rows, fallback):
            return
        columns: list[list[Column | None]] = []
        missing: list[list[bool]] = []
        problems: dict[int, str] = {}
        for node in plan.graph.nodes:
            of_node: list[Column | None] = []
            gaps: list[bool] = []
            for field, source in zip(node.inputs, node.sources, strict=True):
                if source.node >= 0:
                    of_node.append(None)
                    gaps.append(False)
                    continue
                values, gap, wrong = clean(call.table.column(source.field, rows), field)
                if wrong:
                    problems.update(wrong)
                of_node.append(values)
                gaps.append(gap)
            columns.append(of_node)
            missing.append(gaps)
        if problems:
            self._refuse(call, plan, rows, problems, fallback)
            return
        call.open += 1
        group = Group(self, call, plan, rows, fallback)
        keys = [
            batch_key(node.inputs, gaps) if any(gaps) else ()
            for node, gaps in zip(plan.graph.nodes, missing, strict=True)
        ]
        group.start(columns, keys)

    def _start_one(self, call: Call, plan: Plan, rows: Sequence[int], fallback: bool) -> bool:
        """The same for one row in which nothing is wrong; False when it needs the closer look."""
        columns: list[list[Column | None]] = []
        keys: list[BatchKey] = []
        for cleaner, places in plan.readers:
            values = call.table.values(cleaner.names, rows[0])
            key = cleaner.key(values)
            if key is None:
                return False
            keys.append(key)
            if places is None:
                columns.append([[value] for value in values])
            else:
                columns.append([None if place < 0 else [values[place]] for place in places])
        call.open += 1
        Group(self, call, plan, rows, fallback).start(columns, keys)
        return True

    def _refuse(self, call: Call, plan: Plan, rows: Sequence[int], problems: dict[int, str], fallback: bool) -> None:
        """The bad rows are answered with what is wrong with them, the others run."""
        for index, problem in sorted(problems.items()):
            self._fail(call, [rows[index]], RequestError(f"row {rows[index]}: {problem}"))
        good = [row for index, row in enumerate(rows) if index not in problems]
        if good and not call.closed:
            self._start(call, plan, good, fallback=fallback)

    def finished(self, group: Group, outputs: Outputs | None, error: RetinueError | None) -> None:
        """A group has its answer, or one of its nodes has failed."""
        call, rows = group.call, group.rows
        if outputs is not None:
            call.parts.append(Part(rows, group.plan.model, outputs, group.fallback))
        elif isinstance(error, InferenceError) and call.partial and len(rows) > 1 and not call.closed:
            middle = len(rows) // 2  # halve until the bad row stands alone
            self._start(call, group.plan, rows[:middle], fallback=group.fallback)
            self._start(call, group.plan, rows[middle:], fallback=group.fallback)
        elif isinstance(error, UnavailableError) and call.route and not group.fallback and not call.closed:
            self._second(call, call.route, rows, "unavailable", error)
        else:
            assert error is not None
            self._fail(call, rows, error)
        self._less(call)

    # ----------------------------------------------------------------------------------------------------- answer
    def _fail(self, call: Call, rows: Sequence[int], error: RetinueError) -> None:
        if not call.partial:
            self._abort(call, error)
            return
        for row in rows:
            call.errors[row] = error

    def _abort(self, call: Call, error: RetinueError) -> None:
        if call.closed:
            return
        call.parts = []
        call.errors = dict.fromkeys(range(call.rows), error)
        self._close(call)
        call.done(call)

    def _less(self, call: Call) -> None:
        call.open -= 1
        if call.open == 0 and not call.closed:
            self._close(call)
            call.done(call)

    def _close(self, call: Call) -> None:
        call.closed = True
        del self._calls[call]
        self._meter.in_flight -= 1


class Group:
    """Rows of one call that run one plan together."""

    __slots__ = ("call", "fallback", "left", "outputs", "plan", "plane", "rows", "runs")

    def __init__(self, plane: DataPlane, call: Call, plan: Plan, rows: Sequence[int], fallback: bool) -> None:
        self.plane = plane
        self.call = call
        self.plan = plan
        self.rows = rows
        self.fallback = fallback
        self.outputs: list[Outputs | None] = [None] * len(plan.models)
        self.left = [len(after) for after in plan.after]
        self.runs: list[NodeRun] = []

    def start(self, columns: list[list[Column | None]], keys: list[BatchKey]) -> None:
        """Queue every node that waits for no other."""
        self.runs = [NodeRun(self, index, columns[index], keys[index]) for index in range(len(columns))]
        for index, waits in enumerate(list(self.left)):
            if waits == 0:
                self._queue(index)

    def node_finished(self, index: int, outputs: Outputs | None, error: RetinueError | None) -> None:
        """One node is done; those that waited only for it are queued."""
        if not self.runs:  # another node has failed already
            return
        if outputs is None:
            self.runs = []
            self.plane.finished(self, None, error)
            return
        self.outputs[index] = outputs
        if index == len(self.runs) - 1:
            self.plane.finished(self, outputs, None)
            return
        for later in range(index + 1, len(self.runs)):
            if index in self.plan.after[later]:
                self.left[later] -= 1
                if self.left[later] == 0:
                    self._fill(later)
                    self._queue(later)

    def _fill(self, index: int) -> None:
        """Put the upstreams' outputs into the columns of a node."""
        for position, source in enumerate(self.plan.graph.nodes[index].sources):
            if source.node >= 0:
                outputs = self.outputs[source.node]
                assert outputs is not None
                self.runs[index].columns[position] = outputs[source.output]

    def _queue(self, index: int) -> None:
        batcher = self.plan.models[index].batcher
        assert batcher is not None
        batcher.add(self.runs[index])


class NodeRun:
    """The rows of a group at one node: what waits in a batcher."""

    __slots__ = ("columns", "deadline", "group", "index", "key", "rows")

    def __init__(self, group: Group, index: int, columns: list[Any], key: BatchKey) -> None:
        self.group = group
        self.index = index
        self.columns: list[Column] = columns
        self.rows = len(group.rows)
        self.key = key
        self.deadline = group.call.deadline

    def wanted(self) -> bool:
        """Whether the call still waits."""
        return not self.group.call.closed

    def finish(self, outputs: Outputs | None, error: RetinueError | None) -> None:
        """Hand the answer to the group."""
        self.group.node_finished(self.index, outputs, error)


def prediction_id() -> str:
    """A UUIDv7: milliseconds since 1970, then 74 random bits, so that ids sort by time."""
    value = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | 0x2 << 62
    bits = _random.getrandbits(74)
    value |= (bits >> 62) << 64 | (bits & (1 << 62) - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
