"""`task: forecast` as declared: how many rows ahead, of which series, and what its targets are called."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

Json = Any
MOST_STEPS = 1_000
"""The largest horizon: each step is a column of the training table and of the answer."""

MOST_FOLDS = 20


@dataclass(frozen=True, slots=True)
class ForecastSpec:
    """A forecast predicts the target of the next `horizon` rows of its row's series; horizon 0: no forecast.

    `series` are the columns that tell the series apart, `season` the rows after which the naive forecast repeats
    itself, `every` the seconds of a step (None: a step is a row), `folds` those of the rolling-origin backtest.
    """

    horizon: int = 0
    series: tuple[str, ...] = ()
    season: int = 1
    every: float | None = None
    folds: int = 0

    def steps(self, target: str) -> tuple[str, ...]:
        """The columns with the targets that a row is trained on.

        >>> ForecastSpec(horizon=2).steps("load")
        ('load_1', 'load_2')
        """
        return tuple(f"{target}_{step}" for step in range(1, self.horizon + 1))

    def body(self) -> dict[str, Json]:
        """As JSON, lists only."""
        return {**asdict(self), "series": list(self.series)}


NONE = ForecastSpec()


def column_problem(spec: ForecastSpec, target: str, columns: Collection[str]) -> str | None:
    """What stops a table of these columns from holding the forecast's series and targets; None when nothing does."""
    for column in spec.series:
        if column not in columns:
            return f"its series column {column!r} is not there"
    taken = [step for step in spec.steps(target) if step in columns]
    return f"the column {taken[0]!r} has the name of a target of the forecast" if taken else None
