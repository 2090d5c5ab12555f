"""Rates of groups and how far they lie apart, with intervals that hold for all pairs at once.

A proportion has Wilson's score interval; a difference of two the hybrid of both (Newcombe 1998, Statistics in
Medicine 17:873–890, method 10); all pairs of k groups share the error by Bonferroni. Rows that come in groups of one
key count for fewer: a design effect shrinks both counts (Rao & Scott 1992).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from retinue.core.gate_specs import Rate
from retinue.core.gates import ALPHA
from retinue.core.stats.metrics import Scored

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Group:
    """`hits` of `n` rows that count for the rate; `effective` is n after the design effect."""

    name: str
    hits: int
    n: int
    effective: float

    @property
    def rate(self) -> float:
        """The group's rate."""
        return self.hits / self.n


@dataclass(frozen=True, slots=True)
class Gap:
    """The largest difference between two groups, from `less` to `more`.

    `low` is the largest simultaneous lower bound of any pair, `high` the largest upper one.
    """

    less: Group
    more: Group
    estimate: float
    low: float
    high: float
    pairs: int


def counted(rate: Rate, scored: Scored) -> tuple[Array, Array]:
    """(which rows count [n], which of them are hits [n]) as masks."""
    said, is_ = scored.label == 1, scored.truth == 1
    everything = np.ones(len(scored), dtype=bool)
    found: dict[str, tuple[Array, Array]] = {
        "selection_rate": (everything, said),
        "tpr": (is_, said),
        "fnr": (is_, ~said),
        "fpr": (~is_, said),
        "tnr": (~is_, ~said),
        "precision": (said, is_),
        "accuracy": (everything, scored.label == scored.truth),
    }
    return found[rate]


def groups_of(rate: Rate, scored: Scored, names: Array, codes: Array | None) -> list[Group]:
    """The counts of each group, in the order of their names."""
    counts, hits = counted(rate, scored)
    found = []
    for name in sorted(set(names.tolist())):
        rows = (names == name) & counts
        n, hit = int(rows.sum()), int((rows & hits).sum())
        found.append(Group(name, hit, n, n / _design_effect(hits[rows], None if codes is None else codes[rows])))
    return found


def wilson(hits: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion with `level` in each tail.

    >>> [round(x, 4) for x in wilson(56, 70, 0.025)]
    [0.6917, 0.877]
    """
    z = float(ndtri(1 - level))
    p = hits / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float((middle - half) / (1 + z * z / n)), float((middle + half) / (1 + z * z / n))


def newcombe(one: tuple[float, float], two: tuple[float, float], level: float) -> tuple[float, float]:
    """Interval of the first proportion less the second, each given as (hits, n), with `level` in each tail.

    >>> [round(x, 4) for x in newcombe((56, 70), (48, 80), 0.025)]
    [0.0524, 0.3339]
    """
    (low1, high1), (low2, high2) = wilson(*one, level), wilson(*two, level)
    p1, p2 = one[0] / one[1], two[0] / two[1]
    below = np.sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2)
    above = np.sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2)
    return float(p1 - p2 - below), float(p1 - p2 + above)


def largest_gap(groups: list[Group]) -> Gap:
    """The gap over all pairs of at least two groups with rows."""
    pairs = list(combinations(groups, 2))
    level = ALPHA / len(pairs)
    lows, highs = [], []
    for one, two in pairs:
        less, more = sorted((one, two), key=lambda g: g.rate)
        bounds = newcombe(
            (more.rate * more.effective, more.effective), (less.rate * less.effective, less.effective), level
        )
        lows.append(bounds[0])
        highs.append(max(bounds[1], -bounds[0]))
    less, more = min(groups, key=lambda g: g.rate), max(groups, key=lambda g: g.rate)
    return Gap(less, more, more.rate - less.rate, max(0.0, *lows), min(1.0, max(highs)), len(pairs))


def _design_effect(hits: Array, codes: Array | None) -> float:
    """How many times larger the variance of a rate is because rows share keys; at least 1."""
    if codes is None or len(hits) < 2:
        return 1.0
    p = float(hits.mean())
    if p in (0.0, 1.0):
        return len(hits) / len(np.unique(codes))
    sums = np.bincount(codes, weights=hits - p)
    carried = len(np.unique(codes))
    variance = carried / max(carried - 1, 1) * float(np.sum(sums**2)) / len(hits) ** 2
    return max(1.0, variance / (p * (1 - p) / len(hits)))
