"""Errors of forecasts, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retinue.core.contract import outputs_of
from retinue.core.gates import metric_names
from retinue.core.stats import metrics
from retinue.core.stats.intervals import Sample
from retinue.core.stats.metrics import Scored

NONE = np.empty(0, dtype=np.int64)
TRUTH = np.array([[10.0, 20.0], [0.0, 4.0], [7.0, 7.0]])
SCORE = np.array([[12.0, 17.0], [1.0, 4.0], [7.0, 8.0]])
SCALE = np.array([[2.0, 5.0], [0.5, 1.0], [np.nan, np.nan]])


def scored(scale: np.ndarray = SCALE) -> Scored:
    return Scored("forecast", TRUTH, SCORE, NONE, (), scale)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mae", (2 + 3 + 1 + 0 + 0 + 1) / 6),
        ("rmse", np.sqrt((4 + 9 + 1 + 0 + 0 + 1) / 6)),
        ("mase", np.mean([2 / 2, 3 / 2, 1 / 0.5, 0 / 0.5])),  # the third series had no scale
        ("rmsse", np.sqrt(np.mean([4 / 5, 9 / 5, 1 / 1, 0 / 1]))),
        ("wape", (2 + 3 + 1 + 0 + 0 + 1) / (10 + 20 + 0 + 4 + 7 + 7)),
    ],
)
def test_metrics_are_those_worked_out_by_hand(name: str, wanted: float) -> None:
    assert metrics.value(name, scored()) == pytest.approx(wanted)


def test_the_naive_forecast_has_a_scaled_error_of_one_in_sample() -> None:
    series = np.array([3.0, 5.0, 4.0, 8.0, 6.0, 6.0, 2.0])
    error = series[1:] - series[:-1]
    scale = np.tile([np.abs(error).mean(), (error**2).mean()], (len(error), 1))
    naive = Scored("forecast", series[1:, None], series[:-1, None], NONE, (), scale)
    assert metrics.value("mase", naive) == pytest.approx(1.0)
    assert metrics.value("rmsse", naive) == pytest.approx(1.0)


def test_a_series_that_never_moved_has_no_scaled_error_and_truths_of_nothing_no_share() -> None:
    still = scored(np.zeros((3, 2)))
    assert metrics.value("mase", still) is None
    assert metrics.value("rmsse", still) is None
    assert metrics.value("wape", Scored("forecast", TRUTH * 0, SCORE, NONE)) is None
    assert metrics.value("mase", Scored("forecast", TRUTH, SCORE, NONE)) is None


def test_every_metric_of_a_forecast_can_be_compared_in_pairs_and_blocks() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(10, 3, size=(240, 4))
    near, far = (truth + rng.normal(0, s, size=truth.shape) for s in (1.0, 2.0))
    scale = np.full((240, 2), 2.0)
    one, other = (Scored("forecast", truth, s, NONE, (), scale) for s in (near, far))
    sample = Sample(one, other, np.arange(240) // 4, np.random.default_rng(1))
    for name in metric_names("forecast"):
        found = sample.difference(name)
        assert found.groups == 60
        assert found.high is not None
        assert found.high < 0, "the nearer forecast is the better one"
        own = sample.own(name)
        assert own.low is not None
        assert own.high is not None
        assert own.low <= own.estimate <= own.high  # type: ignore[operator]  # known above


def test_the_output_of_a_forecast_is_as_wide_as_its_horizon() -> None:
    (field,) = outputs_of("forecast", "load", "FP64", 24)
    assert (field.name, field.dtype, field.width) == ("load", "FP64", 24)
