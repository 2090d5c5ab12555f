"""HTTP/1.1 as plain callbacks: no framework, no task and no future per request, one write per connection and turn.

An `Exchange` is one request with its place in the line of answers: answers leave in the order of the requests,
however long each takes. Framing that two servers could read differently is refused. Limits: head, body, time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools
import orjson

from retinue.gateway.coding import Refusal, check_length, inflate

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_JSON = b"\r\ncontent-type: application/json"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
MAX_PIPELINED = 128  # requests of one connection that wait for their answers before we stop reading
LINGER = 10.0  # seconds a refused sender may take to read why


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

    __slots__ = ("answer", "body", "cancel", "close", "connection", "encoding", "method", "path", "started")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.method = b""
        self.path = b""
        self.body = b""
        self.encoding = b""
        self.close = False  # the connection ends after this answer
        self.answer: bytes | None = None
        self.cancel: Callable[[], None] | None = None
        self.started = 0.0

    def reply(self, status: int, body: bytes, headers: bytes = b"", content_type: bytes | None = None) -> None:
        """Answer; `headers` is b"\\r\\nname: value…". It leaves when all earlier answers of the connection have."""
        if self.answer is not None:
            return
        server = self.connection.server
        self.close = self.close or server.draining
        self.answer = b"".join(
            (
                b"HTTP/1.1 %d " % status,
                _REASONS.get(status, b"Status"),
                b"\r\ncontent-type: " + content_type if content_type else _JSON,
                b"\r\ndate: ",
                server.date,
                headers,
                b"\r\nconnection: close" if self.close else b"",
                b"\r\ncontent-length: %d\r\n\r\n" % len(body),
                b"" if self.method == b"HEAD" else body,
            )
        )
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
        self.draining = False
        self.date = b""
        self.connections: set[Connection] = set()
        self.loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._dirty: list[Connection] = []
        self._clock: asyncio.TimerHandle | None = None
        self._tick()

    def connection(self) -> Connection:
        """The protocol factory for `loop.create_server`."""
        return Connection(self)

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
        for connection in dirty:
            connection.flush()

    def _tick(self) -> None:
        self.date = formatdate(time.time(), usegmt=True).encode()
        now = self.loop.time()
        for connection in list(self.connections):
            connection.check(now)
        self._clock = self.loop.call_later(1.0, self._tick)


class Connection(asyncio.Protocol):
    """One client connection: parses requests, keeps their answers in line, enforces the limits."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.dirty = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._line: deque[Exchange] = deque()
        self._now: Exchange | None = None  # the request that is arriving
        self._chunks: list[bytes] = []
        self._body = 0
        self._head = 0  # bytes of whole reads that hold nothing but the head that is arriving
        self._fields = 0  # bytes of its header fields so far
        self._begun = 0  # requests that began in this read
        self._headers_done = True
        self._framing: list[bytes] = []
        self._expects = False
        self._refused = False  # nothing more is parsed; what still arrives is thrown away
        self._over = False  # the client has sent its last byte
        self._ending = 0.0
        self._since = server.loop.time()  # of the last change from idle to busy or back
        self._stuck = 0.0  # since when the client takes nothing

    # ----------------------------------------------------------------------------------------------- the transport
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not registered as one
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has gone."""
        self.server.lost(self)
        self._transport = None
        self._refused = True
        for exchange in self._line:
            if exchange.cancel is not None:
                exchange.cancel()
        self._line.clear()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._refused:
            return
        going, self._begun = self._now is not None, 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._line:
                self._line[-1].close = True  # we serve the request and offer no other protocol
            self._refused = True
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, Refusal):
                self._refuse(cause.status, cause.text)
            else:
                self._refuse(400, f"not a valid HTTP request: {error}")
        if self._refused or self._headers_done or self._begun + going != 1:
            return  # a read may also hold many requests and the beginning of a head
        self._head += len(data)
        if self._head > self.server.limits.head:
            self._refuse(431, f"the request's head is over {self.server.limits.head} bytes")

    def eof_received(self) -> bool:
        """Half-closed clients still get their answers."""
        self._over = True
        return bool(self._line)

    def pause_writing(self) -> None:
        """The client takes nothing more for now: read nothing more from it."""
        self._stuck = self.server.loop.time()
        if self._transport:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client takes answers again."""
        self._stuck = 0.0
        if self._transport and not self._transport.is_closing() and len(self._line) < MAX_PIPELINED:
            self._transport.resume_reading()

    # -------------------------------------------------------------------------------------------------- the parser
    def on_message_begin(self) -> None:
        """A request begins."""
        self._now = Exchange(self)
        self._chunks = []
        self._framing = []
        self._expects = False
        self._headers_done = False
        self._begun += 1
        self._body = self._head = self._fields = 0
        self._since = self.server.loop.time()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        assert self._now is not None
        self._now.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; only those that frame the body matter here."""
        self._fields += len(name) + len(value)
        if self._fields > self.server.limits.head + 64 * 1024:  # one read of the transport may hold more than a head
            raise Refusal(431, f"the request's head is over {self.server.limits.head} bytes")
        if self._headers_done:
            return  # trailers say nothing we act on
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            self._framing.append(value)
        elif size == 17 and name.lower() == b"transfer-encoding":
            self._framing.append(b"te:" + value)
        elif size == 16 and name.lower() == b"content-encoding":
            assert self._now is not None
            self._now.encoding = value.strip().lower()
        elif size == 6 and name.lower() == b"expect":
            self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """The head is whole: refuse what must not be read."""
        exchange = self._now
        assert exchange is not None
        self._headers_done = True
        exchange.method = self._parser.get_method()
        exchange.close = not self._parser.should_keep_alive()
        if len(self._framing) > 1:
            raise Refusal(400, "the body's length is said more than once (Content-Length, Transfer-Encoding)")
        if self._framing:
            check_length(self._framing[0], self.server.limits.body)
        if self._framing and self._parser.should_upgrade():
            raise Refusal(501, "no other protocol is offered; send the request without Upgrade")
        if self._expects and self._transport and not self._line:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body += len(body)
        if self._body > self.server.limits.body:
            raise Refusal(413, f"the body is over {self.server.limits.body} bytes")
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """The request is whole: hand it to the handler."""
        exchange, self._now = self._now, None
        assert exchange is not None
        exchange.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        self._since = exchange.started = self.server.loop.time()
        self._line.append(exchange)
        if len(self._line) >= MAX_PIPELINED and self._transport:
            self._transport.pause_reading()
        if exchange.encoding and exchange.encoding != b"identity":
            try:
                exchange.body = inflate(exchange.body, exchange.encoding, self.server.limits.body)
            except Refusal as refusal:
                exchange.refuse(refusal.status, refusal.text, b"\r\naccept-encoding: gzip, deflate")
                return
        self.server.handler(exchange)

    # ---------------------------------------------------------------------------------------------------- answers
    def flush(self) -> None:
        """Write the answers at the head of the line."""
        self.dirty = False
        line, transport = self._line, self._transport
        if transport is None:
            return
        ready: list[bytes] = []
        close = False
        while line and line[0].answer is not None and not close:
            exchange = line.popleft()
            assert exchange.answer is not None
            ready.append(exchange.answer)
            close = exchange.close
        if ready:
            transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
            self._since = self.server.loop.time()
        if close:
            self._end()
        elif self.server.draining or self._over:
            self.close_if_idle()
        elif len(line) < MAX_PIPELINED <= len(line) + len(ready) and not self._stuck:
            transport.resume_reading()

    def close_if_idle(self) -> None:
        """Close when nothing is arriving and nothing waits for its answer."""
        if self._transport and not self._line and (self._now is None or self._refused or self._over):
            self._transport.close()

    def check(self, now: float) -> None:
        """The clock's look at this connection: who is too slow is told so, or cut off."""
        limits = self.server.limits
        if (self._ending and now > self._ending) or (self._stuck and now - self._stuck > limits.write):
            self.abort()
        elif self._now is not None and not self._refused and now - self._since > limits.request:
            self._refuse(408, f"the request did not arrive within {limits.request:g} s")
        elif self._now is None and not self._line and now - self._since > limits.idle and self._transport:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport:
            self._transport.abort()

    def _refuse(self, status: int, text: str) -> None:
        """Answer behind all earlier answers, then end; the rest of what the client sends is thrown away."""
        self._refused = True
        exchange, self._now = self._now or Exchange(self), None
        exchange.close = True
        self._chunks = []
        self._line.append(exchange)
        exchange.refuse(status, text)

    def _end(self) -> None:
        """Say that no more will come, and let the client read it before the connection goes."""
        assert self._transport is not None
        if not self._refused:
            self._transport.close()
            return
        self._ending = self.server.loop.time() + LINGER
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
