"""HTTP/1.1 as plain callbacks: no framework, no task and no future per request, one write per connection and turn.

An `Exchange` is one request with its place in the line of answers: answers leave in the order of the requests,
however long each takes. All answers of one turn of the loop leave together, after what `before_flush` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

import orjson

from retinue.gateway.connection import Connection
from retinue.gateway.heads import Head, Heads

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
JSON = b"application/json"
Body = bytes | Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and seconds a client may use."""

    body: int
    head: int = 32 * 1024
    request: float = 30.0  # from a request's first byte to its last
    idle: float = 75.0  # between requests
    write: float = 30.0  # until a slow reader has taken what we have for it


class Exchange:
    """One request and, later, its answer. `reply` once; `cancel` is called when the client goes first."""

    __slots__ = ("answer", "body", "cancel", "close", "connection", "head", "started")

    def __init__(self, connection: Connection, head: Head, body: bytes, started: float) -> None:
        self.connection = connection
        self.head = head
        self.body = body
        self.close = head.close  # the connection ends after this answer
        self.answer: bytes | None = None
        self.cancel: Callable[[], None] | None = None
        self.started = started  # the loop's clock, at the request's last byte

    @property
    def method(self) -> bytes:
        """GET, POST …"""
        return self.head.method

    @property
    def path(self) -> bytes:
        """The target without its query, still percent-encoded."""
        return self.head.path

    def reply(self, status: int, body: Body, headers: bytes = b"", content_type: bytes = JSON) -> None:
        """Answer; `headers` is b"\\r\\nname: value…". It leaves when all earlier answers of the connection have."""
        if self.answer is not None:
            return
        server = self.connection.server
        self.close = self.close or server.draining
        start = server.start(status, headers, content_type, self.close)
        whole = body if isinstance(body, bytes) else b"".join(body)
        if self.head.method == b"HEAD":
            self.answer = b"%b%d\r\n\r\n" % (start, len(whole))
        else:
            self.answer = b"%b%d\r\n\r\n%b" % (start, len(whole), whole)
        self.cancel = None
        server.flush_soon(self.connection)

    def refuse(self, status: int, text: str, headers: bytes = b"") -> None:
        """Answer with `{"error": text}`."""
        self.reply(status, orjson.dumps({"error": text}), headers)


Handler = Callable[[Exchange], None]


class HttpServer:
    """What all connections of one process share: the handler, the limits, the clock, the flush of each turn."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.handler = handler
        self.limits = limits
        self.exchange = Exchange
        self.heads = Heads()
        self.before_flush: list[Callable[[], None]] = []  # e.g. the journal: it must know what clients are told
        self.draining = False
        self.connections: set[Connection] = set()
        self.loop = asyncio.get_running_loop()
        self.now = time.monotonic  # uvloop's own clock counts whole milliseconds
        self._empty = asyncio.Event()
        self._dirty: list[Connection] = []
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

    def flush_soon(self, connection: Connection) -> None:
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

    def lost(self, connection: Connection) -> None:
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
