"""Quantiles with intervals from order statistics: nothing is assumed of the distribution but independence.

The j-th smallest of n is below the q-quantile exactly when at least j are: a binomial count (David & Nagaraja,
"Order Statistics", section 7.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from retinue.core.gates import ALPHA, Interval

Array = NDArray[Any]


def least(q: float) -> int:
    """So many values are needed before the largest is above the q-quantile with 95 %.

    >>> least(0.99), least(0.5)
    (299, 5)
    """
    return int(np.ceil(np.log(ALPHA) / np.log(q)))


def quantile(values: Array, q: float) -> Interval:
    """The q-quantile of `values` [n] with two one-sided 95 % bounds; None above where n is too small for one."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        return Interval(0, 0, why="not enough data: no values")
    estimate = float(np.quantile(ordered, q))
    above = int(binom.ppf(1 - ALPHA, n, q)) + 1  # P(count below the quantile < above) ≥ 95 %
    below = int(binom.ppf(ALPHA, n, q))
    low = float(ordered[below - 1]) if below >= 1 else float("-inf")
    why = "" if n >= least(q) else f"not enough data: {n} of {least(q)}"
    high = float(ordered[above - 1]) if above <= n else None
    bounded = max(high, estimate) if high is not None else None
    return Interval(n, n, estimate, min(low, estimate), bounded, None, f"order statistics of {n:,}", why)
