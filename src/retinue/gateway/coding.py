"""How bodies are framed and coded: what is read of requests, what is refused, how large answers are compressed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

LARGE = 32 * 1024  # bytes of an answer from which on it is compressed for a client that takes it


class Refusal(Exception):  # it is an answer, not a failure
    """A request that is answered with this status and ends its connection."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def check_length(framing: bytes, limit: int) -> None:
    """Refuse a body that is framed oddly or announced as longer than `limit`. Raises the refusal to answer with."""
    if framing.startswith(b"te:"):
        if framing[3:].strip().lower() != b"chunked":
            raise Refusal(501, "Transfer-Encoding other than chunked is not served")
    elif not framing.isdigit():
        raise Refusal(400, "Content-Length is no number")
    elif int(framing) > limit:
        raise Refusal(413, f"the body is over {limit} bytes")


def inflate(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its gzip or deflate coding, at most `limit` bytes. Raises the refusal to answer with."""
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Refusal(415, f"Content-Encoding {encoding.decode('latin-1')!r} is not served")
    attempts = (31,) if encoding != b"deflate" else (15, -15)  # deflate means zlib; some clients send it raw
    for bits in attempts:
        decoder = zlib.decompressobj(bits)
        try:
            data = decoder.decompress(body, limit + 1)
        except zlib.error:
            continue
        if len(data) > limit:
            raise Refusal(413, f"the decompressed body is over {limit} bytes")
        if decoder.eof and not decoder.unused_data:
            return data
    raise Refusal(400, f"the body is not valid {encoding.decode()}")


@lru_cache(256)
def coding_of(accept: bytes) -> bytes | None:
    """The coding that an Accept-Encoding prefers among ours; None: as it is.

    >>> coding_of(b"br, gzip;q=0.5, deflate"), coding_of(b"gzip;q=0"), coding_of(b"*")
    (b'deflate', None, b'gzip')
    """
    best: tuple[float, bytes] | None = None
    for entry in accept.split(b","):
        name, _, parameter = entry.strip().partition(b";")
        name = {b"x-gzip": b"gzip", b"*": b"gzip"}.get(name.strip(), name.strip())
        try:
            weight = float(parameter.strip().removeprefix(b"q=") or 1)
        except ValueError:
            continue
        if name in (b"gzip", b"deflate") and weight > 0 and (best is None or weight > best[0]):
            best = (weight, name)
    return best[1] if best is not None else None


def deflate(parts: Sequence[bytes | memoryview], coding: bytes) -> list[bytes | memoryview]:
    """The body in these parts, compressed at the fastest level."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31 if coding == b"gzip" else 15)
    return [*(packer.compress(part) for part in parts), packer.flush()]
