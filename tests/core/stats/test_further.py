"""Slices, calibration, rates, quantiles: laws, published values, and what they do over many draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from retinue.core.gate_specs import SliceGate
from retinue.core.stats import metrics
from retinue.core.stats.calibration import calibration_error, folded_mean
from retinue.core.stats.influence import influence, spread
from retinue.core.stats.metrics import Scored
from retinue.core.stats.quantiles import least, quantile
from retinue.core.stats.rates import Group, groups_of, largest_gap, newcombe, wilson
from retinue.core.stats.slices import names_of, slice_tests

Array = NDArray[Any]


def binary(n: int, seed: int, tilt: float = 0.0) -> Scored:
    """Answers that are right on average; with `tilt` they say that much too little."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, n)
    truth = (rng.random(n) < np.clip(p + tilt, 0, 1)).astype(np.int64)
    return Scored("binary", truth, p, (p > 0.5).astype(np.int64))


# ── influence ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("metric", ["log_loss", "brier", "accuracy", "precision", "recall", "f1", "roc_auc"])
def test_the_linear_form_has_the_spread_of_the_metric_over_samples(metric: str) -> None:
    values = [metrics.value(metric, binary(400, seed)) for seed in range(300)]
    found = influence(metric, binary(400, 1000))
    assert found is not None
    se, carried = spread(found[1], None)
    assert carried == 400
    assert se == pytest.approx(float(np.std([v for v in values if v is not None])), rel=0.2)


def test_a_linear_form_sums_to_nothing_and_groups_of_one_row_change_nothing() -> None:
    found = influence("f1", binary(300, 3))
    assert found is not None
    assert float(found[1].sum()) == pytest.approx(0.0, abs=1e-12)
    assert spread(found[1], np.arange(300)) == spread(found[1], None)


# ── slices ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_much_worse_group_fails_and_a_small_one_is_told() -> None:
    good, bad = binary(2000, 1), binary(300, 2)
    bad = Scored("binary", 1 - bad.truth, bad.score, bad.label)
    truth, score, label = (np.concatenate([getattr(m, f) for m in (good, bad)]) for f in ("truth", "score", "label"))
    both = Scored("binary", truth, score, label)
    names = np.array(["a"] * 1000 + ["b"] * 980 + ["c"] * 20 + ["d"] * 300, dtype=object)
    tests = {t.name: t for t in slice_tests(SliceGate(("x",), "log_loss", 1.5), both, names, None)}
    assert [name for name, t in tests.items() if t.failed] == ["d"]
    assert tests["c"].why == "20 of 100 rows"
    assert tests["d"].low is not None
    assert tests["d"].low > 0
    assert tests["a"].high is not None
    assert tests["a"].high < 0


def test_slices_of_one_model_raise_no_false_alarm_more_often_than_they_say() -> None:
    names = np.array([f"g{i % 20}" for i in range(3000)], dtype=object)
    gate = SliceGate(("x",), "brier", 0.0, relative=False)  # no margin: every group is exactly at its bound
    alarms = sum(any(t.failed for t in slice_tests(gate, binary(3000, seed), names, None)) for seed in range(200))
    assert alarms <= 18  # 5 % of 200, and three standard errors


def test_a_metric_that_is_better_when_higher_is_compared_by_its_distance_from_one() -> None:
    scored = binary(1000, 5)
    names = np.array(["a", "b"] * 500, dtype=object)
    own = metrics.value("accuracy", scored)
    assert own is not None
    factor = slice_tests(SliceGate(("x",), "accuracy", 1.5), scored, names, None)[0]
    margin = slice_tests(SliceGate(("x",), "accuracy", 0.1, relative=False), scored, names, None)[0]
    assert factor.bound == pytest.approx(1 - 1.5 * (1 - own))
    assert margin.bound == pytest.approx(own - 0.1)


def test_names_join_columns_and_tell_missing_values() -> None:
    columns = [np.array(["a", None], dtype=object), np.array([1.0, np.nan])]
    assert names_of(columns).tolist() == ["a, 1", "(missing), (missing)"]


# ── calibration ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_calibrated_model_has_much_less_error_than_by_the_plain_sum() -> None:
    debiased = [calibration_error(binary(500, seed)).estimate for seed in range(100)]
    plain = [metrics.value("ece", binary(500, seed)) for seed in range(100)]
    assert float(np.mean([d for d in debiased if d is not None])) < 0.7 * float(np.mean([p for p in plain if p]))


def test_the_error_of_a_model_that_says_too_little_is_found() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.2, 0.6, 20_000)
    truth = (rng.random(20_000) < p + 0.2).astype(np.int64)
    found = calibration_error(Scored("binary", truth, p, (p > 0.5).astype(np.int64)))
    assert found.estimate == pytest.approx(0.2, abs=0.02)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.2 < found.high


def test_the_folded_normal_has_the_mean_that_scipy_gives() -> None:
    for mean, sd in ((0.0, 1.0), (0.3, 0.5), (-2.0, 0.7)):
        expected = stats.foldnorm.mean(abs(mean) / sd, scale=sd)
        assert folded_mean(np.array([mean]), np.array([sd]))[0] == pytest.approx(expected)


def test_too_few_rows_for_ten_bins_are_not_enough_data() -> None:
    assert calibration_error(binary(99, 0)).why == "not enough data: 99 of 100 rows"
    assert calibration_error(binary(400, 0), np.arange(400) // 5).why == "not enough data: 80 of 100 rows"


# ── rates ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_published_intervals_of_two_proportions() -> None:
    # Newcombe 1998, table II, method 10: the first and third of his examples
    assert newcombe((56, 70), (48, 80), 0.025) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe((9, 10), (3, 10), 0.025) == pytest.approx((0.1705, 0.8090), abs=5e-5)


@given(st.integers(1, 500), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_wilsons_interval_is_that_of_scipy(n: int, share: float) -> None:
    hits = round(n * share)
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n, 0.025) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_gap_lies_in_its_interval_whatever_the_order_of_groups(counts: list[tuple[int, int]]) -> None:
    groups = [Group(str(i), min(hits, n), n, float(n)) for i, (hits, n) in enumerate(counts)]
    gap = largest_gap(groups)
    assert 0 <= gap.low <= gap.estimate + 1e-9
    assert gap.estimate <= gap.high + 1e-9 <= 1 + 1e-9
    again = largest_gap(groups[::-1])
    assert (again.low, again.high, again.estimate) == pytest.approx((gap.low, gap.high, gap.estimate))


def test_rows_that_share_keys_count_for_fewer() -> None:
    scored = binary(200, 1)
    repeated = scored.take(np.repeat(np.arange(200), 5))
    names = np.full(1000, "a", dtype=object)
    alone, together = (
        groups_of("selection_rate", repeated, names, codes)[0] for codes in (None, np.repeat(np.arange(200), 5))
    )
    assert alone.effective == 1000
    assert together.effective == pytest.approx(200, rel=0.02)


# ── quantiles ───────────────────────────────────────────────────────────────────────────────────────────────


def test_bounds_of_a_quantile_hold_it_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = float(stats.expon.ppf(0.95))
    found = [quantile(rng.exponential(size=200), 0.95) for _ in range(400)]
    over = sum(f.low is not None and f.low > truth for f in found)
    under = sum(f.high is not None and f.high < truth for f in found)
    assert over <= 33
    assert under <= 33


def test_a_quantile_without_enough_values_has_no_upper_bound_and_says_so() -> None:
    found = quantile(np.arange(100.0), 0.99)
    assert found.high is None
    assert found.why == f"not enough data: 100 of {least(0.99)}"
