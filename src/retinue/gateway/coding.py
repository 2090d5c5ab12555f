"""How the body of a request is framed and coded: what is read, what is refused, with which status."""

from __future__ import annotations

import zlib


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
