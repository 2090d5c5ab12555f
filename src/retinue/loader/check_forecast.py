"""What must hold of `task: forecast`: a horizon, series that are not predicted, a table with time."""

from __future__ import annotations

from collections.abc import Callable

from retinue.core.forecast import NONE
from retinue.core.portfolio import ModelSpec

Note = Callable[[str, str, str | None], None]
"""(what is wrong, key, what to do)"""


def check(spec: ModelSpec, prefix: str, timeless: frozenset[str], note: Note) -> None:
    """Notes what does not fit. `timeless` are the declared tables without `time`."""
    own = spec.forecast
    if spec.task != "forecast":
        if own != NONE:
            key = "horizon" if own.horizon else "series" if own.series else "season" if own.season > 1 else "every"
            key = key if own.folds == 0 or own.horizon or own.series else "backtest"
            note(f"a {spec.task} model has no {key}", f"{prefix}{key}", "Declare `task: forecast`, or remove it.")
        return
    if spec.artifact is not None:
        hint = "Give `train: module:function`, or declare what the artifact answers as regression of one step."
        note("a forecast is trained here: its targets are made of its series", f"{prefix}task", hint)
        return
    if not own.horizon:
        note("`task: forecast` needs `horizon`", f"{prefix}task", "Add `horizon: STEPS`: how many rows ahead.")
    for column in sorted({c for c in own.series if own.series.count(c) > 1}):
        note(f"{column!r} is listed more than once", f"{prefix}series", "Name each column once.")
    if spec.target in own.series:
        note(f"the target {spec.target!r} cannot tell series apart", f"{prefix}series", "Name columns with names.")
    table = spec.data[0].table if spec.data else None
    if table in timeless:
        hint = f"Declare `time` of {table}: the next rows are those that follow in time."
        note(f"a forecast needs time, and {table} has none", f"{prefix}data.{table}", hint)
