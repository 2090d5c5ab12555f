"""HTTP/2 as bytes: frames, codes, and what we say in them. Our header blocks touch no table, so they are constants."""

from __future__ import annotations

import struct
from urllib.parse import quote

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
HAS_PRIORITY = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = range(5, 10)
ENHANCE_YOUR_CALM = 11

INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5
MAX_FRAME = 16_384  # bytes of a frame; what every peer takes, and what we take
DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
STREAM_WINDOW = 1 << 20  # bytes of one stream that may be on their way to us
CONNECTION_WINDOW = 4 << 20  # of all streams of a connection
MAX_STREAMS = 1024  # that a client may have open at once on a connection
MAX_HEADERS = 16 * 1024  # bytes of a header list, as HTTP/2 counts them

_FRAME = struct.Struct(">HBBBL")
unpack = _FRAME.unpack_from
"""Length (its high 16 bits, its low 8), type, flags, stream."""


class Broken(Exception):  # it ends the connection, which is an answer
    """The client broke the protocol, or our patience: the connection ends with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def _string(value: bytes) -> bytes:
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    head, size = bytearray(b"\x7f"), size - 127
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + value


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _FRAME.pack(size >> 8, size & 255, kind, flags, stream) + payload


def number(value: int) -> bytes:
    """Four bytes, as most payloads have them."""
    return value.to_bytes(4, "big")


def field(name: bytes, value: bytes) -> bytes:
    """A header as a literal that enters no table."""
    return b"\x00" + _string(name) + _string(value)


def status(code: int) -> bytes:
    """The pseudo-header `:status`."""
    return b"\x88" if code == 200 else b"\x08\x03%d" % code  # 200 is in the static table; so is the name


_KIND = b"\x0f\x10" + b"\x10application/grpc"  # content-type, by its name in the static table
HEAD = status(200) + _KIND
PACKED_HEAD = {coding: HEAD + field(b"grpc-encoding", coding) for coding in (b"gzip", b"deflate")}
_OK = field(b"grpc-status", b"0")

_BEFORE = struct.Struct(f">HBBBL{len(HEAD)}sHBBBLBL")
_AFTER = struct.Struct(f">HBBBL{len(_OK)}s")


def whole_answer(stream: int, message: bytes) -> bytes:
    """Head, message and trailers of an answer that fits one frame."""
    size = len(message) + 5
    before = _BEFORE.pack(
        0, len(HEAD), HEADERS, END_HEADERS, stream, HEAD, size >> 8, size & 255, DATA, 0, stream, 0, size - 5
    )
    return before + message + _AFTER.pack(0, len(_OK), HEADERS, END_HEADERS | END_STREAM, stream, _OK)


def message(data: bytes, packed: bool) -> bytes:
    """A message with gRPC's prefix."""
    return (b"\x01" if packed else b"\x00") + number(len(data)) + data


def trailers(code: int, text: str = "") -> bytes:
    """The header block that ends a call whose head has been sent."""
    if code == 0:
        return _OK
    told = quote(text[:2000], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()
    return field(b"grpc-status", b"%d" % code) + field(b"grpc-message", told)


def ending(code: int, text: str, more: bytes = b"") -> bytes:
    """The header block that is a whole answer: an error and no message."""
    return HEAD + trailers(code, text) + more


def greeting() -> bytes:
    """What we say first: our settings, and how much a client may send before it hears of us again."""
    settings = b"".join(
        struct.pack(">HL", key, value)
        for key, value in ((3, MAX_STREAMS), (INITIAL_WINDOW_SIZE, STREAM_WINDOW), (6, MAX_HEADERS))
    )
    return frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, number(CONNECTION_WINDOW - DEFAULT_WINDOW))
