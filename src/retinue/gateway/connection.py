"""One client connection: parses requests, keeps their answers in line, enforces the limits.

A head that was seen before is found by its bytes and its body is cut out by length; everything else goes through
httptools. Framing that two servers could read differently is refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

import httptools

from retinue.gateway.coding import Refusal, check_length, inflate
from retinue.gateway.exchange import Exchange, Server
from retinue.gateway.heads import Head

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_END = b"\r\n\r\n"
MAX_PIPELINED = 128  # requests of one connection that wait for their answers before we stop reading
LINGER = 10.0  # seconds a refused sender may take to read why


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.dirty = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._line: deque[Exchange] = deque()
        self._now: Head | None = None  # of the request that is arriving
        self._chunks: list[bytes] = []
        self._body = 0
        self._head = 0  # bytes of whole reads that hold nothing but the head that is arriving
        self._fields = 0  # bytes of its header fields so far
        self._begun = 0  # requests that began in this read
        self._raw: bytes | None = None  # the head that this read begins with
        self._headers_done = True
        self._framing: list[bytes] = []
        self._hosts = 0
        self._expects = False
        self._refused = False  # nothing more is parsed; what still arrives is thrown away
        self._last = False  # the client has said that it sends no other request
        self._over = False  # the client has sent its last byte
        self._ending = 0.0
        self._since = server.now()  # of the last change from idle to busy or back
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
        while self._now is None and not self._refused:
            end = data.find(_END) + 4
            head = self.server.heads.find(data[:end]) if end > 3 else None
            if head is None:
                self._raw = data[:end] if end > 3 else None
                break
            size = end + head.length
            if len(data) < size:
                self._raw = None  # the body comes in pieces: httptools gathers them
                break
            self._since = self.server.now()
            self._whole(head, data[end:size])
            if len(data) == size:
                return
            data = data[size:]
        if not self._refused:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
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
        self._raw = None
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
        self._stuck = self.server.now()
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
        self._now = Head()
        self._chunks = []
        self._framing = []
        self._hosts = 0
        self._expects = False
        self._headers_done = False
        self._begun += 1
        self._body = self._head = self._fields = 0
        self._since = self.server.now()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        assert self._now is not None
        self._now.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; only those that frame the body, or that doors read, matter here."""
        self._fields += len(name) + len(value)
        if self._fields > self.server.limits.head + 64 * 1024:  # one read of the transport may hold more than a head
            raise Refusal(431, f"the request's head is over {self.server.limits.head} bytes")
        if self._headers_done:
            return  # trailers say nothing we act on
        head = self._now
        assert head is not None
        match name.lower():
            case b"content-length":
                self._framing.append(value)
            case b"transfer-encoding":
                self._framing.append(b"te:" + value)
            case b"host":
                self._hosts += 1
            case b"expect":
                self._expects = value.lower() == b"100-continue"
            case other:
                head.take(other, value.strip())

    def on_headers_complete(self) -> None:
        """The head is whole: refuse what must not be read."""
        head = self._now
        assert head is not None
        self._headers_done = True
        head.method = self._parser.get_method()
        head.close = not self._parser.should_keep_alive()
        head.aim()
        if len(self._framing) > 1:
            raise Refusal(400, "the body's length is said more than once (Content-Length, Transfer-Encoding)")
        if self._hosts > 1 or (self._hosts == 0 and self._parser.get_http_version() == "1.1"):
            raise Refusal(400, "a request of HTTP/1.1 has one Host header")
        if self._framing:
            check_length(self._framing[0], self.server.limits.body)
        if self._framing and self._parser.should_upgrade():
            raise Refusal(501, "no other protocol is offered; send the request without Upgrade")
        if self._expects and self._transport and not self._line:
            self._transport.write(_CONTINUE)
        chunked = bool(self._framing) and self._framing[0].startswith(b"te:")
        plain = not (chunked or self._expects or head.close or self._parser.should_upgrade())
        if self._framing and not chunked:
            head.length = int(self._framing[0])
        if plain and self._raw is not None and self._begun == 1:
            self.server.heads.remember(self._raw, head)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body += len(body)
        if self._body > self.server.limits.body:
            raise Refusal(413, f"the body is over {self.server.limits.body} bytes")
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        head, self._now = self._now, None
        assert head is not None
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        self._since = self.server.now()
        if head.close:
            self._last = self._refused = True  # what comes behind it is no request
        self._whole(head, body)

    def _whole(self, head: Head, body: bytes) -> None:
        """Hand a whole request to the handler."""
        server = self.server
        exchange = Exchange(self, head, body, self._since)
        self._line.append(exchange)
        if len(self._line) >= MAX_PIPELINED and self._transport:
            self._transport.pause_reading()
        if head.encoding and head.encoding != b"identity":
            try:
                exchange.body = inflate(body, head.encoding, server.limits.body)
            except Refusal as refusal:
                exchange.refuse(refusal.status, refusal.text, b"\r\naccept-encoding: gzip, deflate")
                return
        server.handler(exchange)

    # ---------------------------------------------------------------------------------------------------- answers
    def flush(self) -> None:
        """Write the answers at the head of the line."""
        self.dirty = False
        line, transport = self._line, self._transport
        if transport is None or not line:
            self._settle()
            return
        first = line[0]
        if len(line) == 1 and first.answer is not None and not first.close:  # nearly always
            line.clear()
            transport.write(first.answer)
            self._settle()
            return
        ready: list[bytes] = []
        close = False
        while line and line[0].answer is not None and not close:
            exchange = line.popleft()
            assert exchange.answer is not None
            ready.append(exchange.answer)
            close = exchange.close
        if ready:
            transport.write(b"".join(ready))
        if close:
            self._end()
        else:
            self._settle()
            if len(line) < MAX_PIPELINED <= len(line) + len(ready) and not self._stuck:
                transport.resume_reading()

    def _settle(self) -> None:
        """Answers have left: the connection may be idle now, or at its end."""
        self._since = self.server.now()
        if self.server.draining or self._over:
            self.close_if_idle()

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
        head, self._now = self._now or Head(), None
        exchange = Exchange(self, head, b"", self._since)
        exchange.close = True
        self._chunks = []
        self._line.append(exchange)
        exchange.refuse(status, text)

    def _end(self) -> None:
        """Say that no more will come, and let the client read it before the connection goes."""
        assert self._transport is not None
        if self._last or not self._refused:
            self._transport.close()
            return
        self._ending = self.server.now() + LINGER
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
