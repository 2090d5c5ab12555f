"""What each row adds to a metric: its linear form, from which any number of groups can be tested at once.

The infinitesimal jackknife (Efron 1982, "The Jackknife, the Bootstrap and Other Resampling Plans", ch. 6): a metric
that is a smooth function of sums over rows moves by `grad · (parts of the row)`; the area under the curve by the
row's placement (DeLong 1988). The squares of these shares, summed over independent groups, are its variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.core.stats import auc, metrics
from retinue.core.stats.metrics import Scored

Array = NDArray[Any]
_STEP = 1e-5


def influence(metric: str, scored: Scored) -> tuple[float, Array] | None:
    """The metric over these rows and each row's share of its error, float64 [n] with sum 0; None where undefined.

    Raises KeyError for metrics without a linear form (`core.gate_specs.NOT_IN_SLICES`).
    """
    estimate = metrics.value(metric, scored)
    if estimate is None:
        return None
    if metric == "roc_auc":
        return estimate, _of_area(scored)
    rows = metrics.parts(metric, scored)
    sums = rows.sum(axis=0)
    gradient = np.empty(len(sums))
    for place in range(len(sums)):
        step = np.zeros(len(sums))
        step[place] = _STEP * max(abs(sums[place]), 1.0)
        ends = metrics.finish(metric, np.stack([sums + step, sums - step]))
        gradient[place] = (ends[0] - ends[1]) / (2 * step[place])
    found: Array = rows @ np.nan_to_num(gradient)
    return estimate, found - found.mean()


def _of_area(scored: Scored) -> Array:
    positive = scored.truth == 1
    _, placed = auc.placements(positive, scored.score)
    found = np.empty(len(placed))
    for side in (positive, ~positive):
        found[side] = (placed[side] - placed[side].mean()) / int(side.sum())
    return found


def spread(shares: Array, codes: Array | None) -> tuple[float, int]:
    """Standard error of the sum of `shares` [n] and the number of independent groups that carry it.

    `codes` [n] are group codes, None where every row is independent.
    """
    sums = shares if codes is None else np.bincount(codes, weights=shares)
    carried = int((np.bincount(codes) > 0).sum()) if codes is not None else len(shares)
    carried = max(carried, 1)
    return float(np.sqrt(carried / max(carried - 1, 1) * np.sum(sums**2))), carried
