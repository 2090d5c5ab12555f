"""One call of a client: its messages as they come in, its answer as it goes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from retinue.core.errors import RetinueError
from retinue.gateway.coding import LARGE, Refusal, deflate, inflate
from retinue.gateway.grpc_status import INTERNAL, OK, RESOURCE_EXHAUSTED, UNIMPLEMENTED, code_of, text_of
from retinue.gateway.h2_heads import CallHead
from retinue.gateway.h2_wire import HEAD, PACKED_HEAD, STREAM_WINDOW, ending, message

CODINGS = (b"gzip", b"deflate")
_ACCEPTED = b"\x00\x14grpc-accept-encoding\x15identity,deflate,gzip"


class Link(Protocol):
    """The connection, as its streams see it."""

    max_message: int

    def whole(self, stream: Stream, data: bytes) -> None:
        """Send a unary answer."""

    def head(self, stream: Stream, block: bytes, *, last: bool) -> None:
        """Send a header block."""

    def body(self, stream: Stream, data: bytes) -> None:
        """Send bytes of messages, as far as the windows allow."""

    def end(self, stream: Stream, code: int, text: str) -> None:
        """Send the trailers, behind all that waits."""

    def give_back(self, stream: Stream, size: int) -> None:
        """The client may send so many more bytes in this stream."""


class Stream:
    """One call. A unary one is answered by `reply` or `finish`, a streamed one by any number of `send` and a `finish`.

    `on_message` gets each message, `on_end` is told that there are no more, `cancel` that the client has gone,
    `on_leave` that the server is about to end.
    """

    __slots__ = ("_chunks", "_have", "_link", "_packed", "_taken", "allowed", "cancel", "deadline", "full", "grown",
                 "head", "id", "late", "on_end", "on_leave", "on_message", "open", "out", "over", "owes", "said",
                 "started", "streaming", "window")  # fmt: skip

    def __init__(self, link: Link, number: int, head: CallHead, window: int, started: float) -> None:
        self._link = link
        self.id = number
        self.head = head
        self.window = window  # bytes that may still be sent to the client
        self.allowed = STREAM_WINDOW  # bytes the client may still send
        self.grown = 0  # of which it has not been told
        self.started = started  # the clock
        self.late = 0.0  # since when the clock sees a message that is not whole
        self.deadline = started + head.timeout if head.timeout is not None else float("inf")
        self.on_message: Callable[[Stream, bytes], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self.on_leave: Callable[[], None] | None = None  # the server is about to end
        self.cancel: Callable[[], None] | None = None
        self.streaming = False
        self.open = True  # the client may send more
        self.over = False  # the answer is complete, or nobody waits for it
        self.said = False  # our head has been sent
        self.full = False  # nothing more is read for now
        self.out: deque[memoryview] | None = None  # what waits for the client's windows
        self.owes: tuple[int, str] | None = None  # the trailers behind it
        self._chunks: list[bytes] = []
        self._have = self._taken = 0
        self._packed = False

    # --------------------------------------------------------------------------------------------------- coming in
    @property
    def partial(self) -> bool:
        """Whether a message, or the request of a unary call, has not come whole."""
        return not self.full and (self._have > 0 or (self.open and not self.streaming))

    def take(self, data: bytes, size: int) -> None:
        """Bytes of messages, `size` of the stream's window."""
        self._taken += size
        if data:
            self._chunks.append(data)
            self._have += len(data)
        self.read()

    def read(self) -> None:
        """Hand out the messages that are whole, then let the client send more."""
        while not (self.full or self.over) and self._have >= 5:
            if len(self._chunks[0]) < 5:
                self._chunks = [b"".join(self._chunks)]
            whole = self._chunks[0]
            size = 5 + int.from_bytes(whole[1:5], "big")
            if size - 5 > self._link.max_message:
                self.finish(RESOURCE_EXHAUSTED, f"the message is over {self._link.max_message} bytes")
                return
            if self._have < size:
                break
            if len(whole) < self._have:
                whole = b"".join(self._chunks)
            place = self._cut(whole)
            self._chunks = [whole[place:]] if place < len(whole) else []
            self._have = len(whole) - place
        if not self.full and not self.over:
            if not self.open:
                self._ended()
            elif self._taken:
                taken, self._taken = self._taken, 0
                self._link.give_back(self, taken)

    def _cut(self, whole: bytes) -> int:
        """Hand out whole messages; returns where the rest begins."""
        place, end = 0, len(whole)
        while end - place >= 5 and not (self.full or self.over):
            stop = place + 5 + int.from_bytes(whole[place + 1 : place + 5], "big")
            if stop > end:
                break
            self.receive(whole[place], whole[place + 5 : stop])
            place = stop
        return place

    def receive(self, flag: int, data: bytes) -> None:
        """One message."""
        self.late = 0.0
        if flag:
            found = self._unpacked(flag, data)
            if found is None:
                return
            data = found
        handler = self.on_message
        assert handler is not None
        if not self.streaming:
            self.on_message = _another
        handler(self, data)

    def _unpacked(self, flag: int, data: bytes) -> bytes | None:
        coding = self.head.encoding
        if flag != 1 or coding in (b"", b"identity"):
            self.finish(INTERNAL, "a message says that it is compressed, and the call does not say how")
            return None
        if coding not in CODINGS:
            why = f"grpc-encoding {coding.decode('latin-1')!r:.60} is not served; there are identity, deflate and gzip"
            self._refuse(UNIMPLEMENTED, why, _ACCEPTED)
            return None
        try:
            found = inflate(data, coding, self._link.max_message)
        except Refusal as refusal:
            self.finish(RESOURCE_EXHAUSTED if refusal.status == 413 else INTERNAL, refusal.text)
            return None
        self._packed = True
        return found

    def _ended(self) -> None:
        """There are no more messages."""
        if self._have:
            self.finish(INTERNAL, "the request ends within a message")
        elif self.streaming:
            if self.on_end is not None:
                on_end, self.on_end = self.on_end, None
                on_end()
        elif self.on_message is not _another:
            self.finish(INTERNAL, "the request has no message")

    # --------------------------------------------------------------------------------------------------- going out
    def reply(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """The answer of a unary call. What HTTP tells in `status` and `headers`, a message tells itself."""
        if self.over:
            return
        self.cancel = None
        if not self._packed or len(body) < LARGE:
            self._link.whole(self, body)
            return
        self.send(body)
        self.finish(OK)

    def send(self, data: bytes) -> None:
        """One message; packed as the client's are when it is large."""
        if self.over:
            return
        packed = self._packed and len(data) >= LARGE
        if not self.said:
            self.said = True
            self._link.head(self, PACKED_HEAD[self.head.encoding] if self._packed else HEAD, last=False)
        if packed:
            data = b"".join(deflate([data], self.head.encoding))
        self._link.body(self, message(data, packed))

    def finish(self, code: int, text: str = "") -> None:
        """The end of the call."""
        if self.over:
            return
        if self.said or code == OK:
            if not self.said:
                self.said = True
                self._link.head(self, HEAD, last=False)
            self._link.end(self, code, text)
        else:
            self._refuse(code, text)

    def fail(self, error: RetinueError) -> None:
        """The end of the call, with an error."""
        self.finish(code_of(error), text_of(error))

    def _refuse(self, code: int, text: str, more: bytes = b"") -> None:
        self.said = True
        self._link.head(self, ending(code, text, more), last=True)


def _another(stream: Stream, data: bytes) -> None:
    """A unary call has one message."""
    if not stream.over:
        if stream.cancel is not None:
            stream.cancel()
        stream.finish(INTERNAL, "the request has more than one message")
