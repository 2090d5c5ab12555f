"""Columns to bytes and back: how batches of rows travel between a gateway and a worker.

A batch is `{name: numpy array}`; arrays are 1-D [n] or 2-D [n, k], of float64, float32, int64, int32, bool, or
object (text, None for missing). numpy is imported late: only the environment that has it needs it.
"""

from __future__ import annotations

import struct
from typing import Any

_COUNT = struct.Struct("<I")
_COLUMN = struct.Struct("<HcBQQQ")  # length of the name, kind, dimensions, rows, width, bytes of the payload
_KINDS = {"d": "float64", "f": "float32", "q": "int64", "i": "int32", "?": "bool"}
_CODES = {name: code for code, name in _KINDS.items()}
_TEXT = "s"


class TensorError(ValueError):
    """Bytes that are no columns, or an array that cannot travel."""


def encode(columns: dict[str, Any]) -> bytes:
    """The columns as bytes. Raises TensorError for a dtype or shape that cannot travel."""
    return b"".join(pack(columns)[0])


def pack(columns: dict[str, Any]) -> tuple[list[bytes | memoryview], int]:
    """The columns as parts to be written one behind the other, and their bytes in all; numbers are not copied.

    Raises TensorError for a dtype or shape that cannot travel.
    """
    parts: list[bytes | memoryview] = [_COUNT.pack(len(columns))]
    size = _COUNT.size
    for name, array in columns.items():
        kind, payload = _payload(name, array)
        label = name.encode()
        width = array.shape[1] if array.ndim == 2 else 1
        parts.append(_COLUMN.pack(len(label), kind.encode(), array.ndim, array.shape[0], width, len(payload)) + label)
        parts.append(payload)
        size += _COLUMN.size + len(label) + len(payload)
    return parts, size


def decode(data: bytes | memoryview) -> dict[str, Any]:
    """The columns that `encode` wrote, as fresh writable arrays. Raises TensorError for anything else."""
    import numpy as np

    view = memoryview(data)
    columns: dict[str, Any] = {}
    try:
        (count,) = _COUNT.unpack_from(view, 0)
        offset = _COUNT.size
        for _ in range(count):
            length, code, dimensions, rows, width, size = _COLUMN.unpack_from(view, offset)
            offset += _COLUMN.size
            name = bytes(view[offset : offset + length]).decode()
            offset += length
            shaped = dimensions == 2 or (dimensions == 1 and width == 1)
            if offset + size > len(view) or not shaped or name in columns:
                raise TensorError(f"column {name!r} does not fit its frame")
            payload = view[offset : offset + size]
            offset += size
            kind = code.decode()
            array = _text(payload, rows * width) if kind == _TEXT else np.frombuffer(payload, dtype=_KINDS[kind]).copy()
            columns[name] = array.reshape((rows, width) if dimensions == 2 else (rows,))
    except (struct.error, KeyError, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise TensorError(f"not a batch of columns: {error}") from error
    if offset != len(view):
        raise TensorError(f"{len(view) - offset} bytes too many behind the last column")
    return columns


def _payload(name: str, array: Any) -> tuple[str, bytes | memoryview]:
    if array.ndim not in (1, 2):
        raise TensorError(f"column {name!r} has {array.ndim} dimensions; 1 or 2 can travel")
    if array.dtype.kind in "OUT":
        return _TEXT, _text_payload(name, array.ravel().tolist())
    code = _CODES.get(array.dtype.name)
    if code is None:
        raise TensorError(f"column {name!r} has dtype {array.dtype}; it cannot travel")
    if array.size and array.flags.c_contiguous:
        return code, memoryview(array).cast("B")
    return code, array.tobytes()


def _text_payload(name: str, values: list[Any]) -> bytes:
    """Lengths in bytes, -1 for missing, then the text."""
    try:
        text = "".join(values)
    except TypeError:  # something is missing, or no text
        return _text_with_gaps(name, values)
    if text.isascii():
        return struct.pack(f"<{len(values)}i", *map(len, values)) + text.encode()
    return _text_with_gaps(name, values)


def _text_with_gaps(name: str, values: list[Any]) -> bytes:
    lengths = []
    parts = []
    for value in values:
        if value is None:
            lengths.append(-1)
            continue
        if not isinstance(value, str):
            raise TensorError(f"column {name!r} mixes text with {type(value).__name__}")
        part = value.encode("utf-8", "surrogatepass")
        lengths.append(len(part))
        parts.append(part)
    return struct.pack(f"<{len(lengths)}i", *lengths) + b"".join(parts)


def _text(payload: memoryview, count: int) -> Any:
    import numpy as np

    if count * 4 > len(payload):
        raise TensorError("a text column is shorter than its lengths")
    lengths = np.frombuffer(payload, dtype="<i4", count=count)
    ends = np.maximum(lengths, 0).cumsum(dtype=np.int64)
    total = int(ends[-1]) if count else 0
    if count * 4 + total != len(payload):
        raise TensorError("a text column's values do not fill it")
    data = bytes(payload[count * 4 :])
    array = np.empty(count, dtype=object)
    stops = ends.tolist()
    if data.isascii():  # then bytes are characters, and slices of one text are the values
        text = data.decode("ascii")
        array[:] = [text[start:stop] for start, stop in zip([0, *stops], stops)]  # noqa: B905  Python 3.9 has no strict
    else:
        decoded = [data[start:stop].decode("utf-8", "surrogatepass") for start, stop in zip([0, *stops], stops)]  # noqa: B905
        array[:] = decoded
    if count and int(lengths.min()) < 0:
        array[lengths < 0] = None
    return array
