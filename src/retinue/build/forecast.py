"""Targets of a forecast: the next rows of each row's series, and the seasonal naive forecast that errors are held to.

    rows of a table ──► per series in the order of time ──► target_1 … target_H beside each row that has H rows after it

It is made of the rows at hand and nothing else: of rows before a cutoff, no target at or after it can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.build.columns import Table, to_columns
from retinue.core.errors import DataError
from retinue.core.gates import MINIMUM_ROWS
from retinue.core.portfolio import ModelSpec

Array = NDArray[Any]
Scales = dict[tuple[Any, ...], tuple[float, float]]
"""Series → mean absolute and mean squared error of its seasonal naive forecast; a series without one is not in it."""

NOT_FOLLOWED = "not followed by enough rows"
ACROSS = "a gap or a missing target ahead"


@dataclass(frozen=True, slots=True, eq=False)
class _Ordered:
    """Rows in the order of series and time: `order` [n] into the table, the rest [n] in that order."""

    order: Array
    series: Array  # codes
    time: Array  # microseconds
    value: Array

    def linked(self, by: int, every: float | None) -> Array:
        """Mask [n - by]: whether the row `by` places on is of the same series and, with `every`, `by` steps later."""
        same = self.series[by:] == self.series[: len(self.series) - by]
        if every is None:
            return np.asarray(same)
        apart = self.time[by:] - self.time[: len(self.time) - by]
        return np.asarray(same & (apart == round(every * 1e6) * by))


def with_steps(rows: Table, spec: ModelSpec, time: str, dropped: dict[str, int], prefix: str = "") -> Table:
    """The rows that `horizon` known targets of their series follow, with a column for each; the rest is counted.

    Raises DataError for two rows of one series at one moment.
    """
    import pyarrow as pa

    own, names = spec.forecast, spec.forecast.steps(spec.target)
    found = _ordered(rows, spec, time)
    n, horizon = len(found.order), own.horizon
    ahead = np.full((n, horizon), np.nan)
    for step in range(1, min(horizon, n - 1) + 1 if n else 1):
        linked = found.linked(step, own.every)
        ahead[: n - step, step - 1] = np.where(linked, found.value[step:], np.nan)
    followed = np.zeros(n, dtype=bool)
    if n > horizon:
        followed[: n - horizon] = found.series[horizon:] == found.series[: n - horizon]
    known = followed & np.isfinite(ahead).all(axis=1)
    dropped[prefix + NOT_FOLLOWED] = int((~followed).sum())
    dropped[prefix + ACROSS] = int((followed & ~known).sum())
    back = np.argsort(found.order)
    ahead, known = ahead[back], known[back]
    kept = rows.filter(pa.array(known))
    for place, name in enumerate(names):
        kept = kept.append_column(name, pa.array(ahead[known, place]))
    return kept


def irregular(rows: Table, spec: ModelSpec, time: str) -> int:
    """How many rows follow the one before them by another time than most rows of the table do."""
    found = _ordered(rows, spec, time)
    steps = np.diff(found.time)[found.linked(1, None)] if len(found.order) > 1 else np.empty(0)
    return int(len(steps) - np.unique(steps, return_counts=True)[1].max()) if len(steps) else 0


def naive_scales(rows: Table, spec: ModelSpec, time: str) -> Scales:
    """The in-sample errors of the seasonal naive forecast y(t) = y(t - season), per series of these rows."""
    season = spec.forecast.season
    found = _ordered(rows, spec, time)
    if len(found.order) <= season:
        return {}
    error = found.value[season:] - found.value[: len(found.value) - season]
    known = found.linked(season, spec.forecast.every) & np.isfinite(error)
    codes, names = found.series[season:][known], _names(rows, spec)
    error = error[known]
    counts = np.bincount(codes)
    sums = [np.bincount(codes, weights=w) for w in (np.abs(error), error**2)]
    first = _first(found)
    return {
        names[first[code]]: (float(sums[0][code] / counts[code]), float(sums[1][code] / counts[code]))
        for code in np.flatnonzero(counts)
    }


def scale_of(rows: Table, spec: ModelSpec, scales: Scales) -> Array:
    """Per row [n, 2] what `naive_scales` says of its series, NaN for one that training did not hold."""
    none = (np.nan, np.nan)
    return np.array([scales.get(name, none) for name in _names(rows, spec)], dtype=np.float64).reshape(-1, 2)


def origin_blocks(rows: Table, time: str, horizon: int) -> Array:
    """Which origins [n] are judged as one: those of the same moment, and of as many moments in a row as they overlap.

    The errors of forecasts from moments less than a horizon apart share truths, so blocks are as long as the horizon
    (Carlstein 1986, Ann. Statist. 14, 1171-1179), or as the least number of blocks of a gate allows.
    """
    moments = np.unique(_moments(rows, time), return_inverse=True)[1]
    distinct = int(moments.max()) + 1 if len(moments) else 0
    found: Array = moments // max(1, min(horizon, distinct // MINIMUM_ROWS))
    return found


def _ordered(rows: Table, spec: ModelSpec, time: str) -> _Ordered:
    series, moments = _codes(rows, spec.forecast.series), _moments(rows, time)
    value = to_columns(rows, [spec.target])[spec.target].astype(np.float64)
    order = np.lexsort([moments, series])
    found = _Ordered(order, series[order], moments[order], value[order])
    twice = np.flatnonzero((np.diff(found.series) == 0) & (np.diff(found.time) == 0))
    if len(twice):
        name = ", ".join(map(str, _names(rows.slice(int(order[twice[0]]), 1), spec)[0]))
        at = str(np.datetime64(int(found.time[twice[0]]), "us")).replace("T", " ")
        raise DataError(
            f"{spec.name}: {len(twice)} rows have the series and the time of another, the first at {at}"
            + (f" of {name}" if name else ""),
            where=spec.where,
            hint="Name the columns that tell the series apart under `series:`, or make one row of them in a view.",
        )
    return found


def _moments(rows: Table, time: str) -> Array:
    found: Array = np.asarray(rows.column(time).to_numpy(), dtype="datetime64[us]").astype(np.int64)
    return found


def _codes(rows: Table, columns: Sequence[str]) -> Array:
    """A number per distinct series [n]; missing values are a value of their own."""
    codes: Array = np.zeros(rows.num_rows, dtype=np.int64)
    for column in columns:
        encoded = rows.column(column).combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if hasattr(encoded, "combine_chunks") else encoded
        own = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64) + 1
        codes = codes * (int(own.max(initial=0)) + 1) + own
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return codes


def _names(rows: Table, spec: ModelSpec) -> list[tuple[Any, ...]]:
    """The series of each row as the values of its columns."""
    if not spec.forecast.series:
        return [()] * rows.num_rows
    return list(zip(*(rows.column(c).to_pylist() for c in spec.forecast.series), strict=True))


def _first(found: _Ordered) -> Array:
    """A row of the table for each code of a series."""
    codes, places = np.unique(found.series, return_index=True)
    rows = np.zeros(int(codes.max()) + 1, dtype=np.int64)
    rows[codes] = found.order[places]
    return rows
