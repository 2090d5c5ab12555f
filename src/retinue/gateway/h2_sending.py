"""What leaves one HTTP/2 connection: frames of a turn together, bodies as far as the client's windows allow."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from retinue.gateway import h2_wire as h2
from retinue.gateway.exchange import Server, Wire
from retinue.gateway.h2_stream import Stream

LINGER = 5.0  # seconds a client whose connection we end may take to read why


class Sending(asyncio.Protocol):
    """The half of a connection that speaks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.dirty = False
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, Stream] = {}  # whose answers wait for windows
        self._out: list[bytes] = []
        self._window = h2.DEFAULT_WINDOW  # what all answers together may send
        self._initial = h2.DEFAULT_WINDOW  # what each may
        self._owed = 0  # bytes that wait for windows
        self._idle_frames = 0  # frames that helped no call, less what calls make up for
        self._leaving = False  # no new calls
        self._ended = False  # nothing more is read
        self._moved = 0.0  # when an answer that waits last moved; 0: none waits
        self._stuck = 0.0  # since when the client takes nothing
        self._ending = 0.0  # until when it may read why we end

    def whole(self, stream: Stream, data: bytes) -> None:
        """Send a unary answer."""
        size = len(data) + 5
        if size > h2.MAX_FRAME or size > self._window or size > stream.window or self._blocked or stream.said:
            stream.send(data)
            stream.finish(0)
            return
        self._window -= size
        self._say(h2.whole_answer(stream.id, data))
        self._close(stream)

    def head(self, stream: Stream, block: bytes, *, last: bool) -> None:
        """Send a header block."""
        self._say(h2.frame(h2.HEADERS, h2.END_HEADERS | (h2.END_STREAM if last else 0), stream.id, block))
        if last:
            self._close(stream)

    def body(self, stream: Stream, data: bytes) -> None:
        """Send bytes of messages, as far as the windows allow."""
        if stream.out is None:
            stream.out = deque()
        stream.out.append(memoryview(data))
        self._owed += len(data)
        self._pump(stream)

    def end(self, stream: Stream, code: int, text: str) -> None:
        """Send the trailers, behind all that waits."""
        stream.owes = (code, text)
        self._pump(stream)

    def give_back(self, stream: Stream, size: int) -> None:
        """The client may send so many more bytes in this stream."""
        stream.allowed += size
        stream.grown += size
        if stream.grown >= h2.STREAM_WINDOW // 2 and stream.open:
            self._say(h2.frame(h2.WINDOW_UPDATE, 0, stream.id, h2.number(stream.grown)))
            stream.grown = 0

    def _pump(self, stream: Stream) -> None:
        """Send what waits in a stream, as far as the windows allow."""
        out = stream.out
        while out:
            room = min(self._window, stream.window, h2.MAX_FRAME)
            if room <= 0:
                if not self._moved:
                    self._moved = self.server.now()
                self._blocked[stream.id] = stream
                return
            part = out[0]
            now = part[:room]
            size = len(now)
            self._say(h2.frame(h2.DATA, 0, stream.id, bytes(now)))
            if size == len(part):
                out.popleft()
            else:
                out[0] = part[room:]
            self._window -= size
            stream.window -= size
            self._owed -= size
            self._idle_frames -= 2
            if self._moved:
                self._moved = self.server.now()
        self._blocked.pop(stream.id, None)
        if not self._blocked:
            self._moved = 0.0
        if stream.owes is not None:
            code, text = stream.owes
            block = h2.trailers(code, text)
            self._say(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream.id, block))
            self._close(stream)

    def _pump_all(self) -> None:
        for stream in list(self._blocked.values()):
            self._pump(stream)

    def _close(self, stream: Stream) -> None:
        """Its answer is complete."""
        stream.over = True
        stream.cancel = stream.on_end = None
        self._idle_frames -= 4
        if stream.open:
            self._reset(stream.id, h2.NO_ERROR)  # it need not send the rest
        self._streams.pop(stream.id, None)

    def _reset(self, number: int, code: int) -> None:
        self._say(h2.frame(h2.RST_STREAM, 0, number, h2.number(code)))

    def _say(self, data: bytes) -> None:
        self._out.append(data)
        if not self.dirty:
            self.server.flush_soon(cast(Wire, self))

    def flush(self) -> None:
        """Write what there is to say."""
        self.dirty = False
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            if self._ended:
                self._linger(self._transport)
            elif self._leaving:
                self._settle()

    def _linger(self, transport: asyncio.Transport) -> None:
        """Say that no more will come, and let the client read why before the connection goes."""
        self._ending = self.server.now() + LINGER
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _settle(self) -> None:
        """Close when we are leaving and nobody waits for anything."""
        if self._leaving and not self._streams and not self._out and self._transport:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport:
            self._transport.abort()

    def pause_writing(self) -> None:
        """The client takes nothing more for now: read nothing more from it."""
        self._stuck = self.server.now()
        if self._transport:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client takes answers again."""
        self._stuck = 0.0
        if self._transport and not self._transport.is_closing():
            self._transport.resume_reading()
