"""What may run together and how rows find their owners again: `split(merge(x)) == x`.

Only like goes with like: the batch key of a request's rows is the model's version (each has its own queue) and
which of its columns change their type because a value is missing. Names, types and order of the columns are the
version's; every run gives all outputs, so a request's choice of outputs is made afterwards and splits no batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from retinue.core.contract import Field

Column = list[Any]
BatchKey = tuple[int, ...]


def batch_key(fields: Sequence[Field], missing: Iterable[bool]) -> BatchKey:
    """Positions of the integer and boolean columns in which a value is missing: those travel as floats.

    Merged with others, they would change the type that other requests' rows arrive in.

    >>> batch_key([Field("a", "FP64"), Field("b", "INT64")], [True, True])
    (1,)
    """
    return tuple(index for index, gap in enumerate(missing) if gap and fields[index].dtype in ("INT64", "BOOL"))


def merge(items: Sequence[Sequence[Column]]) -> list[Column]:
    """Columns of several requests, one below the other. Every item has the same columns in the same order.

    >>> merge([[[1], ["a"]], [[2, 3], ["b", "c"]]])
    [[1, 2, 3], ['a', 'b', 'c']]
    """
    if len(items) == 1:
        return list(items[0])
    return [list(chain.from_iterable(parts)) for parts in zip(*items, strict=True)]


def split(outputs: Mapping[str, Any], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Each owner's rows of every output, in the order of `counts`; outputs are anything that slices by row.

    >>> split({"y": [1, 2, 3]}, [1, 2])
    [{'y': [1]}, {'y': [2, 3]}]
    """
    if len(counts) == 1:
        return [dict(outputs)]
    parts: list[dict[str, Any]] = []
    start = 0
    for count in counts:
        parts.append({name: values[start : start + count] for name, values in outputs.items()})
        start += count
    return parts


def take(counts: Sequence[int], limit: int) -> int:
    """How many of the waiting requests go into the next batch: as many as fit `limit` rows, at least one.

    >>> take([3, 3, 3], 7), take([9, 1], 4)
    (2, 1)
    """
    rows = 0
    for index, count in enumerate(counts):
        rows += count
        if rows > limit and index:
            return index
    return len(counts)
