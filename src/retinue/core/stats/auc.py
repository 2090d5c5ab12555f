"""DeLong: variance of one area under the ROC curve and of the difference of two on the same rows.

DeLong, DeLong & Clarke-Pearson 1988, computed through midranks (Sun & Xu 2014); for rows in groups the
influences are summed per group first (Obuchowski 1997).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def midranks(values: Array) -> Array:
    """Ranks from 1 of `values` [n]; equal values share the mean of their ranks.

    >>> midranks(np.array([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[inverse]
    return ranks


def placements(positive: Array, score: Array) -> tuple[float, Array]:
    """The area, and per row [n] the share of the other class that its score stands right of (ties count half).

    `positive` is a boolean mask [n] with at least one row on either side.
    """
    ranks, found = midranks(score), np.empty(len(score))
    m, n = int(positive.sum()), int((~positive).sum())
    found[positive] = (ranks[positive] - midranks(score[positive])) / n
    found[~positive] = 1.0 - (ranks[~positive] - midranks(score[~positive])) / m
    return float(found[positive].mean()), found


def standard_error(positive: Array, found: Array, groups: Array | None) -> float:
    """Standard error of the mean placement difference `found` [n]; `groups` codes [n] when rows come in groups.

    `found` are placements of one model, or the difference of two models' placements. Needs two rows per class.
    """
    if groups is None:
        variances = [found[side].var(ddof=1) / int(side.sum()) for side in (positive, ~positive)]
        return float(np.sqrt(sum(variances)))
    influence = np.empty(len(found))
    for side in (positive, ~positive):
        influence[side] = (found[side] - found[side].mean()) / int(side.sum())
    sums = np.bincount(groups, weights=influence)
    return float(np.sqrt(len(sums) / max(len(sums) - 1, 1) * np.sum(sums**2)))
