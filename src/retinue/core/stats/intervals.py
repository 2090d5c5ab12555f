"""Intervals on holdout rows: of one model's metric, and of the paired difference of two models.

Rules (all one-sided levels are `ALPHA`): DeLong for the area under the curve; a t-interval for means of per-row
losses from 1,000 independent groups on; otherwise a bootstrap over groups, stretched for small samples. A group
is a row, or all rows of one key where a key repeats. Bootstraps use at most 1,000 groups: more are folded at random,
which keeps them independent and costs next to nothing in width.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from retinue.core.gates import ALPHA, METRICS, MINIMUM_OF_CLASS, MINIMUM_ROWS, Interval
from retinue.core.stats import auc, metrics
from retinue.core.stats.metrics import Scored

Array = NDArray[Any]

LARGE = 1_000
"""From so many groups on a mean is judged by a t-interval; bootstraps fold down to so many."""

REPLICATES = 1_000
ORDERED_REPLICATES = 600
"""Fewer for metrics that need the order of rows: each replicate is a pass over all rows."""


class Sample:
    """Holdout rows of a challenger, and of a champion if there is one, in an order that only their content fixes.

    `keys` [n] groups rows (None: every row for itself). `rng` is drawn from only by bootstraps. Rows that the
    champion could not answer are left out of comparisons by the caller. Raises ValueError on unequal lengths.
    """

    def __init__(
        self, challenger: Scored, champion: Scored | None, keys: Array | None, rng: np.random.Generator
    ) -> None:
        if champion is not None and len(champion) != len(challenger):
            raise ValueError(f"champion has {len(champion)} rows, challenger {len(challenger)}")
        codes = None if keys is None else codes_of(keys)
        order = _content_order(challenger, champion, codes)
        self.challenger = challenger.take(order)
        self.champion = None if champion is None else champion.take(order)
        self.n = len(challenger)
        repeats = codes is not None and self.n > 0 and int(codes.max()) + 1 < self.n
        self.codes: Array | None = codes[order] if codes is not None and repeats else None
        self.groups = self.n if self.codes is None else int(self.codes.max()) + 1
        self._rng = rng

    def own(self, metric: str) -> Interval:
        """The challenger's metric with its two-sided 95 % interval."""
        return self._judge(metric, self.challenger, None, ALPHA / 2)

    def difference(self, metric: str) -> Interval:
        """The loss difference challenger − champion (positive: worse) with two one-sided 95 % bounds."""
        assert self.champion is not None, "a difference needs a champion"
        return self._judge(metric, self.challenger, self.champion, ALPHA)

    def _judge(self, metric: str, one: Scored, other: Scored | None, alpha: float) -> Interval:
        ends = [metrics.value(metric, s) for s in (one, other) if s is not None]
        if any(end is None for end in ends):
            return Interval(self.n, self.groups, why=_why_undefined(metric, one))
        first = ends[0]
        assert first is not None
        estimate = first if other is None else _as_loss(metric, first - (ends[1] or 0.0))
        low, high, se, method = self._bounds(metric, (one, other), estimate, alpha)
        return Interval(self.n, self.groups, estimate, low, high, se, method, _why_too_few(metric, one, self.groups))

    def _bounds(
        self, metric: str, pair: tuple[Scored, Scored | None], estimate: float, alpha: float
    ) -> tuple[float | None, float | None, float | None, str]:
        """Low, high, standard error (None when fewer than two groups give none) and the name of the method."""
        if self.groups < 2:
            return None, None, None, "none"
        if metric == "roc_auc":
            return self._delong(pair, estimate, alpha)
        if METRICS[metric].per_row and self.groups >= LARGE:
            return self._student(metric, pair, estimate, alpha)
        return self._bootstrap(metric, pair, estimate, alpha)

    def _student(
        self, metric: str, pair: tuple[Scored, Scored | None], estimate: float, alpha: float
    ) -> tuple[float, float, float, str]:
        rows = _column(metric, pair[0]) - (0.0 if pair[1] is None else _column(metric, pair[1]))
        rest = rows - rows.mean()
        sums = rest if self.codes is None else np.bincount(self.codes, weights=rest, minlength=self.groups)
        g = self.groups
        se = float(np.sqrt(g / (g - 1) * np.sum(sums**2))) / self.n
        reach = float(stdtrit(g - 1, 1 - alpha)) * se
        return estimate - reach, estimate + reach, se, f"t-interval over {self._units}"

    def _delong(
        self, pair: tuple[Scored, Scored | None], estimate: float, alpha: float
    ) -> tuple[float | None, float | None, float | None, str]:
        one, other = pair
        positive = one.truth == 1
        smaller = int(min(positive.sum(), (~positive).sum()))
        if smaller < 2:
            return None, None, None, "none"
        found = auc.placements(positive, one.score)[1]
        if other is not None:
            found = auc.placements(positive, other.score)[1] - found
        se = auc.standard_error(positive, found, self.codes)
        reach = float(ndtri(1 - alpha)) * se
        low, high = estimate - reach, estimate + reach
        if other is None:
            # a perfect ranking has no spread; what the smaller class could still hide bounds it (as the rule of three)
            spare = 1.0 - alpha ** (1.0 / smaller) if se == 0.0 else 0.0
            low, high = max(0.0, low - spare), min(1.0, high + spare)
        return low, high, se, f"DeLong over {self._units}"

    def _bootstrap(
        self, metric: str, pair: tuple[Scored, Scored | None], estimate: float, alpha: float
    ) -> tuple[float | None, float | None, float | None, str]:
        draws = self._replicates(metric, pair[0])
        if pair[1] is not None:
            draws = _as_loss(metric, draws - self._replicates(metric, pair[1]))
        draws = draws[np.isfinite(draws)]
        if len(draws) < ORDERED_REPLICATES // 2:
            return None, None, None, "none"
        g = self._folded[1]
        # percentiles are too narrow by about √((g−1)/g) and by z/t: stretch them around the estimate
        stretch = float(np.sqrt(g / (g - 1)) * stdtrit(g - 1, 1 - alpha) / ndtri(1 - alpha))
        low, high = estimate + (np.quantile(draws, [alpha, 1 - alpha]) - estimate) * stretch
        # a biased replicate distribution may leave the estimate outside: an interval holds its estimate
        low, high = min(float(low), estimate), max(float(high), estimate)
        paired = "paired " if pair[1] is not None else ""
        return low, high, float(draws.std()) * stretch, f"{paired}bootstrap over {self._units}"

    def _replicates(self, metric: str, scored: Scored) -> Array:
        codes, groups = self._folded
        if metric not in metrics.ORDERED:
            parts = metrics.parts(metric, scored)
            sums = np.column_stack([np.bincount(codes, weights=c, minlength=groups) for c in parts.T])
            return metrics.finish(metric, self._weights @ sums)
        statistic = metrics.weighted(metric, scored)
        values = [statistic(w[codes]) for w in self._weights[:ORDERED_REPLICATES]]
        return np.array([np.nan if v is None else v for v in values])

    @cached_property
    def _folded(self) -> tuple[Array, int]:
        """Group code per row, folded at random to at most `LARGE` groups of nearly equal size, and their number."""
        codes = np.arange(self.n) if self.codes is None else self.codes
        if self.groups <= LARGE:
            return codes, self.groups
        return self._rng.permutation(self.groups)[codes] % LARGE, LARGE

    @cached_property
    def _weights(self) -> Array:
        """How often each group is drawn in each replicate, [REPLICATES, groups]; shared by all metrics."""
        g = self._folded[1]
        drawn = (
            self._rng.integers(0, g, size=(REPLICATES, g), dtype=np.int32)
            + np.arange(REPLICATES, dtype=np.int32)[:, None] * g
        )
        return np.bincount(drawn.ravel(), minlength=REPLICATES * g).reshape(REPLICATES, g).astype(np.float64)

    @property
    def _units(self) -> str:
        return f"{self.groups:,} rows" if self.codes is None else f"{self.groups:,} keys"


def codes_of(keys: Array) -> Array:
    """Group codes int64 [n] of keys of any type; codes follow the keys' text, not the order of rows."""
    values = np.asarray(keys).tolist()
    codes = {key: code for code, key in enumerate(sorted(set(values), key=lambda k: (str(type(k)), str(k))))}
    return np.array([codes[key] for key in values], dtype=np.int64)


def _content_order(challenger: Scored, champion: Scored | None, codes: Array | None) -> Array:
    """An order of rows that only their content fixes, so that shuffled rows give the same draws and sums."""
    columns: list[Array] = [*np.atleast_2d(challenger.truth.T)]
    for scored in (challenger, champion):
        if scored is not None:
            columns += [*np.atleast_2d(scored.score.T)]
            columns += [scored.label] if scored.label.size else []
    return np.lexsort([*columns, *([] if codes is None else [codes])])


def _column(metric: str, scored: Scored) -> Array:
    """Per-row losses [n]; only their spread is used, so it does not matter that accuracy comes as misses."""
    found = metrics.losses(metric, scored)
    assert found is not None, "only metrics with per-row losses come here"
    return found


def _as_loss(metric: str, difference: Any) -> Any:
    return -difference if METRICS[metric].higher_is_better else difference


def _why_undefined(metric: str, scored: Scored) -> str:
    if len(scored) == 0:
        return "not enough data: no rows"
    if METRICS[metric].both_classes and len(np.unique(scored.truth == 1)) < 2:
        return "not enough data: the rows hold one class only"
    return f"{metric} is not defined on these rows"


def _why_too_few(metric: str, scored: Scored, groups: int) -> str:
    if groups < MINIMUM_ROWS:
        return f"not enough data: {groups} of {MINIMUM_ROWS} rows"
    if METRICS[metric].both_classes:
        positive = int((scored.truth == 1).sum())
        fewer = min(positive, len(scored) - positive)
        if fewer < MINIMUM_OF_CLASS:
            return f"not enough data: {fewer} of {MINIMUM_OF_CLASS} rows of the rarer class"
    return ""
