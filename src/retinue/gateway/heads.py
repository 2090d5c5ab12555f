"""Request heads, parsed once: clients repeat theirs byte for byte, so the next one is found, not parsed.

Only heads that frame themselves plainly are remembered: keep-alive, a Content-Length or no body, every line ended by
CRLF. What two servers could read differently never gets that far: it is refused when it is first parsed.
"""

from __future__ import annotations

from typing import Any

MAX_REMEMBERED = 4096  # heads; a client that changes its head every time gains nothing and costs as much as before
MAX_SIZE = 2048  # bytes of a head that is worth remembering


class Head:
    """One request head. Shared by all requests that have the same bytes: nothing of a single request is in it."""

    __slots__ = ("accept", "close", "door", "encoding", "header_length", "key", "length", "method", "path", "query",
                 "target", "trace")  # fmt: skip

    def __init__(self) -> None:
        self.method = b""
        self.target = b""  # as sent
        self.path = b""  # without query
        self.query = b""
        self.close = False  # the client wants the connection to end after the answer
        self.encoding = b""  # Content-Encoding, in lower case
        self.accept = b""  # Accept-Encoding, in lower case
        self.key: bytes | None = None  # `Authorization: Bearer KEY` or `Retinue-Key: KEY`
        self.header_length: bytes | None = None  # Inference-Header-Content-Length
        self.trace: bytes | None = None  # traceparent
        self.length = 0  # bytes of the body, when the head says so
        self.door: Any = None  # what the handler remembers about requests with this head

    def take(self, name: bytes, value: bytes) -> None:
        """One header that does not frame the body."""
        if name == b"content-encoding":
            self.encoding = value.lower()
        elif name == b"accept-encoding":
            self.accept = value.lower()
        elif name == b"authorization":
            scheme, _, rest = value.partition(b" ")
            self.key = rest.strip() if scheme.lower() == b"bearer" else b""
        elif name == b"retinue-key":
            self.key = value
        elif name == b"inference-header-content-length":
            self.header_length = value
        elif name == b"traceparent":
            self.trace = value

    def aim(self) -> None:
        """Take the target apart, once it is whole; the authority of an absolute one is not ours to judge."""
        target = self.target
        if not target.startswith(b"/"):
            scheme, found, rest = target.partition(b"://")
            if found and scheme.lower() in (b"http", b"https"):
                authority, _, path = rest.partition(b"/")
                target = b"/" + path if b"?" not in authority else b"/?" + authority.partition(b"?")[2]
        self.path, _, self.query = target.partition(b"?")


class Heads:
    """The heads that were seen lately, by their bytes."""

    __slots__ = ("_known", "find")

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.find = self._known.get

    def remember(self, raw: bytes, head: Head) -> None:
        """Keep a head whose every byte was parsed, and which says all of its framing by `length` alone."""
        if len(raw) > MAX_SIZE or not raw[:1].isupper() or raw.count(b"\n") != raw.count(b"\r\n"):
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[raw] = head
