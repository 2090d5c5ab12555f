"""The shapes of the keys of `task: forecast`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from retinue.core.forecast import MOST_FOLDS, MOST_STEPS
from retinue.loader.shape import Shape, needed
from retinue.loader.types import Duration, above_nothing

Horizon = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Season = Annotated[int, Field(ge=1)]
Every = Annotated[Duration, AfterValidator(above_nothing)]


class Backtest(Shape):
    """A rolling-origin backtest: the model is trained once more per fold, each time on what came before it."""

    folds: Annotated[int, Field(ge=1, le=MOST_FOLDS)] = needed("How many folds, forward in time.", "yes")
