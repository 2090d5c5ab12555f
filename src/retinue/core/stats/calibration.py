"""How far probabilities are from what they say: expected calibration error over bins of equal mass, debiased.

Bins of equal mass (Nixon et al. 2019; Roelofs et al. 2022, "Mitigating Bias in Calibration Error Estimation"). The
plug-in Σ_b w_b·|ḡ_b| is too large by chance even for a perfect model; as in Kumar, Liang & Ma 2019 ("Verified
Uncertainty Calibration", section 4 and their library's ℓ1 form) each bin's gap is taken as normal with its standard
error s_b, and the expected excess is subtracted: 2·|ḡ_b| − E|N(ḡ_b, s_b²)|, where E|N(μ, s²)| is the mean of the
folded normal, s·√(2/π)·exp(−μ²/2s²) + μ·(1 − 2Φ(−μ/s)).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from retinue.core.gates import ALPHA, Interval
from retinue.core.stats.metrics import Scored

Array = NDArray[Any]

BINS = 10
LEAST_IN_BIN = 10
"""So many independent rows a bin needs; below ten times this there is not enough data."""


def confidence(scored: Scored) -> tuple[Array, Array]:
    """(what the model says [n], whether it came true [n]): of the second class, or of the most likely of many."""
    if scored.score.ndim == 1:
        return scored.score, np.asarray(scored.truth == 1, dtype=np.float64)
    top = scored.score.argmax(axis=1)
    said: Array = scored.score[np.arange(len(scored)), top]
    return said, np.asarray(top == scored.truth, dtype=np.float64)


def calibration_error(scored: Scored, codes: Array | None = None, bins: int = BINS) -> Interval:
    """The debiased error in [0, 1] with two one-sided 95 % bounds; rows of one code in `codes` [n] go together."""
    n = len(scored)
    groups = n if codes is None else int(codes.max(initial=-1)) + 1
    if groups < bins * LEAST_IN_BIN:
        return Interval(n, groups, why=f"not enough data: {groups} of {bins * LEAST_IN_BIN} rows")
    said, came = confidence(scored)
    bin_of = equal_mass(said, bins)
    found = np.unique(bin_of)
    weight, gap, error = np.empty(len(found)), np.empty(len(found)), np.empty(len(found))
    for place, number in enumerate(found):
        rows = bin_of == number
        rest = said[rows] - came[rows]
        weight[place], gap[place] = rows.sum() / n, rest.mean()
        # under a perfect model a row's error is known from what it says, even where all came out alike
        own = rest - rest.mean()
        sums = own if codes is None else np.bincount(codes[rows], weights=own)
        least = float(np.sum(said[rows] * (1 - said[rows])))
        error[place] = np.sqrt(max(float(np.sum(sums**2)), least)) / rows.sum()
    debiased = float(np.sum(weight * (2 * np.abs(gap) - folded_mean(gap, error))))
    estimate = max(0.0, debiased)
    se = float(np.sqrt(np.sum((weight * error) ** 2)))
    reach = float(ndtri(1 - ALPHA)) * se
    low, high = max(0.0, debiased - reach), max(estimate, debiased + reach)
    method = f"debiased error over {len(found)} bins of equal mass, normal bounds"
    return Interval(n, groups, estimate, min(low, estimate), high, se, method)


def equal_mass(said: Array, bins: int) -> Array:
    """Bin number per row, nearly as many rows in each; equal values stay together."""
    edges = np.quantile(said, np.linspace(0, 1, bins + 1)[1:-1])
    found: Array = np.searchsorted(np.unique(edges), said, side="right")
    return found


def folded_mean(mean: Array, sd: Array) -> Array:
    """The mean of |N(mean, sd²)|.

    >>> float(folded_mean(np.array([0.0]), np.array([1.0]))[0].round(6))
    0.797885
    """
    safe = np.maximum(sd, 1e-300)
    found: Array = safe * np.sqrt(2 / np.pi) * np.exp(-(mean**2) / (2 * safe**2)) + mean * (1 - 2 * ndtr(-mean / safe))
    return np.where(sd > 0, found, np.abs(mean))
