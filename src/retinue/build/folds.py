"""Which rows an upstream may be trained on when it answers for a downstream's training rows.

With time the folds go forward: each block of rows is answered by an upstream trained on what came before it.
Without time rows are cross-fitted: each block, chosen by a hash of the key, by an upstream that never saw it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.core.errors import DataError
from retinue.sources.cutting import moment

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows from `start` up to but not at `end` are answered by an upstream trained on what is before `train_before`."""

    train_before: str
    start: str
    end: str


@dataclass(frozen=True, slots=True)
class HashFold:
    """Rows whose `by` column hashes to `index` of `of` are answered by an upstream trained on all the others."""

    by: str
    index: int
    of: int


def folds(times: Any, cutoff: str, k: int = 5) -> tuple[Fold, ...]:
    """`k` folds forward in time over `times`, an Arrow timestamp column of training rows.

    The rows before the cutoff are cut into k + 1 blocks of about the same size. The first block has no fold:
    nothing comes before it, so the downstream's training does without its rows. Fewer folds come of fewer
    distinct moments. Raises DataError when there is none.
    """
    values = _moments(times)
    values = np.sort(values[values < np.datetime64(cutoff, "us")])
    starts = np.unique([values[len(values) * i // (k + 1)] for i in range(1, k + 1)]) if len(values) else values
    starts = starts[starts > values[0]] if len(values) else starts
    if not len(starts):
        raise DataError(
            f"{len(values)} rows before the cutoff {cutoff} are not enough to answer for them out of fold",
            hint="Move the cutoff, widen the data, or train without `needs`.",
        )
    edges = [*(moment(str(s)) for s in starts), moment(cutoff)]
    return tuple(Fold(a, a, b) for a, b in pairwise(edges))


def hash_folds(by: str, k: int = 5) -> tuple[HashFold, ...]:
    """`k` folds by hash of column `by`; every row is in exactly one."""
    return tuple(HashFold(by, i, k) for i in range(k))


def in_fold(table: Any, fold: Fold | HashFold, time: str | None = None) -> Mask:
    """Which rows [n] of a table the fold answers for; `time` names the table's time column for a Fold."""
    if isinstance(fold, HashFold):
        return np.equal((hashes(table.column(fold.by)) * fold.of).astype(np.int64), fold.index)
    if time is None:
        raise ValueError("a fold in time needs the name of the time column")
    values = _moments(table.column(time))
    return (values >= np.datetime64(fold.start, "us")) & (values < np.datetime64(fold.end, "us"))


def held_out(column: Any, share: float) -> Mask:
    """Which rows [n] belong to the holdout by hash of their value; a missing value never does."""
    return hashes(column, salt="holdout", missing=1.0) < share


def hashes(column: Any, *, salt: str = "fold", missing: float = 0.0) -> NDArray[np.float64]:
    """A number in [0, 1) per row [n] from the MD5 of its value's text: the same on every machine, for ever."""
    encoded = column.combine_chunks().dictionary_encode()
    if hasattr(encoded, "combine_chunks"):
        encoded = encoded.combine_chunks()
    distinct = [_number(f"{salt}:{value}") for value in encoded.dictionary.to_pylist()]
    numbers = np.array([*distinct, missing], dtype=np.float64)
    return numbers[np.asarray(encoded.indices.fill_null(len(distinct)), dtype=np.int64)]


def _number(text: str) -> float:
    data = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(data[:6], "big") / 2**48


def _moments(column: Any) -> NDArray[np.datetime64]:
    return np.asarray(column.to_numpy(), dtype="datetime64[us]")
