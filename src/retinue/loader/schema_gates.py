"""The shapes of the further gates: slices, latency, calibration, fairness, robustness."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from retinue.core.gate_specs import Rate
from retinue.loader import units
from retinue.loader.shape import Shape, needed, opt
from retinue.loader.types import (
    Duration,
    Margin,
    Percent,
    SomeTexts,
    Text,
    above_nothing,
    one_or_many,
    shown,
    wrong,
)

FACTOR = r"^[0-9]+(\.[0-9]+)?x$"


def _factor(value: object) -> float:
    if isinstance(value, str) and re.fullmatch(FACTOR, value) and float(value[:-1]) >= 1:
        return float(value[:-1])
    if isinstance(value, str) and re.fullmatch(units.PERCENT, value):
        return 1.0 + units.percent(value)
    raise wrong(f"expected a factor of at least 1x, or a percentage, found {shown(value)}", 'Write "1.5x" or "50%".')


Factor = Annotated[
    float,
    BeforeValidator(_factor),
    WithJsonSchema({"type": "string", "pattern": rf"{FACTOR}|{units.PERCENT}", "title": "factor"}),
]


def _worst(value: object) -> tuple[float, bool]:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value), False
    if isinstance(value, str):
        return _factor(value), True
    raise wrong(
        f"expected a factor or a margin of at least 0, found {shown(value)}", 'Write "1.5x", "50%", or a number.'
    )


Worst = Annotated[
    Any,  # (value, whether a factor)
    BeforeValidator(_worst),
    WithJsonSchema({"anyOf": [{"type": "string", "title": "factor"}, {"type": "number", "minimum": 0}]}),
]


OneOrMore = Annotated[
    Annotated[Text, Tag("<name>")] | Annotated[SomeTexts, Tag("<list>")],
    Discriminator(one_or_many, custom_error_type="retinue", custom_error_message="expected a name or a list of names"),
]
Undecided = Literal["keep", "pass"]
_UNDECIDED = "Too little data to tell: keep the champion (default), or pass."


class Slices(Shape):
    """No group of rows may be much worse than all rows together; corrected for the number of groups (Holm)."""

    by: OneOrMore = needed("Column; several columns group by the combination of their values.")
    metric: Text = needed("Metric that is compared.")
    worst: Worst = needed("Worst group: `1.5x` the loss of all rows, or a margin in the metric's unit.")
    min_rows: Annotated[int, Field(ge=10)] = opt("Smaller groups are told as not enough data.", default=100)
    on_inconclusive: Undecided = opt(_UNDECIDED, default="keep")


class Latency(Shape):
    """Time of a call with one row in the runtime that will serve, measured while nothing else is built."""

    p50: Annotated[Duration, AfterValidator(above_nothing)] | None = opt("Largest median: `1ms`.")
    p99: Annotated[Duration, AfterValidator(above_nothing)] | None = opt("Largest 99th percentile: `5ms`.")
    vs_champion: Factor | None = opt("Largest median against the champion's in the same run: `1.5x` or `20%` more.")
    on_inconclusive: Undecided = opt(_UNDECIDED, default="keep")

    @model_validator(mode="after")
    def _says_something(self) -> Latency:
        if self.p50 is None and self.p99 is None and self.vs_champion is None:
            raise wrong("expected `p50`, `p99` or `vs_champion`", "Write it like {p99: 5ms}.")
        return self


class Calibration(Shape):
    """Probabilities mean what they say."""

    ece: Annotated[float, Field(gt=0, le=1)] = needed("Largest expected calibration error: 0.05.")
    on_inconclusive: Undecided = opt(_UNDECIDED, default="keep")


class Fairness(Shape):
    """A rate differs between groups of rows by no more than a gap."""

    by: OneOrMore = needed("Column; several columns group by the combination of their values.")
    metric: Rate = needed("Rate of each group: of yes answers, of right ones, and so on.")
    gap: Annotated[float, Field(gt=0, le=1)] | Percent = needed("Largest difference between two groups: 0.1.")
    min_rows: Annotated[int, Field(ge=10)] = opt(
        "Groups with fewer rows that count for the rate are told as not enough data.", default=30
    )
    on_inconclusive: Undecided = opt(_UNDECIDED, default="keep")


class Robustness(Shape):
    """Little noise, and inputs beyond the range that was seen, move the answer within a bound."""

    noise: Annotated[Percent, AfterValidator(above_nothing)] | None = opt(
        "Noise on every FP64 input, as a share of its standard deviation: 1%."
    )
    extremes: bool = opt("Also inputs far beyond the range that was seen.", default=False)
    bound: Margin = needed("How far an answer may move: a number, or a share of the spread of the answers: 10%.")
    on_inconclusive: Undecided = opt(_UNDECIDED, default="keep")

    @model_validator(mode="after")
    def _says_something(self) -> Robustness:
        if self.noise is None and not self.extremes:
            raise wrong("expected `noise` or `extremes: true`", "Write it like {noise: 1%, bound: 0.05}.")
        return self


SlicesValue = Annotated[
    Annotated[Slices, Tag("<mapping>")] | Annotated[list[Slices], Tag("<list>")],
    Discriminator(
        one_or_many,
        custom_error_type="retinue",
        custom_error_message="expected {by: …, metric: …, worst: …}, or a list of these",
    ),
]
FairnessValue = Annotated[
    Annotated[Fairness, Tag("<mapping>")] | Annotated[list[Fairness], Tag("<list>")],
    Discriminator(
        one_or_many,
        custom_error_type="retinue",
        custom_error_message="expected {by: …, metric: …, gap: …}, or a list of these",
    ),
]
