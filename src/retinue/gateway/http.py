"""HTTP/1.1 as plain callbacks: no framework, no task and no future per request, one write per connection and turn.

An `Exchange` is one request with its place in the line of answers: answers leave in the order of the requests,
however long each takes. All answers of one turn of the loop leave together, after what `before_flush` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

from retinue.gateway.connection import Connection
from retinue.gateway.exchange import Exchange, Handler, Limits, Wire
from retinue.gateway.heads import Heads

__all__ = ["Exchange", "Handler", "HttpServer", "Limits"]

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class HttpServer:
    """What all connections of one process share: the handler, the limits, the clock, the flush of each turn."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.handler = handler
        self.limits = limits
        self.heads = Heads()
        self.before_flush: list[Callable[[], None]] = []  # e.g. the journal: it must know what clients are told
        self.draining = False
        self.connections: set[Wire] = set()
        self.loop = asyncio.get_running_loop()
        self.now = time.monotonic  # uvloop's own clock counts whole milliseconds
        self._empty = asyncio.Event()
        self._dirty: list[Wire] = []
        self._starts: dict[tuple[int, bytes, bytes, bool], bytes] = {}
        self._clock: asyncio.TimerHandle | None = None
        self._tick()

    def connection(self) -> Connection:
        """The protocol factory for `loop.create_server`."""
        return Connection(self)

    def start(self, status: int, headers: bytes, content_type: bytes, close: bool) -> bytes:
        """An answer's head up to its length; the same for all answers of a second."""
        key = (status, headers, content_type, close)
        found = self._starts.get(key)
        if found is None:
            date = formatdate(time.time(), usegmt=True).encode()
            reason = _REASONS.get(status, b"Status")
            found = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ndate: %b%b%b\r\ncontent-length: " % (
                status, reason, content_type, date, headers, b"\r\nconnection: close" if close else b"",
            )  # fmt: skip
            if len(self._starts) < 1024:
                self._starts[key] = found
        return found

    def flush_soon(self, connection: Wire) -> None:
        """Write this connection's answers at the end of the loop's turn, with everybody else's."""
        if not connection.dirty:
            connection.dirty = True
            if not self._dirty:
                self.loop.call_soon(self._flush)
            self._dirty.append(connection)

    async def drain(self, patience: float) -> bool:
        """Answer what is in flight, close what is idle; True when all connections ended within `patience` seconds."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()
        if not self.connections:
            self._empty.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._empty.wait()
        left = list(self.connections)
        self.stop()
        return not left

    def lost(self, connection: Wire) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self._empty.set()

    def stop(self) -> None:
        """End at once."""
        if self._clock:
            self._clock.cancel()
        for connection in list(self.connections):
            connection.abort()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for step in self.before_flush:
            step()
        for connection in dirty:
            connection.flush()

    def _tick(self) -> None:
        self._starts.clear()  # they hold the date
        now = self.now()
        for connection in list(self.connections):
            connection.check(now)
        self._clock = self.loop.call_later(1.0, self._tick)
