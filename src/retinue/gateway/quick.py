"""The short way: one row, in which nothing is wrong, for one model that reads no other. The commonest request.

It is the same admission, batching, journal and counts as in `dataplane`, with one object for the whole request: what
waits in the batcher is what answers. Whatever is unusual (a fallback, a failure, a deadline) goes the long way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from retinue.core.access import Client
from retinue.core.batching import BatchKey
from retinue.core.errors import RetinueError, UnavailableError
from retinue.gateway.batcher import Batch
from retinue.gateway.calls import IDS, Call
from retinue.gateway.dataplane import DataPlane
from retinue.gateway.plans import Plan, Table
from retinue.gateway.release import PinnedRelease
from retinue.telemetry import DIRECT

Outputs = dict[str, list[Any]]


class Asker(Protocol):
    """Who asked: an exchange of HTTP, or a call of gRPC."""

    started: float
    cancel: Callable[[], None] | None

    def reply(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Answer."""


class Tell(Protocol):
    """How one door answers."""

    def body(self, request: Quick, identity: str, outputs: Outputs) -> bytes:
        """The answer's body, from the prediction's id and the outputs, one value in each."""

    def long(self, request: Quick) -> Call:
        """The same request as a call of the long way."""


class Quick:
    """One such request. `asked` is what `tell` needs to remember of it; `tell.long` makes the call of the long way."""

    __slots__ = ("__weakref__", "asked", "began", "block", "client", "client_id", "closed", "deadline", "exchange",
                 "key", "name", "path", "plan", "priority", "release", "tell")  # fmt: skip

    rows = 1

    def __init__(  # noqa: PLR0913, PLR0917  made once a request: passing them by a value would cost as much as they do
        self, path: QuickPath, exchange: Asker, release: PinnedRelease, name: str, client: Client, plan: Plan,
        values: Sequence[Any], key: BatchKey, tell: Tell, asked: Any,
    ) -> None:  # fmt: skip
        self.path = path
        self.exchange = exchange
        self.release = release
        self.name = name
        self.client = client
        self.plan = plan
        self.block = (values,)
        self.key = key
        self.tell = tell
        self.asked = asked
        self.client_id: str | None = None
        self.priority = client.priority
        self.closed = False
        self.began = began = exchange.started
        self.deadline = began + path.timeout

    def wanted(self) -> bool:
        """Whether the client still waits."""
        return not self.closed

    def cancel(self) -> None:
        """The client has gone."""
        if not self.closed:
            self.closed = True
            del self.path.pending[self]

    def ran(self, batch: Batch, start: int) -> None:
        """The answer: journal it, count it, give it."""
        if self.closed:
            return
        path, release = self.path, self.release
        outputs = {name: [values[start]] for name, values in batch.outputs.items()}
        identity, now = IDS.next()
        seconds = monotonic() - self.began
        body = self.tell.body(self, identity, outputs)
        self.closed = True
        del path.pending[self]
        path.record(
            identity, self.name, release.number, self.client.name, self.client_id, 200, 1, now - int(seconds * 1e9),
            seconds, self.plan.facts[0], self.block, outputs, batch.began - self.began, batch.seconds,
        )  # fmt: skip
        path.count(self.name if self.name in release.routes else DIRECT, 200, seconds, 1, 0)
        if seconds >= path.plane.slow_after:
            path.plane.slow(self.name, seconds, 200)
        self.exchange.reply(200, body, release.header)

    def failed(self, error: RetinueError) -> None:
        """No answer: the long way knows whether there is a fallback, and how to say it."""
        if self.closed:
            return
        call = self._lengthen()
        self.path.plane.resume(call, error, isinstance(error, UnavailableError))

    def expire(self, error: RetinueError) -> None:
        """The deadline has come."""
        if not self.closed:
            self.path.plane.resume(self._lengthen(), error, False)

    def _lengthen(self) -> Call:
        self.closed = True
        del self.path.pending[self]
        call = self.tell.long(self)
        call.began, call.deadline = self.began, self.deadline
        call.client, call.client_id, call.priority = self.client.name, self.client_id, self.priority
        self.exchange.cancel = call.cancel
        return call


class QuickPath:
    """What all short requests of a gateway share."""

    __slots__ = ("count", "pending", "plane", "record", "timeout")

    def __init__(self, plane: DataPlane, count: Callable[[str, int, float, int, int], None]) -> None:
        self.plane = plane
        self.pending = plane.pending
        self.timeout = plane.timeout
        self.record = plane.recorder.single if plane.recorder is not None else _nothing
        self.count = count

    def row(
        self, exchange: Asker, client: Client, release: PinnedRelease, name: str, row: dict[str, Any], tell: Tell
    ) -> bool:
        """Start with one JSON row; False: it needs the long way."""
        found = self.plan(release, name, row)
        if found is None:
            return False
        if len(found.readers) > 1:
            return self._graph(exchange, client, release, name, found, row, tell)
        try:
            values = found.readers[0].pick(row)
        except KeyError:
            return False
        return self._start(exchange, client, release, name, found, values, tell, row, None)

    def _graph(
        self, exchange: Asker, client: Client, release: PinnedRelease, name: str, plan: Plan, row: dict[str, Any],
        tell: Tell,
    ) -> bool:  # fmt: skip
        """One row of a model that reads others: a call of its own, whose nodes start without a look at the rest."""
        blocks: list[Any] = []
        keys: list[BatchKey] = []
        try:
            for reader in plan.readers:
                values = reader.pick(row)
                key = reader.key(values)
                if key is None:
                    return False
                keys.append(key)
                blocks.append(reader.one(values))
        except KeyError:
            return False
        request = Quick(self, exchange, release, name, client, plan, (), keys[0], tell, row)
        call = tell.long(request)
        call.client, call.priority = client.name, client.priority
        exchange.cancel = call.cancel
        self.plane.start_one(call, plan, blocks, keys)
        return True

    def line(  # noqa: PLR0913, PLR0917  as above
        self, exchange: Asker, client: Client, release: PinnedRelease, name: str, table: Table, tell: Tell,
        asked: Any, client_id: str | None,
    ) -> bool:  # fmt: skip
        """Start with the one row of a table; False: it needs the long way."""
        route = release.routes.get(name)
        keys: dict[str, Any] = {}
        if route is not None and route.keys:
            keys = dict(zip(route.keys, table.values(route.keys, 0), strict=True))
        found = self.plan(release, name, keys)
        if found is None or len(found.readers) > 1:
            return False
        values = table.values(found.readers[0].names, 0)
        return self._start(exchange, client, release, name, found, values, tell, asked, client_id)

    def _start(  # noqa: PLR0913, PLR0917  as above
        self, exchange: Asker, client: Client, release: PinnedRelease, name: str, plan: Plan, values: Sequence[Any],
        tell: Tell, asked: Any, client_id: str | None,
    ) -> bool:  # fmt: skip
        key = plan.readers[0].key(values)
        if key is None:
            return False
        request = Quick(self, exchange, release, name, client, plan, values, key, tell, asked)
        request.client_id = client_id
        self.pending[request] = None
        exchange.cancel = request.cancel
        plan.models[0].add(request)
        return True

    def plan(self, release: PinnedRelease, name: str, row: dict[str, Any]) -> Plan | None:
        """What this row would run, if it can, and if its answer is neither kept nor traced."""
        route = release.routes.get(name)
        member: str | None = name
        if route is not None:
            if route.endpoint.cache is not None:
                return None
            member = release.choose(route, row) if route.keys else route.name
        if member is None or self.plane.tracing is not None or member not in release.models:
            return None
        try:
            return release.plan(member)
        except UnavailableError:
            return None  # there may be a fallback


def _nothing(*_: Any) -> None:
    """No journal."""
