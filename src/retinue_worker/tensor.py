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
    parts = [_COUNT.pack(len(columns))]
    for name, array in columns.items():
        kind, payload = _payload(name, array)
        label = name.encode()
        width = array.shape[1] if array.ndim == 2 else 1
        parts.append(_COLUMN.pack(len(label), kind.encode(), array.ndim, array.shape[0], width, len(payload)))
        parts.append(label)
        parts.append(payload)
    return b"".join(parts)


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


def _payload(name: str, array: Any) -> tuple[str, bytes]:
    if array.ndim not in (1, 2):
        raise TensorError(f"column {name!r} has {array.ndim} dimensions; 1 or 2 can travel")
    if array.dtype.kind in "OUT":
        return _TEXT, _text_payload(name, array.ravel().tolist())
    code = _CODES.get(array.dtype.name)
    if code is None:
        raise TensorError(f"column {name!r} has dtype {array.dtype}; it cannot travel")
    return code, array.tobytes()


def _text_payload(name: str, values: list[Any]) -> bytes:
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
    lengths = struct.unpack_from(f"<{count}i", payload, 0)
    array = np.empty(count, dtype=object)
    offset = count * 4
    for index, length in enumerate(lengths):
        if length < 0:
            continue
        if offset + length > len(payload):
            raise TensorError("a text column is shorter than its values")
        array[index] = bytes(payload[offset : offset + length]).decode("utf-8", "surrogatepass")
        offset += length
    if offset != len(payload):
        raise TensorError("a text column is longer than its values")
    return array
