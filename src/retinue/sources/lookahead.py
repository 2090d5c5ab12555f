"""Does a view look ahead? Ask it as of several moments, and compare with what it says knowing everything.

At a moment T every base table loses its rows from T on, and cells not yet available. A row the view had
before T must then be the same: a feature that changes was made from the future. One thing is allowed: a
row whose own `available` columns are not all known at T may be missing as a whole, since training at T
drops it anyway (a row that sums up an hour begins to exist only within it).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec
from retinue.sources import queries
from retinue.sources.base import ColumnType
from retinue.sources.cutting import moment
from retinue.sources.session import Session

Open = Callable[[str | None], Session]
Row = tuple[Any, ...]
MAX_PROBES = 6
TOLERANCE = 1e-9
"""Relative; a sum over the same rows may be added up in another order."""


def prove_no_lookahead(
    spec: TableSpec, columns: Sequence[str], cutoff: str, timed: Sequence[TableSpec], session: Open
) -> None:
    """Compare the view `spec` truncated at each probe with the whole; `timed` are tables to take probes from.

    Raises DataError naming view, column and an example row, and what to declare or change.
    """
    time = str(spec.time)
    wanted = list(dict.fromkeys([time, *([spec.key] if spec.key else []), *columns]))
    with session(None) as whole:
        types = whole.need(spec.name, wanted)
        limits = _probes(whole, timed, spec.name, cutoff)
        sums = whole.rows(spec.name, queries.sums_before(spec.name, time, types, limits))[0]
        for limit, expected in zip(limits, sums, strict=True):
            with session(limit) as cut:
                found = cut.rows(spec.name, queries.sums_before(spec.name, time, types, [limit]))[0][0]
                if found != expected:
                    full, truncated = (_rows(s, spec, types, limit) for s in (whole, cut))
                    _compare(spec, types, limit, full, truncated)


def _probes(whole: Session, timed: Sequence[TableSpec], view: str, cutoff: str) -> list[str]:
    """The cutoff first, then moments of the view itself, then of what it reads (they fall inside its windows)."""
    found = [moment(cutoff)]
    for spec in sorted(timed, key=lambda s: (s.name != view, s.name)):
        row = whole.rows(spec.name, queries.probes(spec.name, str(spec.time), found[0]))[0]
        picked = row if spec.name == view else (row[1], row[3])
        found += [value for value in picked if value is not None]
    return list(dict.fromkeys(found))[:MAX_PROBES]


def _rows(session: Session, spec: TableSpec, types: dict[str, ColumnType], limit: str) -> Counter[Row]:
    sql, parameters = queries.read(spec.name, types, (), time=spec.time, window=(None, limit), order=())
    return Counter(session.rows(spec.name, sql, parameters))


def _compare(
    spec: TableSpec, types: dict[str, ColumnType], limit: str, full: Counter[Row], truncated: Counter[Row]
) -> None:
    """Pair what differs by time and key, let pass what differs by rounding or is not yet known, refuse the rest."""
    names = list(types)
    identity = 2 if spec.key and spec.key != spec.time else 1
    known_only = limit_of_knowledge(spec, limit)
    missing: dict[Row, list[Row]] = defaultdict(list)
    extra: dict[Row, list[Row]] = defaultdict(list)
    for row in (full - truncated).elements():
        missing[row[:identity]].append(row)
    for row in (truncated - full).elements():
        extra[row[:identity]].append(row)
    for place in sorted(missing.keys() | extra.keys(), key=_order):
        gone, come = sorted(missing[place], key=_order), sorted(extra[place], key=_order)
        for old, new in zip(gone, come, strict=False):
            for name, a, b in zip(names, old, new, strict=True):
                if not _same(a, b):
                    _refuse(
                        spec, names, old, limit, f"column {name} of", f"is {b} without what came later, {a} with it"
                    )
        if len(gone) > len(come) and (known_only is None or place[0] <= known_only):
            _refuse(spec, names, gone[len(come)], limit, "", "is there only because of what came later")
        if len(come) > len(gone):
            _refuse(spec, names, come[len(gone)], limit, "", "is gone because of what came later")


def limit_of_knowledge(spec: TableSpec, limit: str) -> datetime | None:
    """The moment up to which all of the view's `available` columns are known at `limit`; None without any."""
    if not spec.available:
        return None
    longest = max(seconds for _, seconds in spec.available)
    return datetime.fromisoformat(limit) - timedelta(seconds=longest)


def _order(row: Row) -> tuple[str, ...]:
    return tuple(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _refuse(spec: TableSpec, names: Sequence[str], row: Row, limit: str, column: str, what: str) -> None:
    example = dict(zip(names, row, strict=True))
    key = f"{spec.key}={example[spec.key]} at " if spec.key else ""
    raise DataError(
        f"view {spec.name} looks ahead: {column + ' ' if column else ''}the row {key}{example[str(spec.time)]} {what} "
        f"(asked as of {limit})",
        where=spec.where,
        hint="Join as of time (asof join … on a.time >= b.time) or end the window before the row's own time; "
        "if the column is simply known later, declare it: `available: {column: 3h}`.",
    )
