"""One request through the data plane; the room to read first.

    admit      the queue is bounded; the release is pinned: all that follows happens in this one release
    route      an endpoint's rows scatter to the members they name, or to its fallback
    clean      values become what the model takes, or a refusal that names row and field
    run        upstreams first, independent ones side by side; each node waits in its version's batcher
    answer     parts gather in the call; when the last one is in, `done` is called once
    record     what was answered goes to the journal and the meter, before the answer leaves

Nothing here blocks and nothing here is a task: every step is a callback on the loop's thread. One row for one model,
the commonest request, takes the short way of `quick`, which comes back here when something is unusual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from retinue.core.batching import BatchKey
from retinue.core.errors import (
    DeadlineError,
    InferenceError,
    RequestError,
    RetinueError,
    TooLargeError,
    UnavailableError,
    UnknownModelError,
)
from retinue.gateway.answers import Answers, ask
from retinue.gateway.calls import Call, Group, Part
from retinue.gateway.meter import Meter
from retinue.gateway.plans import Plan
from retinue.gateway.recorder import Answered, Ran, Recorder
from retinue.gateway.release import PinnedRelease, Route
from retinue.gateway.tracing import Tracing
from retinue.gateway.values import Column

ONE = (0,)  # the rows of a request that has one


class Pending(Protocol):
    """A request under way."""

    began: float
    deadline: float

    def expire(self, error: RetinueError) -> None:
        """The deadline has come."""


class DataPlane:
    """Admits requests, runs them in the release they were admitted under, and answers them."""

    def __init__(
        self,
        pin: Callable[[], PinnedRelease | None],
        meter: Meter,
        recorder: Recorder | None,
        *,
        max_queue: int,
        max_rows: int,
        timeout: float,
    ) -> None:
        self._pin = pin
        self._meter = meter
        self.recorder = recorder
        self.answers = Answers()
        self.tracing: Tracing | None = None
        self.slow_after = float("inf")  # seconds from which `slow(endpoint, seconds, status)` is told of a request
        self.slow: Callable[[str, float, int], None] = lambda endpoint, seconds, status: None
        self._max_queue = max_queue
        self._max_rows = max_rows
        self.timeout = timeout  # seconds a request may take unless its client says otherwise
        self.pending: dict[Pending, None] = {}  # requests admitted and not yet answered

    @property
    def in_flight(self) -> int:
        """Requests admitted and not yet answered."""
        return len(self.pending)

    def release(self) -> PinnedRelease:
        """The release of this moment. Raises UnavailableError when there is none yet."""
        release = self._pin()
        if release is None:
            raise UnavailableError("no release is served yet", hint="Run `retinue apply`.")
        return release

    def admit(self) -> PinnedRelease:
        """Say no at the door, or pin the release. Raises UnavailableError."""
        if len(self.pending) >= self._max_queue:
            raise UnavailableError(f"{self._max_queue} requests are waiting already")
        return self.release()

    def infer(self, call: Call) -> None:
        """Run the call; `call.done` is called once, now or later. Raises what is wrong with the whole request."""
        if call.rows > self._max_rows:
            raise TooLargeError(
                f"{call.rows} rows are more than the {self._max_rows} that one request may have",
                hint="Send fewer rows in one request, or raise `max_rows` in retinue.toml.",
            )
        release = call.release
        call.route = release.routes.get(call.name)
        if call.route is not None and call.route.endpoint.cache is not None and self.known(call):
            return
        plan = release.plan(call.name) if call.route is None else None
        self._enter(call)
        call.open = 1  # until everything is scattered
        if plan is not None:
            self.start(call, plan, range(call.rows), fallback=False)
        elif call.route is not None:
            self._scatter(call, call.route)
        self._less(call)

    def start_one(self, call: Call, plan: Plan, blocks: list[Any], keys: list[BatchKey]) -> None:
        """Run one row whose nodes' inputs are right as they are; `call.done` is called once, later."""
        self._enter(call)
        call.open = 1
        Group(self, call, plan, ONE, fallback=False).start(blocks, keys)

    def known(self, call: Call) -> bool:
        """Give an answer again, where the call's endpoint keeps them and this was asked before; False: it must run."""
        began = monotonic()
        call.question = ask(call.release.digest, call.name, call.table)
        kept = call.kept = self.answers.find(call.question)
        self.answers.looked(call.name, kept is not None, monotonic() - began)
        if kept is None:
            return False
        call.plane = self
        call.began = began
        call.parts = list(kept.parts)
        call.closed = True
        call.done(call)
        return True

    def cancel(self, call: Call) -> None:
        """The client has gone: nothing of the call is computed any more."""
        if not call.closed:
            self._close(call)
            call.let_go()

    def expire(self) -> None:
        """Answer the calls that are past their deadline; called by the gateway's clock."""
        now = monotonic()
        for call in [call for call in self.pending if call.deadline <= now]:
            call.expire(DeadlineError(f"not answered within {call.deadline - call.began:g} s"))

    def resume(self, call: Call, error: RetinueError, second: bool) -> None:
        """A request of the short way has failed: its fallback answers, if there is one and it may, or the error."""
        call.plane = self
        call.open = 1
        self.pending[call] = None
        if second and call.route is not None:
            self.second(call, call.route, ONE, "unavailable", error)
        else:
            self._fail(call, ONE, error)
        self._less(call)

    def abort(self, call: Call, error: RetinueError) -> None:
        """Answer with this error now, whatever is under way."""
        if call.closed:
            return
        call.parts = []
        call.errors = dict.fromkeys(range(call.rows), error)
        self._close(call)
        call.done(call)

    def answered(self, call: Call, status: int) -> None:
        """Journal and count a call whose answer is about to be given. Only then may the answer be."""
        seconds = monotonic() - call.began
        if call.question is not None and call.kept is None and not call.errors and not call.by_fallback:
            assert call.route is not None
            assert call.route.endpoint.cache is not None
            self.answers.keep(call.question, call.route.endpoint.cache, call.parts, _runs(call))
        if self.recorder is not None:
            self.recorder.answered(_record(call, status, seconds))
        self._meter.answered(call.label, status, seconds, call.rows - len(call.errors), call.by_fallback)
        if self.tracing is not None:
            self.tracing.answered(call, status, seconds)
        if seconds >= self.slow_after:
            self.slow(call.name, seconds, status)
        call.let_go()

    # ------------------------------------------------------------------------------------------------------ route
    def _scatter(self, call: Call, route: Route) -> None:
        assert call.table is not None
        if call.rows == 1:
            keys = [[value] for value in call.table.values(route.keys, 0)]
            values = {key: column[0] for key, column in zip(route.keys, keys, strict=True)}
            self._send(call, route, call.release.select(route, values), ONE, keys)
            return
        every = range(call.rows)
        if not route.keys:
            self._send(call, route, call.release.select(route, {}), every, [])
            return
        columns = [_plain(call.table.column(key, every)) for key in route.keys]
        groups: dict[str | None, list[int]] = {}
        for row in every:
            values = {key: column[row] for key, column in zip(route.keys, columns, strict=True)}
            groups.setdefault(call.release.select(route, values), []).append(row)
        for name, rows in groups.items():
            if call.closed:
                return
            self._send(call, route, name, rows if len(groups) > 1 else every, columns)

    def _send(self, call: Call, route: Route, name: str | None, rows: Sequence[int], columns: list[Column]) -> None:
        """Rows that select the same member go to it, or to the fallback."""
        if name is None:
            self._unknown(call, route, rows, columns)
            return
        try:
            plan = call.release.plan(name)
        except UnavailableError as problem:
            self.second(call, route, rows, "unavailable", problem)
            return
        self.start(call, plan, rows, fallback=False)

    def _unknown(self, call: Call, route: Route, rows: Sequence[int], columns: list[Column]) -> None:
        """Rows whose key names no member of this release."""
        endpoint = route.endpoint
        if endpoint.fallback is not None and "unknown" in endpoint.fallback_when:
            self.second(call, route, rows, "unknown", UnknownModelError("no such member"))
            return
        for row in rows:
            values = {key: column[row] for key, column in zip(route.keys, columns, strict=True)}
            gaps = [key for key, value in values.items() if value is None]
            shown = ", ".join(f"{key}={value!r}" for key, value in values.items())
            error: RetinueError = UnknownModelError(f"row {row}: endpoint {endpoint.name!r} has no model for {shown}")
            if gaps:
                error = RequestError(f"row {row}: {gaps[0]!r} is missing; endpoint {endpoint.name!r} selects by it")
            self._fail(call, [row], error)

    def second(self, call: Call, route: Route, rows: Sequence[int], reason: str, error: RetinueError) -> None:
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
        self.start(call, plan, rows, fallback=True)

    # ------------------------------------------------------------------------------------------------ clean, run
    def start(self, call: Call, plan: Plan, rows: Sequence[int], *, fallback: bool) -> None:
        """Clean all columns of all nodes, then run the nodes that wait for nothing."""
        assert call.table is not None
        if len(rows) == 1 and self._start_one(call, plan, rows, fallback):
            return
        whole = len(rows) == call.rows
        inputs = [reader.read(call.table, rows, whole) for reader in plan.readers]
        problems = {row: problem for found in inputs for row, problem in found.problems.items()}
        if problems:
            self._refuse(call, plan, rows, problems, fallback)
            return
        call.open += 1
        Group(self, call, plan, rows, fallback).start(
            [found.block for found in inputs], [found.key for found in inputs]
        )

    def _start_one(self, call: Call, plan: Plan, rows: Sequence[int], fallback: bool) -> bool:
        """The same for one row in which nothing is wrong; False when it needs the closer look."""
        assert call.table is not None
        blocks: list[Any] = []
        keys: list[BatchKey] = []
        for reader in plan.readers:
            values = call.table.values(reader.names, rows[0])
            key = reader.key(values)
            if key is None:
                return False
            keys.append(key)
            blocks.append(reader.one(values))
        call.open += 1
        Group(self, call, plan, rows, fallback).start(blocks, keys)
        return True

    def _refuse(self, call: Call, plan: Plan, rows: Sequence[int], problems: dict[int, str], fallback: bool) -> None:
        """The bad rows are answered with what is wrong with them, the others run."""
        for index, problem in sorted(problems.items()):
            self._fail(call, [rows[index]], RequestError(f"row {rows[index]}: {problem}"))
        good = [row for index, row in enumerate(rows) if index not in problems]
        if good and not call.closed:
            self.start(call, plan, good, fallback=fallback)

    def finished(self, group: Group, error: RetinueError | None) -> None:
        """A group has its answer (the last node's outputs), or one of its nodes has failed."""
        call, rows = group.call, group.rows
        if error is None:
            outputs = group.outputs[-1]
            assert outputs is not None
            call.parts.append(Part(rows, group.plan.model.served, outputs, group.fallback))
        elif isinstance(error, InferenceError) and call.partial and len(rows) > 1 and not call.closed:
            middle = len(rows) // 2  # halve until the bad row stands alone
            self.start(call, group.plan, rows[:middle], fallback=group.fallback)
            self.start(call, group.plan, rows[middle:], fallback=group.fallback)
        elif isinstance(error, UnavailableError) and call.route and not group.fallback and not call.closed:
            self.second(call, call.route, rows, "unavailable", error)
        else:
            self._fail(call, rows, error)
        self._less(call)

    # ----------------------------------------------------------------------------------------------------- answer
    def _enter(self, call: Call) -> None:
        call.plane = self
        now = call.began = monotonic()
        call.deadline = now + min(call.timeout or self.timeout, self.timeout)
        self.pending[call] = None

    def _fail(self, call: Call, rows: Sequence[int], error: RetinueError) -> None:
        if not call.partial:
            self.abort(call, error)
            return
        for row in rows:
            call.errors[row] = error

    def _less(self, call: Call) -> None:
        call.open -= 1
        if call.open == 0 and not call.closed:
            self._close(call)
            call.done(call)

    def _close(self, call: Call) -> None:
        call.closed = True
        del self.pending[call]


def _record(call: Call, status: int, seconds: float) -> Answered:
    """A call for the journal, with all nodes that ran for it."""
    errors = {row: error.message for row, error in call.errors.items()}
    return Answered(call.id, call.name, call.release.number, call.client, call.client_id, status, call.rows,
                    call.arrived, seconds, _runs(call), errors)  # fmt: skip


def _runs(call: Call) -> Sequence[Ran]:
    """All nodes that ran for a call, now or when its answer was first given."""
    if call.kept is not None:
        return call.kept.runs
    every = call.rows
    return [
        Ran(group.plan.facts[run.index], None if run.rows == every else group.rows, run.block, run.outputs,
            run.queued, run.seconds, group.fallback)
        for group in call.groups for run in group.runs if run.outputs is not None
    ]  # fmt: skip


def _plain(column: Column) -> list[Any]:
    values: list[Any] = column if isinstance(column, list) else column.tolist()
    return values
