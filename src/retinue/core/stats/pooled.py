"""The family test: the members' differences as one, and one p-value per member for its guard rail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from retinue.core.gates import ALPHA, MINIMUM_ROWS, Interval

MANY = 10
"""From so many members on they are resampled as clusters; fewer are taken as given, their rows as the sample."""

REPLICATES = 4_000


@dataclass(frozen=True, slots=True)
class Share:
    """One member's part: rows, its loss difference, the standard error of it, its groups, its margin."""

    n: int
    difference: float
    se: float
    groups: int
    margin: float


def pooled(shares: Sequence[Share], rng: np.random.Generator) -> tuple[Interval, float]:
    """The difference over all rows of all members with one-sided 95 % bounds, and the margin over the same rows.

    For means of per-row losses the estimate is exactly Σ dᵢ / Σ n; for other metrics the members' differences are
    weighted by their rows. Members are ordered by content, so the order given does not matter.
    """
    ordered = sorted(shares, key=lambda s: (s.n, s.difference, s.se, s.margin))
    n = np.array([s.n for s in ordered], dtype=np.float64)
    rows, members = int(n.sum()), len(ordered)
    if members < 2 or rows == 0:
        return Interval(rows, members, why="not enough data: a pooled test needs two members"), 0.0
    difference = np.array([s.difference for s in ordered])
    margin = float(n @ np.array([s.margin for s in ordered]) / rows)
    estimate = float(n @ difference / rows)
    if members < MANY:
        se = float(np.sqrt(np.sum((n * np.array([s.se for s in ordered])) ** 2))) / rows
        reach = float(stdtrit(max(sum(s.groups - 1 for s in ordered), 1), 1 - ALPHA)) * se
        method = f"rows within {members} members"
        return Interval(rows, members, estimate, estimate - reach, estimate + reach, se, method), margin
    drawn = rng.integers(0, members, size=(REPLICATES, members))
    draws = (n * difference)[drawn].sum(axis=1) / n[drawn].sum(axis=1)
    stretch = float(np.sqrt(members / (members - 1)) * stdtrit(members - 1, 1 - ALPHA) / ndtri(1 - ALPHA))
    low, high = estimate + (np.quantile(draws, [ALPHA, 1 - ALPHA]) - estimate) * stretch
    low, high = min(float(low), estimate), max(float(high), estimate)
    se = float(draws.std()) * stretch
    return Interval(rows, members, estimate, low, high, se, f"bootstrap over {members} members"), margin


def worse_p(share: Share) -> float:
    """One-sided p-value of "the member is not worse than its margin"; small means worse. Never NaN."""
    gap = share.difference - share.margin
    if share.se <= 0.0:
        # a handful of equal rows has no spread by chance; that is no evidence
        return 0.0 if gap > 0 and share.groups >= MINIMUM_ROWS else 1.0
    return float(stdtr(max(share.groups - 1, 1), -gap / share.se))
