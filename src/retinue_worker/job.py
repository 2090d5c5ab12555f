"""TrainingJob: what a training function is given.

Standard library only, and syntax that Python 3.9 reads, so that old interpreters can train too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingJob:
    """One training: the tables without their holdout, the parameters of the model, a seed.

    `data` maps table names to `pyarrow.Table`; `labels` is the feedback since the last build (a table) or None;
    `files` is a folder: what is written there is kept with the version. `targets` are the columns to predict: the
    target, or of a forecast the target of each step ahead, in order. Lists, because a data frame takes a
    list for columns and a tuple for one key: `df[job.features]`.
    """

    data: dict[str, Any]
    params: dict[str, Any]
    seed: int
    features: list[str]
    target: str
    task: str
    files: Path
    labels: Any = None
    targets: list[str] = field(default_factory=list)
    logged: dict[str, Any] = field(default_factory=dict)

    def log(self, **values: Any) -> None:
        """Record facts about this training beside the version: `job.log(rows=1000, depth=3)`.

        Values are numbers (numpy scalars too), text, booleans or None; numbers that are not finite are recorded
        as None. A later value of the same name replaces the earlier one. Raises TypeError for anything else.
        """
        for name, value in values.items():
            plain = value.item() if hasattr(value, "item") and getattr(value, "shape", ()) == () else value
            if not isinstance(plain, (bool, int, float, str, type(None))):
                raise TypeError(f"job.log({name}=…) takes a number, text, boolean or None, not {type(value).__name__}")
            if isinstance(plain, float) and not math.isfinite(plain):
                plain = None
            self.logged[name] = plain
