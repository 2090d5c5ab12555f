"""Length-prefixed frames: a JSON header and a binary body, with a checksum, over a Unix socket.

    magic "RTF1" | length of header u32 | length of body u64 | CRC-32 of both u32 | header | body

A frame that is torn, foreign or damaged raises FrameError: the stream has no meaning behind it and is closed.
"""

from __future__ import annotations

import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

MAGIC = b"RTF1"
MAX_HEADER = 16 * 1024**2
MAX_BODY = 4 * 1024**3
_PREFIX = struct.Struct("<4sIQI")

Frame = tuple[dict[str, Any], bytes]


class FrameError(ValueError):
    """Bytes that are no frame, or a stream that ended inside one."""


def encode(header: dict[str, Any], body: bytes = b"") -> bytes:
    """One frame as bytes."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return _PREFIX.pack(MAGIC, len(text), len(body), zlib.crc32(body, zlib.crc32(text))) + text + body


class Decoder:
    """Takes bytes as they arrive, gives whole frames. Raises FrameError for foreign or damaged bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with `data`, in order."""
        self._buffer += data
        while len(self._buffer) >= _PREFIX.size:
            header_size, body_size, check = _sizes(bytes(self._buffer[: _PREFIX.size]))
            end = _PREFIX.size + header_size + body_size
            if len(self._buffer) < end:
                return
            content = bytes(self._buffer[_PREFIX.size : end])
            del self._buffer[:end]
            yield _open(content, header_size, check)

    def close(self) -> None:
        """Say that the stream has ended. Raises FrameError when it ended inside a frame."""
        if self._buffer:
            raise FrameError(f"the stream ended {len(self._buffer)} bytes into a frame")


def receive(connection: socket.socket) -> Frame | None:
    """The next frame of a blocking socket, None at its end. Raises FrameError when it ends inside a frame."""
    prefix = _exactly(connection, _PREFIX.size)
    if prefix is None:
        return None
    header_size, body_size, check = _sizes(prefix)
    content = _exactly(connection, header_size + body_size)
    if content is None:
        raise FrameError("the stream ended behind the prefix of a frame")
    return _open(content, header_size, check)


def _sizes(prefix: bytes) -> tuple[int, int, int]:
    magic, header_size, body_size, check = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise FrameError(f"not a frame: it begins with {magic!r}")
    if header_size > MAX_HEADER or body_size > MAX_BODY:
        raise FrameError(f"a frame of {header_size} + {body_size} bytes is over the limit")
    return header_size, body_size, check


def _open(content: bytes, header_size: int, check: int) -> Frame:
    if zlib.crc32(content) != check:
        raise FrameError("a frame is damaged: its checksum differs")
    try:
        header = json.loads(content[:header_size])
    except ValueError as error:
        raise FrameError(f"a frame's header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise FrameError("a frame's header is no JSON object")
    return header, content[header_size:]


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    got = 0
    while got < size:
        count = connection.recv_into(view[got:])
        if count == 0:
            if got == 0:
                return None
            raise FrameError(f"the stream ended {got} of {size} bytes into a frame")
        got += count
    return bytes(buffer)
