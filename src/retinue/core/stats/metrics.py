"""Metrics on arrays: one number per metric, and the per-row parts that intervals resample.

Most metrics are a function of sums over rows (`parts` gives the rows' shares, `finish` the function), so a
bootstrap over any groups of rows is one matrix product. The three that need the order of rows (`roc_auc`,
`average_precision`, `median_ae`) are computed with one weight per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.core.contract import Label, Task
from retinue.core.gates import METRICS

Array = NDArray[Any]

SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are kept this far from 0 and 1 in logarithms, as scikit-learn does for float64."""

BINS = 10
"""Equal-width probability bins of the calibration error."""

ORDERED = frozenset({"roc_auc", "average_precision", "median_ae"})


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Answers beside the truth, row by row.

    regression: `truth` and `score` float64 [n]; `label` is empty.
    binary: `truth` and `label` are class codes int64 [n] (1 = second class), `score` its probability [n].
    quantiles: `truth` [n], `score` [n, k] at the rising `levels` [k]; `label` is empty.
    forecast: `truth` and `score` [n, horizon]; `scale` [n, 2] the mean absolute and the mean squared error of the
    seasonal naive forecast of the row's series in training, NaN where there is none.
    multiclass: codes as above, `score` [n, k] in the order of the classes. Code -1: a class the model lacks.
    """

    task: Task
    truth: Array
    score: Array
    label: Array
    levels: tuple[float, ...] = ()
    scale: Array | None = None

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: Array) -> Scored:
        """The same for some rows, by index or mask."""
        return Scored(
            self.task,
            self.truth[rows],
            self.score[rows],
            self.label[rows] if self.label.size else self.label,
            self.levels,
            None if self.scale is None else self.scale[rows],
        )

    @property
    def finite(self) -> Array:
        """Mask [n] of the rows whose answer is a number."""
        if self.score.ndim == 1:
            return np.asarray(np.isfinite(self.score))
        return np.asarray(np.isfinite(self.score).all(axis=1))


def encode(labels: Array, classes: Sequence[Label]) -> Array:
    """Class codes int64 [n] of labels by equality; -1 for a label that is missing or not among `classes`.

    >>> encode(np.array(["b", "a", None], dtype=object), ["a", "b"]).tolist()
    [1, 0, -1]
    """
    codes = {value: code for code, value in enumerate(classes)}
    return np.array([codes.get(value, -1) for value in np.asarray(labels).tolist()], dtype=np.int64)


def value(name: str, scored: Scored) -> float | None:
    """The metric over all rows; None where the rows do not define it (none, one class only, no spread, NaN)."""
    if len(scored) == 0 or not bool(scored.finite.all()):
        return None
    if name in ORDERED:
        return weighted(name, scored)(np.ones(len(scored)))
    found = float(finish(name, parts(name, scored).sum(axis=0)[None, :])[0])
    return found if np.isfinite(found) else None


def losses(name: str, scored: Scored) -> Array | None:
    """One loss per row, float64 [n], whose mean is the metric (accuracy: its share of misses); None if it has none."""
    if not METRICS[name].per_row:
        return None
    column: Array = parts(name, scored)[:, 0]
    return 1.0 - column if METRICS[name].higher_is_better else column


def parts(name: str, scored: Scored) -> Array:
    """Per-row shares [n, k] float64 of a metric that is a function of sums. Raises KeyError for the other metrics."""
    return np.column_stack([np.asarray(c, dtype=np.float64) for c in _PARTS[name](scored)])


def finish(name: str, sums: Array) -> Array:
    """Metric values [b] from sums of `parts` [b, k]; NaN where undefined, without warnings."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = _FINISH.get(name, _mean)(sums)
    return found


def weighted(name: str, scored: Scored) -> Callable[[Array], float | None]:
    """For a metric that needs the order of rows: a function of row weights [n] (sorted once, called often)."""
    return _WEIGHTED[name](scored)


def _probability_of_truth(s: Scored) -> Array:
    if s.task == "binary":
        found: Array = np.where(s.truth == 1, s.score, np.where(s.truth == 0, 1.0 - s.score, 0.0))
        return found
    found = s.score[np.arange(len(s)), np.maximum(s.truth, 0)]
    total = s.score.sum(axis=1)
    return np.where((s.truth < 0) | (total <= 0), 0.0, found / np.where(total > 0, total, 1.0))


def _log_loss(s: Scored) -> list[Array]:
    return [-np.log(np.clip(_probability_of_truth(s), SMALLEST, 1.0 - SMALLEST)), _ones(s)]


def _ones(s: Scored) -> Array:
    return np.ones(len(s))


def _positive(s: Scored) -> Array:
    return np.asarray(s.truth == 1, dtype=np.float64)


def _counts(s: Scored) -> tuple[Array, Array, Array]:
    """True positives, false positives, false negatives per row."""
    said, is_ = s.label == 1, s.truth == 1
    return said & is_, said & ~is_, ~said & is_


def _macro(s: Scored) -> list[Array]:
    """Per class: both, said, is; one class more for the labels that the model lacks."""
    classes = s.score.shape[1] + 1
    is_ = np.eye(classes)[s.truth]  # code -1 lands on the last class
    said = np.eye(classes)[s.label]
    return [is_ * said, said, is_]


def _calibration(s: Scored) -> list[Array]:
    bins = np.clip((s.score * BINS).astype(np.int64), 0, BINS - 1)
    return [np.eye(BINS)[bins] * (s.score - _positive(s))[:, None], _ones(s)]


def _error(s: Scored) -> Array:
    error: Array = s.score - s.truth
    return error


def _by_row(values: Array) -> Array:
    """The mean over the steps of a forecast [n, horizon], or values [n] as they are."""
    found: Array = values.mean(axis=1) if values.ndim == 2 else values
    return found


def _scaled(s: Scored, errors: Array, place: int) -> list[Array]:
    """Errors [n] over the naive forecast's of the same series; rows whose series has none, or 0, are left out."""
    scale = np.full(len(s), np.nan) if s.scale is None else s.scale[:, place]
    known = scale > 0
    return [np.where(known, errors, 0.0) / np.where(known, scale, 1.0), known]


def _mase(s: Scored) -> list[Array]:
    """Mean absolute scaled error: |error| over the in-sample mean |error| of the seasonal naive forecast of its series.

    Hyndman & Koehler, "Another look at measures of forecast accuracy", Int. J. Forecasting 22 (2006), 679-688: below
    1 is better than the naive forecast was in training. The mean runs over all origins and steps of all series.
    """
    return _scaled(s, _by_row(np.abs(_error(s))), 0)


def _rmsse(s: Scored) -> list[Array]:
    """Root mean squared scaled error: the same with squares, the root taken of the mean over all origins and steps.

    Hyndman & Koehler 2006, eq. for RMSSE; the M5 competition takes the root per series first, one origin each
    (Makridakis, Spiliotis & Assimakopoulos, Int. J. Forecasting 38 (2022), 1346-1364): equal for one series.
    """
    return _scaled(s, _by_row(_error(s) ** 2), 1)


def _wape(s: Scored) -> list[Array]:
    """Weighted absolute percentage error: Σ|error| / Σ|truth| over all origins and steps.

    Kolassa & Schütz, "Advantages of the MAD/Mean ratio over the MAPE", Foresight 6 (2007), 40-43: as MAD/Mean.
    """
    return [_by_row(np.abs(_error(s))), _by_row(np.abs(s.truth))]


def _r2(s: Scored) -> list[Array]:
    centred = s.truth - s.truth.mean()  # against cancellation; the result does not depend on the shift
    return [_error(s) ** 2, centred, centred**2, _ones(s)]


def _mape(s: Scored) -> list[Array]:
    """Rows whose truth is 0 have no percentage and are left out."""
    known = s.truth != 0
    return [np.where(known, np.abs(_error(s)) / np.where(known, np.abs(s.truth), 1.0), 0.0), known]


def _pinball(s: Scored) -> list[Array]:
    """Mean over the levels of the loss that each level's own quantile makes smallest."""
    over = s.truth[:, None] - s.score.reshape(len(s), -1)
    levels = np.asarray(s.levels)
    return [np.maximum(levels * over, (levels - 1) * over).mean(axis=1), _ones(s)]


def _coverage(s: Scored) -> list[Array]:
    """Whether the truth lies between the lowest and the highest quantile."""
    score = s.score.reshape(len(s), -1)
    return [(score[:, 0] <= s.truth) & (s.truth <= score[:, -1]), _ones(s)]


_PARTS: dict[str, Callable[[Scored], Sequence[Array]]] = {
    "log_loss": _log_loss,
    "brier": lambda s: [(s.score - _positive(s)) ** 2, _ones(s)],
    "accuracy": lambda s: [(s.label == s.truth) & (s.truth >= 0), _ones(s)],
    "precision": lambda s: _counts(s)[:2],
    "recall": lambda s: (_counts(s)[0], _counts(s)[2]),
    "f1": _counts,
    "f1_macro": _macro,
    "ece": _calibration,
    "mae": lambda s: [_by_row(np.abs(_error(s))), _ones(s)],
    "rmse": lambda s: [_by_row(_error(s) ** 2), _ones(s)],
    "mase": _mase,
    "rmsse": _rmsse,
    "wape": _wape,
    "r2": _r2,
    "mape": _mape,
    "pinball": _pinball,
    "coverage": _coverage,
}


def _mean(sums: Array) -> Array:
    found: Array = sums[:, 0] / sums[:, 1]
    return found


def _share(sums: Array) -> Array:
    """0 / 0 is 0 here, as scikit-learn has it: a model that never says yes has precision 0."""
    found: Array = np.nan_to_num(sums[:, 0] / (sums[:, 0] + sums[:, 1]))
    return found


def _f1(sums: Array) -> Array:
    found: Array = np.nan_to_num(2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2]))
    return found


def _f1_macro(sums: Array) -> Array:
    both, said, is_ = np.split(sums, 3, axis=1)
    present = said + is_ > 0
    each = np.where(present, 2 * both / np.where(present, said + is_, 1.0), 0.0)
    found: Array = each.sum(axis=1) / present.sum(axis=1)
    return found


def _r2_finish(sums: Array) -> Array:
    spread = sums[:, 2] - sums[:, 1] ** 2 / sums[:, 3]
    # spread of a constant truth is rounding noise, not a scale
    return np.where(spread > 1e-12 * np.maximum(sums[:, 2], 1e-300), 1.0 - sums[:, 0] / spread, np.nan)


_FINISH: dict[str, Callable[[Array], Array]] = {
    "precision": _share,
    "recall": _share,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "ece": lambda sums: np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1],
    "rmse": lambda sums: np.sqrt(sums[:, 0] / sums[:, 1]),
    "rmsse": lambda sums: np.sqrt(sums[:, 0] / sums[:, 1]),
    "r2": _r2_finish,
}


def _ranked(s: Scored) -> tuple[Array, Array, Array]:
    """Order by falling score, the truth in it, and the last row of each run of equal scores."""
    order = np.argsort(-s.score, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(s.score[order])), len(s) - 1]
    return order, _positive(s)[order], ends


def _weighted_roc_auc(s: Scored) -> Callable[[Array], float | None]:
    order, positive, ends = _ranked(s)

    def auc(weights: Array) -> float | None:
        w = weights[order]
        tp = np.r_[0.0, np.cumsum(w * positive)[ends]]
        fp = np.r_[0.0, np.cumsum(w * (1 - positive))[ends]]
        area = tp[-1] * fp[-1]
        return float(np.sum(np.diff(fp) * (tp[1:] + tp[:-1]) / 2) / area) if area > 0 else None

    return auc


def _weighted_average_precision(s: Scored) -> Callable[[Array], float | None]:
    order, positive, ends = _ranked(s)

    def average_precision(weights: Array) -> float | None:
        w = weights[order]
        tp, said = np.cumsum(w * positive)[ends], np.cumsum(w)[ends]
        if tp[-1] <= 0 or tp[-1] >= said[-1]:
            return None
        precision = np.divide(tp, said, out=np.zeros_like(tp), where=said > 0)
        return float(np.sum(np.diff(np.r_[0.0, tp]) * precision) / tp[-1])

    return average_precision


def _weighted_median_ae(s: Scored) -> Callable[[Array], float | None]:
    size = np.abs(_error(s))
    order = np.argsort(size, kind="stable")
    size = size[order]

    def median(weights: Array) -> float | None:
        seen = np.cumsum(weights[order])
        half = seen[-1] / 2
        if half <= 0:
            return None
        # the mean of the two middle rows when half the weight ends exactly between them
        first, second = np.searchsorted(seen, half, side="left"), np.searchsorted(seen, half, side="right")
        return float((size[first] + size[min(second, len(size) - 1)]) / 2)

    return median


_WEIGHTED: dict[str, Callable[[Scored], Callable[[Array], float | None]]] = {
    "roc_auc": _weighted_roc_auc,
    "average_precision": _weighted_average_precision,
    "median_ae": _weighted_median_ae,
}
