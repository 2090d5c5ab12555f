"""One HTTP request and its answer, and what it needs to know of its connection and server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from retinue.gateway.heads import Head, Heads

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


class Server(Protocol):
    """What all connections of one process share."""

    limits: Limits
    heads: Heads
    handler: Handler
    draining: bool
    loop: asyncio.AbstractEventLoop
    now: Callable[[], float]
    connections: set[Wire]

    def start(self, status: int, headers: bytes, content_type: bytes, close: bool) -> bytes:
        """An answer's head up to its length."""

    def flush_soon(self, connection: Wire) -> None:
        """Write this connection's answers at the end of the loop's turn."""

    def lost(self, connection: Wire) -> None:
        """A connection has ended."""


class Wire(Protocol):
    """A client connection, as its exchanges and its server see it."""

    dirty: bool

    @property
    def server(self) -> Server:
        """What all connections share."""

    def flush(self) -> None:
        """Write the answers at the head of the line."""

    def check(self, now: float) -> None:
        """The clock's look at this connection."""

    def close_if_idle(self) -> None:
        """Close when nothing is arriving and nothing waits for its answer."""

    def abort(self) -> None:
        """Cut the connection."""


class Exchange:
    """One request and, later, its answer. `reply` once; `cancel` is called when the client goes first."""

    __slots__ = ("answer", "body", "cancel", "close", "connection", "head", "started")

    def __init__(self, connection: Wire, head: Head, body: bytes, started: float) -> None:
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
