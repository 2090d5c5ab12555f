"""The protocol's 14 data types as bytes: row-major, little endian, no padding.

FP16 and BF16 become float32 (numpy has no BF16: its bits are the upper half of a float32); BYTES elements are text,
each with its length before it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import isnan
from typing import Any, NamedTuple

import numpy as np

from retinue.core.errors import RequestError


class Tensor(NamedTuple):
    """One tensor: `values` is flat, row-major, a list of Python values or a numpy array."""

    name: str
    shape: Sequence[int]
    datatype: str
    values: Any


INTEGERS = {f"{sign}INT{bits}": np.dtype(f"<{'u' if sign else 'i'}{bits // 8}")
            for sign in ("", "U") for bits in (8, 16, 32, 64)}  # fmt: skip
RANGES = {name: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) for name, dtype in INTEGERS.items()}
FLOATS = frozenset(("FP16", "BF16", "FP32", "FP64"))
PLAIN = {**INTEGERS, "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
SIZES = {**{name: dtype.itemsize for name, dtype in PLAIN.items()}, "BOOL": 1, "BF16": 2}
"""Bytes of one element; BYTES has no fixed size."""

DATATYPES = frozenset((*SIZES, "BYTES"))
IN_JSON = DATATYPES - {"FP16", "BF16"}

TAKES = {
    "FP64": FLOATS | INTEGERS.keys(),
    "INT64": frozenset(INTEGERS),
    "BOOL": frozenset(("BOOL",)),
    "BYTES": frozenset(("BYTES",)),
}
"""Which data types a field of ours accepts. Narrower numbers are widened."""

_LENGTH = struct.Struct("<I")


def decode(name: str, datatype: str, data: memoryview, count: int) -> Any:
    """`count` elements of a binary tensor: an array over `data` itself where numpy can read it, a list of text for
    BYTES. Raises RequestError when the bytes are not what data type and shape say.
    """
    if datatype == "BYTES":
        return _texts(name, data, count)
    expected = count * SIZES[datatype]
    if len(data) != expected:
        raise RequestError(f"input {name!r} has {len(data)} bytes; {count} elements of {datatype} have {expected}")
    if datatype == "BOOL":
        flags = np.frombuffer(data, dtype=np.uint8)
        if flags.size and flags.max() > 1:
            raise RequestError(f"input {name!r}: a BOOL must be the byte 0 or 1")
        return flags.view(np.bool_)
    if datatype == "BF16":
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    array = np.frombuffer(data, dtype=PLAIN[datatype])
    if datatype == "FP16":
        return array.astype(np.float32)
    return array if array.flags.aligned else array.copy()  # what runs the model may read several values at once


def encode(datatype: str, values: Any) -> bytes | memoryview:
    """The bytes of a flat list or an array of numbers, booleans or text; no copy of an array that has them already.

    Missing numbers are NaN; missing integers, booleans and text have no form and are 0, false and "".
    """
    if datatype == "BYTES":
        texts = [value if isinstance(value, bytes) else _text(value).encode() for value in values]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    if not isinstance(values, np.ndarray) or values.dtype == object:
        gap = np.nan if datatype in FLOATS else 0
        kind = PLAIN[datatype] if datatype in INTEGERS else None
        values = np.array([gap if value is None else value for value in values], dtype=kind)
    if datatype == "BOOL":
        return np.ascontiguousarray(values, dtype=np.bool_).tobytes()
    if datatype == "BF16":
        return _bfloat(values)
    target = PLAIN[datatype]
    if target.kind in "iu" and values.dtype.kind == "f":
        values = np.nan_to_num(values)
    array = np.ascontiguousarray(values, dtype=target)
    return array.data.cast("B") if array.size else b""


def given(value: Any) -> Any:
    """A value of an array as lists have it: NaN is a missing number, None."""
    return None if type(value) is float and isnan(value) else value


def split_texts(name: str, data: memoryview, count: int) -> list[bytes]:
    """The elements of a binary BYTES tensor. Raises RequestError when their lengths do not fit."""
    if len(data) < 4 * count:
        raise RequestError(f"input {name!r} has {len(data)} bytes; {count} elements of BYTES have at least {4 * count}")
    found: list[bytes] = []
    place = 0
    for _ in range(count):
        if place + 4 > len(data):
            raise RequestError(f"input {name!r} ends within element {len(found)}")
        (size,) = _LENGTH.unpack_from(data, place)
        place += 4 + size
        if place > len(data):
            raise RequestError(f"input {name!r}: element {len(found)} has {size} bytes, more than there are")
        found.append(bytes(data[place - size : place]))
    if place != len(data):
        raise RequestError(f"input {name!r} has {len(data)} bytes; its {count} elements have {place}")
    return found


def text_of(name: str, index: int, value: bytes) -> str:
    """A BYTES element as text. Raises RequestError when it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"input {name!r}: element {index} is not UTF-8") from error


def _texts(name: str, data: memoryview, count: int) -> list[str]:
    return [text_of(name, index, value) for index, value in enumerate(split_texts(name, data, count))]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def _bfloat(values: Any) -> bytes:
    """Round to nearest, ties to even; NaN stays NaN."""
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(values, dtype="<f4")
    bits = array.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    rounded[np.isnan(array)] = 0x7FC0
    return bytes(rounded.tobytes())
