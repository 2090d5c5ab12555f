"""Header blocks of calls, decoded once: clients repeat theirs byte for byte, so the next one is found by its bytes.

A block of indexed fields and of literals that enter no table leaves HPACK's state as it is. While no other block has
come, the same bytes mean the same head. Any other block goes through `hpack`, and empties what was remembered.
"""

from __future__ import annotations

from typing import Any

from retinue.gateway.h2_wire import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, MAX_HEADERS, Broken

MAX_REMEMBERED = 256  # heads of one connection
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_OF_CONNECTIONS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_TARGET = (b":method", b":scheme", b":path")


class CallHead:
    """The head of one call. Shared by all calls of a connection that have the same bytes."""

    __slots__ = ("bad_timeout", "content", "encoding", "key", "malformed", "method", "method_name", "path", "strict",
                 "timeout", "trace")  # fmt: skip

    def __init__(self) -> None:
        self.method_name = b""
        self.path = b""
        self.content = b""
        self.encoding = b""  # grpc-encoding, of messages that say they are packed
        self.key: bytes | None = None  # `authorization: Bearer KEY` or `retinue-key: KEY`
        self.timeout: float | None = None  # seconds
        self.bad_timeout = False
        self.strict = False  # triton_grpc_error: a stream ends with its first error
        self.trace: bytes | None = None  # traceparent
        self.malformed = ""  # why this is no request of HTTP/2
        self.method: Any = None  # what the door remembers of calls with this head

    def take(self, name: bytes, value: bytes) -> None:
        """One header that is no pseudo-header."""
        match name:
            case b"content-type":
                self.content = value
            case b"grpc-encoding":
                self.encoding = value
            case b"grpc-timeout":
                self.timeout = _seconds(value)
                self.bad_timeout = self.timeout is None
            case b"authorization":
                scheme, _, rest = value.partition(b" ")
                if self.key is None and scheme.lower() == b"bearer":
                    self.key = rest.strip()
            case b"retinue-key":
                self.key = value
            case b"triton_grpc_error":
                self.strict = value == b"true"
            case b"traceparent":
                self.trace = value


class CallHeads:
    """The decoder of one connection, and the heads it need not decode again."""

    __slots__ = ("_decoder", "_known", "find")

    def __init__(self) -> None:
        from hpack import Decoder  # late: it comes with an extra

        self._decoder = Decoder(max_header_list_size=MAX_HEADERS)
        self._known: dict[bytes, CallHead] = {}
        self.find = self._known.get

    def read(self, block: bytes) -> CallHead:
        """The head that a block says. Raises Broken when it cannot be decoded: then no later one can be either."""
        found = self._known.get(block)
        if found is not None:
            return found
        try:
            fields = self._decoder.decode(block, raw=True)
        except Exception as error:  # whatever it raises, the table is no longer the client's
            raise _broken(error) from error
        head = _head(fields)
        if not settled(block):
            self._known.clear()
        elif len(self._known) < MAX_REMEMBERED:
            self._known[block] = head
        return head


def _broken(error: Exception) -> Broken:
    from hpack import OversizedHeaderListError

    if isinstance(error, OversizedHeaderListError):
        return Broken(ENHANCE_YOUR_CALM, f"the headers are over {MAX_HEADERS} bytes")
    return Broken(COMPRESSION_ERROR, f"the headers cannot be decoded: {error}")


def settled(block: bytes) -> bool:
    """Whether a valid block leaves the decoder's table as it is.

    >>> settled(bytes.fromhex("8386be")), settled(bytes.fromhex("400161016200")), settled(bytes.fromhex("0001610162"))
    (True, False, True)
    """
    place, size = 0, len(block)
    while place < size:
        first = block[place]
        if first & 0x80:
            _, place = _number(block, place, 7)
        elif first & 0x60:  # a literal that enters the table, or a new size of the table
            return False
        else:
            named, place = _number(block, place, 4)
            for _ in range(1 if named else 2):
                length, place = _number(block, place, 7)
                place += length
    return True


def _number(block: bytes, place: int, bits: int) -> tuple[int, int]:
    """HPACK's integer at this place of a valid block, and the place behind it."""
    most = (1 << bits) - 1
    value = block[place] & most
    place += 1
    if value < most:
        return value, place
    shift = 0
    while True:
        byte = block[place]
        place += 1
        value += (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place


def _head(fields: Any) -> CallHead:
    head = CallHead()
    pseudo: dict[bytes, bytes] = {}
    plain = False
    for name, value in fields:
        if name[:1] == b":":
            if plain or name in pseudo or name not in (*_TARGET, b":authority"):
                head.malformed = f"header {name.decode('latin-1')!r:.60} is out of place"
            pseudo[name] = value
            continue
        plain = True
        if name != name.lower() or name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
            head.malformed = f"header {name.decode('latin-1')!r:.60} has no place in HTTP/2"
        head.take(name, value)
    if any(name not in pseudo for name in _TARGET):
        head.malformed = head.malformed or "the request has no :method, :scheme or :path"
    head.method_name, head.path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    return head


def _seconds(value: bytes) -> float | None:
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        return None
    return int(digits) * unit
