"""Intervals: reference values, coverage at fixed seeds, laws, degenerate rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retinue.core.gates import Interval, metric_names
from retinue.core.stats import auc
from retinue.core.stats.intervals import Sample
from retinue.core.stats.metrics import Array, Scored

EMPTY = np.empty(0, dtype=np.int64)
RNG = np.random.default_rng


def pair(rng: np.random.Generator, n: int, noise: float = 0.3, worse: float = 0.0) -> tuple[Scored, Scored]:
    """Challenger and champion of one task: both see the truth's logit with noise of their own."""
    logit = rng.normal(-1, 1, n)
    truth = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    return model(rng, truth, logit, noise + worse), model(rng, truth, logit, noise)


def model(rng: np.random.Generator, truth: Array, logit: Array, noise: float) -> Scored:
    score = 1 / (1 + np.exp(-(logit + rng.normal(0, noise, len(logit)))))
    return Scored("binary", truth, score, (score > 0.5).astype(np.int64))


def held(found: Interval, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


def test_placements_give_the_share_of_pairs_in_order_and_ties_count_half() -> None:
    positive, score = np.array([True, True, False, False, False]), np.array([3.0, 1.0, 2.0, 1.0, 0.0])
    area, found = auc.placements(positive, score)
    assert area == pytest.approx((3 + 1.5) / 6)
    assert found[positive].tolist() == pytest.approx([1.0, 0.5])
    assert found[~positive].mean() == pytest.approx(area)


def test_delong_equals_its_definition_by_pairs() -> None:
    rng = RNG(3)
    one, other = pair(rng, 120)
    positive = one.truth == 1

    def kernel(score: Array) -> Array:
        gap = score[positive][:, None] - score[~positive][None, :]
        return np.asarray((gap > 0) + 0.5 * (gap == 0))

    difference = kernel(other.score) - kernel(one.score)
    m, n = difference.shape
    variance = difference.mean(axis=1).var(ddof=1) / m + difference.mean(axis=0).var(ddof=1) / n
    found = Sample(one, other, None, rng).difference("roc_auc")
    assert found.estimate == pytest.approx(difference.mean())
    assert found.se == pytest.approx(np.sqrt(variance))
    assert found.method == "DeLong over 120 rows"


def test_a_large_sample_uses_the_t_interval_of_scipy() -> None:
    one, other = pair(RNG(5), 1500)
    d = (one.score - one.truth) ** 2 - (other.score - other.truth) ** 2
    low, high = stats.t.interval(0.90, len(d) - 1, loc=d.mean(), scale=stats.sem(d))
    found = Sample(one, other, None, RNG(0)).difference("brier")
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.method == "t-interval over 1,500 rows"


def test_the_bootstrap_of_a_mean_agrees_with_the_t_interval() -> None:
    one, other = pair(RNG(5), 900)
    d = (one.score - one.truth) ** 2 - (other.score - other.truth) ** 2
    low, high = stats.t.interval(0.90, len(d) - 1, loc=d.mean(), scale=stats.sem(d))
    found = Sample(one, other, None, RNG(0)).difference("brier")
    assert found.method.startswith("paired bootstrap")
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_repeated_keys_widen_the_interval_as_if_each_row_stood_once() -> None:
    one, other = pair(RNG(5), 1200)
    twice = np.repeat(np.arange(1200), 4)
    for metric in ("brier", "roc_auc", "f1"):
        single = Sample(one, other, None, RNG(0)).difference(metric)
        naive = Sample(one.take(twice), other.take(twice), None, RNG(0)).difference(metric)
        keyed = Sample(one.take(twice), other.take(twice), twice, RNG(0)).difference(metric)
        assert single.se is not None
        assert keyed.se == pytest.approx(single.se, rel=0.15)
        assert naive.se == pytest.approx(single.se / 2, rel=0.15)
        assert keyed.groups == 1200


@pytest.mark.parametrize(
    ("metric", "n", "runs"),
    [("log_loss", 60, 150), ("brier", 1200, 150), ("roc_auc", 150, 150), ("f1", 300, 120), ("ece", 300, 40)],
)
def test_one_sided_bounds_of_an_equal_model_miss_about_as_often_as_they_say(metric: str, n: int, runs: int) -> None:
    found = [Sample(*pair(RNG(seed), n), None, RNG(seed)).difference(metric) for seed in range(runs)]
    above = sum(f.low is not None and f.low > 0 for f in found)
    below = sum(f.high is not None and f.high < 0 for f in found)
    # 5 % each is promised; these bounds are exceeded by chance with probability < 0.1 %
    limit = stats.binom.ppf(0.999, runs, 0.06)
    assert above <= limit
    assert below <= limit


def test_the_own_interval_of_an_area_covers_the_truth() -> None:
    big, _ = pair(RNG(10_000), 200_000)
    truth = Sample(big, None, None, RNG(0)).own("roc_auc").estimate
    assert truth is not None
    found = [held(Sample(pair(RNG(seed), 200)[0], None, None, RNG(seed)).own("roc_auc"), truth) for seed in range(200)]
    assert 0.90 <= np.mean(found) <= 0.99


def test_bootstraps_fold_many_rows_and_keep_their_width() -> None:
    one, other = pair(RNG(1), 6000)
    whole = Sample(one, other, None, RNG(0)).difference("f1")
    assert whole.se is not None
    means = [Sample(*pair(RNG(s), 6000), None, RNG(0)).difference("f1").estimate for s in range(60)]
    assert whole.se == pytest.approx(np.std([m for m in means if m is not None]), rel=0.35)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(metric_names("binary")))
def test_shuffled_rows_give_exactly_the_same_interval(seed: int, metric: str) -> None:
    rng = RNG(seed)
    one, other = pair(rng, 80)
    keys = rng.integers(0, 50, 80).astype(str).astype(object)
    order = rng.permutation(80)
    straight = Sample(one, other, keys, RNG(7)).difference(metric)
    shuffled = Sample(one.take(order), other.take(order), keys[order], RNG(7)).difference(metric)
    assert straight == shuffled


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["log_loss", "roc_auc", "accuracy"]))
def test_swapping_the_models_mirrors_the_difference(seed: int, metric: str) -> None:
    one, other = pair(RNG(seed), 1100)
    there = Sample(one, other, None, RNG(7)).difference(metric)
    back = Sample(other, one, None, RNG(7)).difference(metric)
    assert None not in (there.estimate, there.low, there.high)
    assert back.estimate == pytest.approx(-(there.estimate or 0.0), abs=1e-12)
    assert back.high == pytest.approx(-(there.low or 0.0), abs=1e-12)


@pytest.mark.parametrize("metric", metric_names("binary"))
def test_identical_answers_differ_by_exactly_nothing(metric: str) -> None:
    one, _ = pair(RNG(2), 300)
    found = Sample(one, one, None, RNG(0)).difference(metric)
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.why == ""


@pytest.mark.parametrize("metric", metric_names("regression"))
@pytest.mark.parametrize("n", [40, 1500])
def test_every_regression_metric_has_an_interval_that_holds_its_estimate(metric: str, n: int) -> None:
    rng = RNG(4)
    truth = rng.normal(50, 10, n)
    one, other = (Scored("regression", truth, truth + rng.normal(0, 3, n), EMPTY) for _ in range(2))
    sample = Sample(one, other, None, RNG(0))
    for found in (sample.own(metric), sample.difference(metric)):
        assert found.estimate is not None
        assert held(found, found.estimate)
        assert found.se is not None
        assert found.se > 0


@pytest.mark.parametrize("metric", metric_names("multiclass"))
def test_every_multiclass_metric_has_an_interval(metric: str) -> None:
    rng = RNG(4)
    truth = rng.integers(0, 3, 200)
    scores = [rng.dirichlet(np.ones(3), 200) + np.eye(3)[truth] for _ in range(2)]
    one, other = (Scored("multiclass", truth, s / 2, s.argmax(axis=1)) for s in scores)
    found = Sample(one, other, None, RNG(0)).difference(metric)
    assert found.estimate is not None
    assert held(found, found.estimate)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
@pytest.mark.parametrize("metric", metric_names("binary"))
def test_a_handful_of_rows_is_not_enough_data_and_never_a_warning(metric: str, n: int) -> None:
    one, other = pair(RNG(2), n)
    sample = Sample(one, other, None, RNG(0))
    for found in (sample.own(metric), sample.difference(metric)):
        assert found.why.startswith(("not enough data", f"{metric} is not defined"))
        assert found.n == n


def test_one_class_only_and_a_rare_class_are_not_enough_for_a_ranking() -> None:
    one, other = pair(RNG(2), 100)
    none = np.zeros(100, dtype=np.int64)
    rare = none.copy()
    rare[:3] = 1
    for truth, words in ((none, "one class only"), (rare, "3 of 5 rows of the rarer class")):
        pairs = [Scored("binary", truth, s.score, s.label) for s in (one, other)]
        assert words in Sample(pairs[0], pairs[1], None, RNG(0)).difference("roc_auc").why


def test_a_perfect_ranking_does_not_claim_certainty() -> None:
    truth = np.array([0, 1] * 40)
    found = Sample(Scored("binary", truth, truth * 0.8, truth), None, None, RNG(0)).own("roc_auc")
    assert found.estimate == found.high == 1.0
    assert found.low is not None
    assert 0.8 < found.low < 1.0


def test_unequal_lengths_are_refused() -> None:
    one, other = pair(RNG(2), 10)
    with pytest.raises(ValueError, match="champion has 5 rows"):
        Sample(one, other.take(np.arange(5)), None, RNG(0))
