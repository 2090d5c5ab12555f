"""One client connection of HTTP/2: frames in, frames out, and the limits of what a client may make us do.

Plain callbacks, as for HTTP/1.1. A call whose header block was seen before and whose message fits one frame costs one
dictionary lookup and a few slices; its answer is three frames made by one `pack`. Bodies are flow-controlled both ways.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Protocol, cast

from retinue.gateway import h2_wire as h2
from retinue.gateway.exchange import Server
from retinue.gateway.grpc_status import DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED
from retinue.gateway.h2_heads import CallHead, CallHeads
from retinue.gateway.h2_sending import Sending
from retinue.gateway.h2_stream import Stream
from retinue.gateway.h2_wire import Broken

IDLE = 300.0  # seconds without a call until a connection is closed
CALM = 2_000  # frames that ask for no answer to a call, above those that go with calls, in one second
RESETS = 500  # calls that a client may take back in one second
FRAGMENTS = 64  # frames of one header block
OWED = 64 << 20  # bytes of answers that wait for the client's windows before no call is taken


class Door(Protocol):
    """Who answers calls."""

    max_message: int
    server: Server

    def begin(self, stream: Stream) -> None:
        """A call begins: say who takes its messages, or refuse it."""


class H2Connection(Sending):
    """One client connection."""

    def __init__(self, door: Door) -> None:
        super().__init__(door.server)
        self.max_message = door.max_message
        self._begin = door.begin
        self._heads = CallHeads()
        self._rest = b""  # the beginning of a frame
        self._greeted = False
        self._settings = False  # the client's first have come
        self._last = 0  # the newest call
        self._block: tuple[int, int, list[bytes]] | None = None  # stream, flags, pieces of a header block
        self._allowed = h2.CONNECTION_WINDOW  # what the client may still send us
        self._resets = 0
        self._since = self.server.now()

    # ----------------------------------------------------------------------------------------------- the transport
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings."""
        self._transport = cast(asyncio.Transport, transport)
        self.server.connections.add(self)
        self._say(h2.greeting())

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has gone, and with it all its calls."""
        self.server.lost(self)
        self._transport, self._ended = None, True
        streams, self._streams = self._streams, {}
        self._blocked.clear()
        for stream in streams.values():
            _drop(stream)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._ended:
            return
        if self._rest:
            data, self._rest = self._rest + data, b""
        try:
            place = 0 if self._greeted else self._greet(data)
            if place >= 0:
                self._rest = data[self._frames(data, place) :]
        except Broken as error:
            self._break(error)

    def _greet(self, data: bytes) -> int:
        """Where the frames begin, behind the preface; -1 while it is not whole."""
        size = len(h2.PREFACE)
        if data[:size] == h2.PREFACE:
            self._greeted = True
            return size
        if h2.PREFACE.startswith(data):
            self._rest = data
            return -1
        word = data.split(b" ", 1)[0]
        if word.isalpha() and word.isupper() and word != b"PRI":
            self._out = []
            self._say(_NO_HTTP1)
            self._ended = True
            return -1
        raise Broken(h2.PROTOCOL_ERROR, "this port speaks gRPC over HTTP/2")

    # -------------------------------------------------------------------------------------------------- frames in
    def _frames(self, data: bytes, place: int) -> int:
        """Take all frames that are whole; returns where the next begins."""
        end, unpack, find = len(data), h2.unpack, self._heads.find
        while end - place >= 9 and not self._ended:
            high, low, kind, flags, number = unpack(data, place)
            stop = place + 9 + (high << 8 | low)
            if stop - place - 9 > h2.MAX_FRAME:
                raise Broken(h2.FRAME_SIZE_ERROR, f"a frame is over {h2.MAX_FRAME} bytes")
            if stop > end:
                break
            number &= 0x7FFFFFFF
            if self._block is not None and (kind != h2.CONTINUATION or number != self._block[0]):
                raise Broken(h2.PROTOCOL_ERROR, "a header block is interrupted")
            if not self._settings and kind != h2.SETTINGS:
                raise Broken(h2.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            if kind == h2.DATA:
                self._data(number, flags, data, place + 9, stop)
            elif kind == h2.HEADERS:
                head = find(data[place + 9 : stop]) if flags & 0x2C == h2.END_HEADERS else None
                if head is not None and number > self._last and number & 1:
                    self._open(number, flags, head)
                else:
                    self._headers(number, flags, data[place + 9 : stop])
            else:
                self._other(kind, flags, number, data[place + 9 : stop])
            place = stop
        return place

    def _data(self, number: int, flags: int, data: bytes, place: int, stop: int) -> None:
        size = stop - place
        stream = self._streams.get(number)
        self._allowed -= size
        if self._allowed < 0:
            raise Broken(h2.FLOW_CONTROL_ERROR, "more was sent than the connection's window allows")
        if self._allowed < h2.CONNECTION_WINDOW // 2:
            self._say(h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(h2.CONNECTION_WINDOW - self._allowed)))
            self._allowed = h2.CONNECTION_WINDOW
        if stream is None or not stream.open:
            self._late(number)
            return
        if size == 0 and not flags & h2.END_STREAM:
            self._idle()
        if flags & h2.PADDED:
            padding = data[place] + 1 if size else 1
            if padding > size:
                raise Broken(h2.PROTOCOL_ERROR, "the padding is longer than its frame")
            place, stop = place + 1, stop - padding + 1
        stream.allowed -= size
        if stream.allowed < 0:
            raise Broken(h2.FLOW_CONTROL_ERROR, "more was sent than the stream's window allows")
        if flags & h2.END_STREAM:
            stream.open = False
        stream.take(data[place:stop], size)

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        """A header block, or its beginning."""
        if not number & 1:
            raise Broken(h2.PROTOCOL_ERROR, "a client's streams have odd numbers")
        before = 0
        if flags & h2.PADDED:
            before = 1
            if not payload or payload[0] >= len(payload):
                raise Broken(h2.PROTOCOL_ERROR, "the padding is longer than its frame")
            payload = payload[: len(payload) - payload[0]]
        if flags & h2.HAS_PRIORITY:
            before += 5
        if before > len(payload):
            raise Broken(h2.FRAME_SIZE_ERROR, "a HEADERS frame is too short")
        payload = payload[before:]
        if flags & h2.END_HEADERS:
            self._block_read(number, flags, payload)
        else:
            self._block = (number, flags, [payload])

    def _continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise Broken(h2.PROTOCOL_ERROR, "CONTINUATION without a header block")
        number, first, pieces = self._block
        pieces.append(payload)
        if len(pieces) > FRAGMENTS or sum(map(len, pieces)) > 2 * h2.MAX_HEADERS:
            raise Broken(h2.ENHANCE_YOUR_CALM, "the header block is too long")
        if flags & h2.END_HEADERS:
            self._block = None
            self._block_read(number, first, b"".join(pieces))

    def _block_read(self, number: int, flags: int, block: bytes) -> None:
        head = self._heads.read(block)  # also of a call that is not taken: the table is the connection's
        if number > self._last:
            self._open(number, flags, head)
            return
        stream = self._streams.get(number)
        if stream is None or not stream.open:
            self._late(number)
        elif not flags & h2.END_STREAM:
            raise Broken(h2.PROTOCOL_ERROR, "trailers that do not end their stream")
        else:
            stream.open = False
            stream.take(b"", 0)

    def _open(self, number: int, flags: int, head: CallHead) -> None:
        """A call begins."""
        self._last = number
        now = self._since = self.server.now()
        if self._leaving or len(self._streams) >= h2.MAX_STREAMS or self._owed > OWED:
            self._reset(number, h2.REFUSED_STREAM)
            self._taken_back()
            return
        if head.malformed:
            self._reset(number, h2.PROTOCOL_ERROR)
            self._taken_back()
            return
        stream = self._streams[number] = Stream(self, number, head, self._initial, now)
        if flags & h2.END_STREAM:
            stream.open = False
        self._begin(stream)
        if not stream.open and not stream.over:
            stream.read()

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        match kind:
            case h2.WINDOW_UPDATE:
                self._widen(number, payload)
            case h2.SETTINGS:
                self._set(flags, number, payload)
            case h2.PING:
                _check(len(payload) == 8, h2.FRAME_SIZE_ERROR, "a PING has 8 bytes")
                _check(number == 0, h2.PROTOCOL_ERROR, "a PING has no stream")
                if not flags & h2.ACK:
                    self._idle()
                    self._say(h2.frame(h2.PING, h2.ACK, 0, payload))
            case h2.RST_STREAM:
                _check(len(payload) == 4, h2.FRAME_SIZE_ERROR, "an RST_STREAM has 4 bytes")
                _check(0 < number <= self._last, h2.PROTOCOL_ERROR, "RST_STREAM of a stream that never was")
                self._taken_back()
                self._forget(number)
            case h2.CONTINUATION:
                self._continuation(flags, payload)
            case h2.GOAWAY:
                self._leaving = True
                self._settle()
            case h2.PUSH_PROMISE:
                raise Broken(h2.PROTOCOL_ERROR, "a client promises nothing")
            case _:
                self._idle()  # PRIORITY, and what we do not know

    def _set(self, flags: int, number: int, payload: bytes) -> None:
        _check(number == 0, h2.PROTOCOL_ERROR, "SETTINGS have no stream")
        _check(len(payload) % 6 == 0 and not (flags & h2.ACK and payload), h2.FRAME_SIZE_ERROR, "SETTINGS are damaged")
        self._settings = True
        self._idle()
        if flags & h2.ACK:
            return
        for place in range(0, len(payload), 6):
            key, value = struct.unpack_from(">HL", payload, place)
            if key == h2.INITIAL_WINDOW_SIZE:
                _check(value <= h2.MAX_WINDOW, h2.FLOW_CONTROL_ERROR, "the window is too large")
                for stream in self._streams.values():
                    stream.window += value - self._initial
                    _check(stream.window <= h2.MAX_WINDOW, h2.FLOW_CONTROL_ERROR, "a window is too large")
                self._initial = value
            elif key == h2.MAX_FRAME_SIZE:
                _check(h2.MAX_FRAME <= value < 1 << 24, h2.PROTOCOL_ERROR, "the frame size is out of range")
        self._say(h2.frame(h2.SETTINGS, h2.ACK, 0))
        self._pump_all()

    def _widen(self, number: int, payload: bytes) -> None:
        _check(len(payload) == 4, h2.FRAME_SIZE_ERROR, "a WINDOW_UPDATE has 4 bytes")
        more = int.from_bytes(payload, "big") & 0x7FFFFFFF
        self._idle()
        if number == 0:
            _check(more > 0, h2.PROTOCOL_ERROR, "a window grows by nothing")
            self._window += more
            _check(self._window <= h2.MAX_WINDOW, h2.FLOW_CONTROL_ERROR, "the connection's window is too large")
            self._pump_all()
            return
        _check(number <= self._last, h2.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that never was")
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.window += more
        if more == 0 or stream.window > h2.MAX_WINDOW:
            self._reset(number, h2.FLOW_CONTROL_ERROR if more else h2.PROTOCOL_ERROR)
            self._forget(number)
        elif number in self._blocked:
            self._pump(stream)

    def _forget(self, number: int) -> None:
        """Nobody waits for this call any more."""
        stream = self._streams.pop(number, None)
        self._blocked.pop(number, None)
        if not self._blocked:
            self._moved = 0.0
        if stream is not None:
            if stream.out:
                self._owed -= sum(map(len, stream.out))
            _drop(stream)
            self._settle()

    # --------------------------------------------------------------------------------------------------- the limits
    def _idle(self) -> None:
        """A frame that belongs to no call's progress."""
        self._idle_frames = max(self._idle_frames, -CALM) + 1
        if self._idle_frames > CALM:
            raise Broken(h2.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def _taken_back(self) -> None:
        """A call came to nothing."""
        self._idle()
        self._resets += 1
        if self._resets > RESETS:
            raise Broken(h2.ENHANCE_YOUR_CALM, "too many calls are begun and taken back")

    def _late(self, number: int) -> None:
        """A frame of a stream that is over for us."""
        if number == 0 or not number & 1 or number > self._last:
            raise Broken(h2.PROTOCOL_ERROR, "a frame of a stream that never was")
        self._idle()

    def check(self, now: float) -> None:
        """The clock's look at this connection: who is too slow is told so, or cut off."""
        limits = self.server.limits
        self._idle_frames = self._resets = 0
        if self._ending and now > self._ending:
            self.abort()
            return
        for since in (self._stuck, self._moved):
            if since and now - since > limits.write:
                self.abort()
                return
        self._hurry(now)
        if not self._greeted and now - self._since > limits.request:
            self.abort()
        elif not self._streams and now - self._since > IDLE:
            self.close_if_idle()

    def _hurry(self, now: float) -> None:
        """End calls that take too long to arrive, or to be answered."""
        patience = self.server.limits.request
        for stream in list(self._streams.values()):
            if not stream.partial:
                stream.late = 0.0
            if stream.late and now - stream.late > patience:
                _drop_quietly(stream)
                stream.finish(RESOURCE_EXHAUSTED, f"the message did not arrive within {patience:g} s")
            elif now > stream.deadline + 0.5:  # the data plane tells of its own deadlines
                _drop_quietly(stream)
                stream.finish(DEADLINE_EXCEEDED, "the call's deadline is over")
            elif stream.partial and not stream.late:
                stream.late = now

    def close_if_idle(self) -> None:
        """Say that no new calls are taken; close when the last has its answer."""
        if not self._leaving and self._transport:
            self._leaving = True
            self._say(h2.frame(h2.GOAWAY, 0, 0, h2.number(self._last) + h2.number(h2.NO_ERROR)))
        for stream in list(self._streams.values()):
            if stream.on_leave is not None:
                stream.on_leave()
        self._settle()

    def _break(self, error: Broken) -> None:
        """Say why, and end."""
        self._ended = True
        text = error.text.encode()
        self._say(h2.frame(h2.GOAWAY, 0, 0, h2.number(self._last) + h2.number(error.code) + text))
        streams, self._streams = self._streams, {}
        self._blocked.clear()
        for stream in streams.values():
            _drop(stream)


def _drop_quietly(stream: Stream) -> None:
    """Nothing is computed for it any more."""
    cancel, stream.cancel = stream.cancel, None
    if cancel is not None:
        cancel()


def _drop(stream: Stream) -> None:
    """Nobody waits for this call any more."""
    stream.over = True
    stream.on_end = stream.on_leave = None
    _drop_quietly(stream)


def _check(right: bool, code: int, text: str) -> None:
    if not right:
        raise Broken(code, text)


_TEXT = b'{"error":"this port speaks gRPC (HTTP/2); REST is on [serve] port"}'
_NO_HTTP1 = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_TEXT), _TEXT)
)
