"""What the further gates of a portfolio file ask: slices, latency, calibration, fairness, robustness, own tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Undecided = Literal["keep", "pass"]

Rate = Literal["selection_rate", "tpr", "fpr", "tnr", "fnr", "precision", "accuracy"]
RATES: tuple[str, ...] = get_args(Rate)
"""The rates a fairness gate may compare: of yes answers, of yes among the true, among the false, and so on."""

NOT_IN_SLICES = frozenset({"average_precision", "median_ae", "ece"})
"""Metrics without a linear form, which a test of every slice at once needs."""


@dataclass(frozen=True, slots=True)
class SliceGate:
    """No group of rows (`by`: the combination of these columns' values) may be much worse than all rows together.

    `worst` is a factor on the loss when `relative` (1.5: at most half as bad again), else a margin in the metric's
    unit. Groups below `min_rows` are told as not enough data.
    """

    by: tuple[str, ...]
    metric: str
    worst: float
    relative: bool = True
    min_rows: int = 100
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class LatencyGate:
    """Seconds of a call with one row; `vs_champion` is how many times the champion's median it may take."""

    p50: float | None = None
    p99: float | None = None
    vs_champion: float | None = None
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class CalibrationGate:
    """Largest expected calibration error."""

    ece: float
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class FairnessGate:
    """Largest difference of a rate between any two groups of rows."""

    by: tuple[str, ...]
    metric: Rate
    gap: float
    min_rows: int = 30
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class RobustnessGate:
    """How far little noise (a share of each input's spread) and inputs beyond the seen range may move the answer.

    `bound` is in the output's unit, or a share of the spread of its answers when `relative`.
    """

    bound: float
    relative: bool = False
    noise: float | None = None
    extremes: bool = False
    on_inconclusive: Undecided = "keep"


@dataclass(frozen=True, slots=True)
class TestFile:
    """A pytest file of the user: where it stands beside the portfolio, and the digest of what it says."""

    __test__ = False  # not one of pytest's own classes

    path: str
    digest: str


FURTHER = ("slices", "latency", "memory", "calibration", "fairness", "robustness", "pytest")
"""Fields of `Gates` that leave no trace at their defaults."""
