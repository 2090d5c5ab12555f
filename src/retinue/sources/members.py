"""Rows of a family's members: once several have asked alike, one scan answers all of them.

Every member reads the same columns of the same table under the same pin and differs in the values of its filters.
The first few are answered by reads of their own; then the table is read once, in the order of the members and within
each in the order of any read, and a member's rows are a slice of it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retinue.sources.base import Filters
from retinue.sources.queries import member_names

ALONE = 3
"""So many are answered by reads of their own: sorting a whole table pays only for many."""

CELLS = 16_000_000
"""A result with more values than this is not held: every member reads its own rows."""

KEPT = 4
"""Results that are held at once: training rows and holdout of a family and of its upstreams."""

Values = tuple[str, ...]
Read = Callable[[Filters, Sequence[str], int | None], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """All members' rows in one table, and where each one's begin and how many they are."""

    rows: Any  # pyarrow.Table
    places: Mapping[Values, tuple[int, int]]

    def of(self, values: Values) -> Any:
        """The rows of one member, a table of their own."""
        return self.rows.slice(*self.places.get(values, (0, 0))).combine_chunks()


class Members:
    """What was read for families. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._asked: dict[Hashable, int] = {}
        self._locks: dict[Hashable, threading.Lock] = {}
        self._found: OrderedDict[Hashable, Grouped | None] = OrderedDict()

    def rows(self, question: str, filters: Filters, width: int, read: Read) -> Any:
        """The rows that pass the filters, `width` columns. `question` names all else that was asked.

        `read(filters, members, limit)` reads: rows that pass the filters, in the order of the texts of the columns
        `members`, which come along; None if there are more than `limit`.
        """
        by = [column for column, _ in filters]
        key = (question, *by)
        with self._guard:
            self._asked[key] = asked = self._asked.get(key, 0) + 1
            lock = self._locks.setdefault(key, threading.Lock())
        if asked <= ALONE or len(set(by)) < len(by):
            return read(filters, (), None)
        with lock:  # who comes while another scans waits for that
            with self._guard:
                known = key in self._found
                found = self._found.get(key)
                if known:
                    self._found.move_to_end(key)
            if not known:
                rows = read((), by, CELLS // (width + len(by)))
                found = None if rows is None else grouped(rows, member_names(by))
                self._keep(key, found)
        return read(filters, (), None) if found is None else found.of(tuple(value for _, value in filters))

    def _keep(self, key: Hashable, found: Grouped | None) -> None:
        with self._guard:
            self._found[key] = found
            while len(self._found) > KEPT:
                self._found.popitem(last=False)


def grouped(rows: Any, names: list[str]) -> Grouped:
    """Rows that stand in the order of the columns `names`, told apart by their values; those columns are dropped."""
    import numpy as np

    changed = np.zeros(rows.num_rows, dtype=bool)
    changed[:1] = True
    columns = [rows.column(name).combine_chunks() for name in names]
    for column in columns:
        codes = np.asarray(column.dictionary_encode().indices.fill_null(-1))
        changed[1:] |= codes[1:] != codes[:-1]
    starts = np.flatnonzero(changed)
    ends = np.append(starts[1:], rows.num_rows)
    values = zip(*(column.take(starts).to_pylist() for column in columns), strict=True)
    places = {key: (int(first), int(end - first)) for key, first, end in zip(values, starts, ends, strict=True)}
    return Grouped(rows.drop_columns(names), places)
