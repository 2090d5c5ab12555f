"""Metrics of quantiles agree with scikit-learn's pinball loss, and coverage counts the rows inside."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_pinball_loss

from retinue.core.contract import outputs_of
from retinue.core.gates import metric_names
from retinue.core.stats.metrics import Scored, losses, value

LEVELS = (0.1, 0.5, 0.9)


def _scored(seed: int) -> Scored:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=300)
    score = np.sort(rng.normal(size=(300, 3)), axis=1)
    return Scored("quantiles", truth, score, np.empty(0, dtype=np.int64), LEVELS)


@pytest.mark.parametrize("seed", range(3))
def test_pinball_is_the_mean_of_scikit_learns_over_the_levels(seed: int) -> None:
    s = _scored(seed)
    each = [mean_pinball_loss(s.truth, s.score[:, place], alpha=level) for place, level in enumerate(LEVELS)]
    assert value("pinball", s) == pytest.approx(np.mean(each), abs=1e-12)


def test_coverage_is_the_share_between_the_lowest_and_the_highest() -> None:
    score = np.array([[0.0, 1.0, 2.0]] * 4)
    s = Scored("quantiles", np.array([0.0, 2.0, 2.1, -1.0]), score, np.empty(0, dtype=np.int64), LEVELS)
    assert value("coverage", s) == 0.5
    found = losses("coverage", s)
    assert found is not None
    assert found.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_rows_keep_their_levels_when_some_are_taken() -> None:
    s = _scored(0)
    assert s.take(s.truth > 0).levels == LEVELS


def test_one_level_is_one_column_and_several_are_as_many() -> None:
    assert outputs_of("quantiles", "minutes", "FP64", 1)[0].width == 1
    assert outputs_of("quantiles", "minutes", "FP64", 3)[0].width == 3
    assert metric_names("quantiles") == ("pinball", "coverage")
