"""ModelStreamInfer: many requests in one call, answered as they are ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from retinue.core.errors import RetinueError
from retinue.gateway.grpc_line import text
from retinue.gateway.grpc_messages import message
from retinue.gateway.grpc_status import OK, UNAVAILABLE, code_of, text_of
from retinue.gateway.h2_heads import CallHead
from retinue.gateway.h2_stream import Stream

STREAMED = 128  # requests of one stream that are under way before no more are read from it


class Asked(Protocol):
    """One request for an inference and the way its answer goes."""

    head: CallHead
    started: float
    deadline: float
    cancel: Callable[[], None] | None

    def reply(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """The answer."""

    def fail(self, error: RetinueError) -> None:
        """The error."""


class Piece:
    """One request of a stream."""

    __slots__ = ("_all", "_data", "cancel", "deadline", "head", "started")

    def __init__(self, all_: Pieces, data: bytes, started: float) -> None:
        self._all = all_
        self._data = data
        self.head = all_.stream.head
        self.started = started
        self.deadline = all_.stream.deadline
        self.cancel: Callable[[], None] | None = None

    def reply(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """The answer."""
        if _asks_for_final(self._data):
            body += _FINAL  # one more entry of a map
        self._all.done(self, text(2, body))

    def fail(self, error: RetinueError) -> None:
        """The error, in an answer that names the request; a strict stream ends with it."""
        if self.head.strict:
            self._all.end(code_of(error), text_of(error))
            return
        found = message("ModelStreamInferResponse")(error_message=text_of(error))
        found.infer_response.id = _id_of(self._data)
        self._all.done(self, found.SerializeToString())


class Pieces:
    """The requests of one stream that are under way."""

    def __init__(self, stream: Stream, infer: Callable[[Asked, bytes], None], now: Callable[[], float]) -> None:
        self.stream = stream
        self._infer = infer
        self._now = now
        self._under_way: dict[Piece, None] = {}
        self._last = False
        self._leaving = False
        stream.streaming = True
        stream.on_message, stream.on_end, stream.on_leave = self._take, self._ended, self._leave
        stream.cancel = self._cancel

    def done(self, piece: Piece, data: bytes) -> None:
        """The answer to one of them."""
        if self._under_way.pop(piece, self) is self:
            return
        stream = self.stream
        stream.send(data)
        self._settle()
        if stream.full and not self._leaving:
            stream.full = False
            stream.read()

    def end(self, code: int, why: str) -> None:
        """The stream ends, with all that is under way."""
        self._cancel()
        self.stream.finish(code, why)

    def _take(self, stream: Stream, data: bytes) -> None:
        piece = Piece(self, data, self._now())
        self._under_way[piece] = None
        if len(self._under_way) >= STREAMED:
            stream.full = True
        self._infer(piece, data)

    def _ended(self) -> None:
        self._last = True
        self._settle()

    def _leave(self) -> None:
        self._leaving = self.stream.full = True
        self._settle()

    def _settle(self) -> None:
        if self._under_way or self.stream.over:
            return
        if self._last:
            self.stream.finish(OK)
        elif self._leaving:
            self.stream.finish(UNAVAILABLE, "the server is about to end; ask again")

    def _cancel(self) -> None:
        under_way, self._under_way = self._under_way, {}
        for piece in under_way:
            if piece.cancel is not None:
                piece.cancel()


def _id_of(data: bytes) -> str:
    try:
        return str(message("ModelInferRequest").FromString(data).id)
    except Exception:  # noqa: BLE001  it was refused for that very reason
        return ""


def _asks_for_final(data: bytes) -> bool:
    if b"triton_enable_empty_final_response" not in data:
        return False
    found = message("ModelInferRequest").FromString(data).parameters
    return "triton_enable_empty_final_response" in found and bool(
        found["triton_enable_empty_final_response"].bool_param
    )


_FINAL = text(4, text(1, b"triton_final_response") + text(2, b"\x08\x01"))
