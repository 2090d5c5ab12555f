"""What may run together and how rows find their owners again: `split(merge(x)) == x`.

Only like goes with like: the batch key of a request's rows is the model's version (each has its own queue), the form
its values came in (rows of Python values, a matrix, columns) and which of its columns change their type because a
value is missing. Names, types and order of the columns are the version's; every run gives all outputs, so a
request's choice of outputs is made afterwards and splits no batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from retinue.core.contract import Field

Column = Any
"""Values of one field or output, one per row: a list of Python values, or an array of numpy."""

BatchKey = tuple[str, tuple[int, ...]]
"""The form of the values, and the columns whose type a missing value changes."""

ROWS, MATRIX, COLUMNS = "rows", "matrix", "columns"


def changed(fields: Sequence[Field], missing: Iterable[bool]) -> tuple[int, ...]:
    """Positions of the integer and boolean columns in which a value is missing: those travel as floats.

    Merged with others, they would change the type that other requests' rows arrive in.

    >>> changed([Field("a", "FP64"), Field("b", "INT64")], [True, True])
    (1,)
    """
    return tuple(index for index, gap in enumerate(missing) if gap and fields[index].dtype in ("INT64", "BOOL"))


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


class RunTimes:
    """How long a model's runs take, by the size of the batch: what was measured decides where and how many run.

    Sizes are counted in powers of two; each keeps a moving average of seconds per run (a new measurement weighs 0.2).
    """

    __slots__ = ("_best", "_count", "_limit", "_seconds")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seconds: dict[int, float] = {}
        self._best = limit
        self._count = 0

    def measured(self, rows: int, seconds: float) -> None:
        """One run of so many rows took so many seconds."""
        step = rows.bit_length()
        before = self._seconds.get(step)
        self._seconds[step] = seconds if before is None else before + 0.2 * (seconds - before)
        self._count += 1
        if before is None or (step > 6 and self._count % 16 == 0):
            self._best = self._find()

    def expect(self, rows: int) -> float:
        """Seconds that a run of so many rows should take: 0.0 until one was measured.

        >>> times = RunTimes(1024)
        >>> times.measured(8, 0.004); times.expect(16), times.expect(1)
        (0.008, 0.004)
        """
        step = rows.bit_length()
        found = self._seconds.get(step)
        if found is not None:
            return found
        below = [known for known in self._seconds if known < step]
        if below:  # larger runs were never seen: in proportion, which is an upper bound
            return self._seconds[max(below)] * (1 << step) / (1 << max(below))
        return min(self._seconds.values(), default=0.0)

    @property
    def best(self) -> int:
        """Rows of a batch beyond which a larger one gives no more rows per second (within 10 %), at most the limit."""
        return self._best

    def _find(self) -> int:
        known = sorted(self._seconds)
        rate = {step: self._seconds[step] / (1 << step) for step in known}
        if not known or known[-1] < 7:  # nothing large was seen: there is nothing to say against large ones
            return self._limit
        largest = max(step for step in known if rate[step] <= 1.1 * min(rate.values()))
        return self._limit if largest == known[-1] else max(min(1 << largest, self._limit), 64)
