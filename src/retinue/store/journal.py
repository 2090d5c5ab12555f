"""The journal's format: segments of framed records, each with length and CRC; a torn or damaged tail is never read.

A segment is `MAGIC`, then frames of `<length u32, CRC-32 u32, kind u8>` and a MessagePack payload. The CRC is over
kind and payload. The first frame is the header; nodes (model, version, arm, names of inputs and outputs) are defined
by a record the first time a segment names them, so every segment can be read alone. docs/reference/journal.md has
the whole of it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from retinue.core.contract import Field
from retinue.core.errors import CorruptArtifactError

MAGIC = b"RETJRNL\x01"
FORMAT = 1
FRAME = struct.Struct("<IIB")
MAX_PAYLOAD = 1 << 30  # bytes; a longer length is damage

HEADER, NODE, REQUEST, GAP, REQUESTS = 0, 1, 2, 4, 5  # 3 is kept for labels; REQUESTS: all small ones of a loop turn
BATCH = 6  # a partition of a scored table
SEEDS = tuple(zlib.crc32(bytes([kind])) for kind in range(16))  # the CRC begins with the kind
OPEN, CLOSED, DAMAGED = ".open", ".seg", ".damaged"  # a segment's name ends with its state

_ARRAY = 1  # MessagePack extension: an ndarray as dtype, shape, bytes


class Header(msgspec.Struct, array_like=True, frozen=True):
    """A segment's first record. `opened` is in nanoseconds since 1970, UTC."""

    format: int
    gateway: int  # its process id
    opened: int
    portfolio: str
    stage: str


class Node(msgspec.Struct, array_like=True, frozen=True):
    """What ran: (name, dtype, width) of each input and output; `number` is how this segment's requests name it."""

    number: int
    model: str
    version: str
    arm: str
    inputs: tuple[tuple[str, str, int], ...]
    outputs: tuple[tuple[str, str, int], ...]


class Run(msgspec.Struct, array_like=True, frozen=True):
    """One node's run over some of a request's rows (None: all). Seconds; tensors are None where they were not kept.

    `inputs`: a list of rows, {name: column}, or a packed 2-D array; `outputs`: {name: column}.
    """

    node: int
    rows: Sequence[int] | None
    inputs: Any
    outputs: Any
    queued: float
    ran: float
    fallback: bool


class Request(msgspec.Struct, array_like=True, frozen=True):
    """One answered request. `arrived` in nanoseconds since 1970, `sampled` the probability that tensors were kept."""

    id: str
    endpoint: str
    release: int
    client: str | None
    client_id: str | None
    status: int
    rows: int
    arrived: int
    seconds: float
    sampled: float
    errors: dict[int, str] | None
    runs: tuple[Run, ...]


class Gap(msgspec.Struct, array_like=True, frozen=True):
    """So many answers left unjournalled between two moments (nanoseconds since 1970), and why."""

    began: int
    ended: int
    answers: int
    reason: str


class Batch(msgspec.Struct, array_like=True, frozen=True):
    """One partition of a table that was scored: counts, and where the answers are. `ended` in ns since 1970.

    `models`: (model, version, rows that it answered, whether as the endpoint's fallback) each.
    """

    run: str
    part: int
    endpoint: str
    release: int
    input: str
    output: str
    ended: int
    seconds: float
    rows: int
    errors: int
    models: tuple[tuple[str, str, int, bool], ...]


Record = Node | Request | Gap | Batch


def describe(fields: Sequence[Field]) -> tuple[tuple[str, str, int], ...]:
    """Fields as a node's record has them."""
    return tuple((field.name, field.dtype, field.width) for field in fields)


# ---------------------------------------------------------------------------------------------------------- encoding
def _unusual(value: Any) -> Any:
    """What MessagePack does not know: numpy arrays and scalars; anything else as its text."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return value.tolist()
        name = value.dtype.str.encode()
        shape = struct.pack(f"<{value.ndim}I", *value.shape)
        return msgspec.msgpack.Ext(_ARRAY, bytes([len(name), value.ndim]) + name + shape + value.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, range):
        return list(value)
    return str(value)


ENCODER = msgspec.msgpack.Encoder(enc_hook=_unusual)


def frame(kind: int, payload: bytes) -> bytes:
    """One framed record."""
    return FRAME.pack(len(payload), zlib.crc32(payload, SEEDS[kind]), kind) + payload


def beginning(header: Header) -> bytes:
    """The first bytes of a segment."""
    return MAGIC + frame(HEADER, ENCODER.encode(header))


# ---------------------------------------------------------------------------------------------------------- decoding
def _extension(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        return bytes(data)
    length, dimensions = data[0], data[1]
    begin = 2 + length
    shape = struct.unpack_from(f"<{dimensions}I", data, begin)
    return np.frombuffer(data[begin + 4 * dimensions :], dtype=bytes(data[2:begin]).decode()).reshape(shape)


_HEADER = msgspec.msgpack.Decoder(Header)
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    NODE: msgspec.msgpack.Decoder(Node),
    REQUEST: msgspec.msgpack.Decoder(Request, ext_hook=_extension),
    GAP: msgspec.msgpack.Decoder(Gap),
    BATCH: msgspec.msgpack.Decoder(Batch),
    REQUESTS: msgspec.msgpack.Decoder(list[Request], ext_hook=_extension),
}


def frames(data: bytes | memoryview, offset: int) -> Iterator[tuple[int, memoryview, int]]:
    """Whole, undamaged frames from `offset` on: (kind, payload, offset behind it); ends before the first other one."""
    view = memoryview(data)
    end = len(view)
    while offset + FRAME.size <= end:
        length, crc, kind = FRAME.unpack_from(view, offset)
        after = offset + FRAME.size + length
        if length > MAX_PAYLOAD or after > end or kind >= len(SEEDS):
            return
        payload = view[offset + FRAME.size : after]
        if zlib.crc32(payload, SEEDS[kind]) != crc:
            return
        yield kind, payload, after
        offset = after


def decode(kind: int, payload: bytes | memoryview) -> Sequence[Record]:
    """The records of a frame; none of a kind that this version does not know. Raises CorruptArtifactError."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        return ()
    try:
        found = decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError, struct.error) as error:
        raise CorruptArtifactError(f"a journal record has a good CRC and cannot be read: {error}") from error
    return found if kind == REQUESTS else (found,)


def read_header(data: bytes | memoryview, where: str) -> tuple[Header, int]:
    """The header and the offset of the first record. Raises CorruptArtifactError."""
    if bytes(data[: len(MAGIC)]) == MAGIC:
        for kind, payload, after in frames(data, len(MAGIC)):
            if kind == HEADER:
                header = _HEADER.decode(payload)
                if header.format > FORMAT:
                    raise CorruptArtifactError(
                        f"its format is {header.format}, this Retinue reads up to {FORMAT}",
                        hint="Use the newer Retinue that wrote it.",
                        where=where,
                    )
                return header, after
            break
    raise CorruptArtifactError("not a journal segment", hint="Move the file out of the journal.", where=where)


class Stream:
    """The records of a segment, in order, as far as it is whole. Raises CorruptArtifactError for bytes that are none.

    After iterating, `end` is where the whole part ends, `left` the bytes behind it; `torn` says that they are the
    beginning of one record, whose writer was killed; otherwise they are damage.
    """

    def __init__(self, data: bytes | memoryview, where: str = "") -> None:
        self._data = data
        self.header, self.end = read_header(data, where)
        self.left = len(data) - self.end
        self.torn = False

    def __iter__(self) -> Iterator[Record]:
        for kind, payload, after in frames(self._data, self.end):
            try:
                records = decode(kind, payload)
            except CorruptArtifactError:
                break  # from here on nothing is trusted
            yield from records
            self.end = after
        self.left = len(self._data) - self.end
        self.torn = self.left < FRAME.size or FRAME.unpack_from(self._data, self.end)[0] + FRAME.size > self.left


@dataclass(frozen=True, slots=True)
class Content:
    """A whole segment in memory; see `Stream` for `end`, `left` and `torn`."""

    header: Header
    nodes: dict[int, Node]
    requests: list[Request]
    gaps: list[Gap]
    end: int
    left: int
    torn: bool


def read_segment(path: Path) -> Content:
    """Everything whole in a segment, open or closed. Raises CorruptArtifactError for a file that is none."""
    return parse(path.read_bytes(), str(path))


def parse(data: bytes, where: str = "") -> Content:
    """What `read_segment` reads, of bytes."""
    stream = Stream(data, where)
    nodes: dict[int, Node] = {}
    requests: list[Request] = []
    gaps: list[Gap] = []
    for record in stream:
        match record:
            case Request():
                requests.append(record)
            case Node():
                nodes[record.number] = record
            case Gap():
                gaps.append(record)
    return Content(stream.header, nodes, requests, gaps, stream.end, stream.left, stream.torn)


# ------------------------------------------------------------------------------------------------------------- places
def segments_of(folder: Path) -> Path:
    """Where a stage's segments lie; `folder` is the stage's journal."""
    return folder / "segments"


def list_segments(folder: Path, *, closed: bool = False) -> list[Path]:
    """Segments of a stage's journal, oldest first; with `closed`, only those no gateway writes any more."""
    endings = (CLOSED,) if closed else (CLOSED, OPEN)
    try:
        found = [path for path in segments_of(folder).iterdir() if path.suffix in endings]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda path: path.stem)
