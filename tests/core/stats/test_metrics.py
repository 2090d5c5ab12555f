"""Metrics agree with scikit-learn and have an answer for degenerate rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from retinue.core.contract import Task
from retinue.core.gates import METRICS, metric_names
from retinue.core.stats.metrics import Array, Scored, encode, losses, value, weighted

EMPTY = np.empty(0, dtype=np.int64)


def binary(rng: np.random.Generator, n: int = 400, digits: int = 2) -> Scored:
    truth = (rng.random(n) < 0.3).astype(np.int64)
    score = np.clip(rng.normal(0.3 + 0.2 * truth, 0.2), 0.001, 0.999).round(digits)
    return Scored("binary", truth, score, (score > 0.5).astype(np.int64))


def multiclass(rng: np.random.Generator, n: int = 300, k: int = 4) -> Scored:
    truth = rng.integers(0, k, n)
    raw = rng.random((n, k)) + 0.7 * np.eye(k)[truth]
    score = raw / raw.sum(axis=1, keepdims=True)
    return Scored("multiclass", truth, score, score.argmax(axis=1))


def regression(rng: np.random.Generator, n: int = 300) -> Scored:
    truth = rng.normal(1000, 5, n)
    return Scored("regression", truth, truth + rng.normal(0.3, 2, n), EMPTY)


@pytest.mark.parametrize("seed", range(5))
def test_binary_metrics_equal_scikit_learn(seed: int) -> None:
    s = binary(np.random.default_rng(seed))
    expected = {
        "roc_auc": sk.roc_auc_score(s.truth, s.score),
        "log_loss": sk.log_loss(s.truth, s.score),
        "brier": sk.brier_score_loss(s.truth, s.score),
        "accuracy": sk.accuracy_score(s.truth, s.label),
        "precision": sk.precision_score(s.truth, s.label),
        "recall": sk.recall_score(s.truth, s.label),
        "f1": sk.f1_score(s.truth, s.label),
        "average_precision": sk.average_precision_score(s.truth, s.score),
    }
    assert {name: value(name, s) for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_multiclass_metrics_equal_scikit_learn(seed: int) -> None:
    s = multiclass(np.random.default_rng(seed))
    assert value("log_loss", s) == pytest.approx(sk.log_loss(s.truth, s.score), abs=1e-12)
    assert value("accuracy", s) == sk.accuracy_score(s.truth, s.label)
    assert value("f1_macro", s) == pytest.approx(sk.f1_score(s.truth, s.label, average="macro"), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [300, 301])
def test_regression_metrics_equal_scikit_learn(seed: int, n: int) -> None:
    s = regression(np.random.default_rng(seed), n)
    expected = {
        "mae": sk.mean_absolute_error(s.truth, s.score),
        "rmse": sk.root_mean_squared_error(s.truth, s.score),
        "r2": sk.r2_score(s.truth, s.score),
        "mape": sk.mean_absolute_percentage_error(s.truth, s.score),
        "median_ae": sk.median_absolute_error(s.truth, s.score),
    }
    assert {name: value(name, s) for name in expected} == pytest.approx(expected, abs=1e-9)


def test_calibration_error_is_zero_when_every_bin_is_right_and_the_gap_when_not() -> None:
    truth = np.array([0, 1] * 50)
    even = Scored("binary", truth, np.full(100, 0.5), truth)
    high = Scored("binary", truth, np.full(100, 0.9), truth)
    assert value("ece", even) == pytest.approx(0.0)
    assert value("ece", high) == pytest.approx(0.4)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_per_row_losses_average_to_the_metric(task: Task) -> None:
    make = {"binary": binary, "multiclass": multiclass, "regression": regression}[task]
    s = make(np.random.default_rng(1))
    for name in metric_names(task):
        found = losses(name, s)
        assert (found is not None) == METRICS[name].per_row
        if found is not None:
            whole = value(name, s)
            assert whole is not None
            assert found.mean() == pytest.approx(1 - whole if METRICS[name].higher_is_better else whole)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_metric_is_undefined_without_rows_and_with_nan_answers(task: Task) -> None:
    make = {"binary": binary, "multiclass": multiclass, "regression": regression}[task]
    s = make(np.random.default_rng(1))
    broken = Scored(
        task, s.truth, np.where(np.arange(s.score.size).reshape(s.score.shape) == 3, np.nan, s.score), s.label
    )
    for name in metric_names(task):
        assert value(name, s.take(np.arange(0))) is None
        assert value(name, broken) is None


def test_one_class_only_leaves_ranking_metrics_undefined_and_the_others_finite() -> None:
    one = Scored("binary", np.zeros(50, dtype=np.int64), np.linspace(0, 1, 50), np.zeros(50, dtype=np.int64))
    assert value("roc_auc", one) is None
    assert value("average_precision", one) is None
    assert value("f1", one) == 0.0
    assert value("precision", one) == 0.0
    assert value("log_loss", one) is not None


def test_certain_and_wrong_costs_much_but_not_infinitely() -> None:
    s = Scored("binary", np.array([0, 1]), np.array([1.0, 0.0]), np.array([1, 0]))
    assert value("log_loss", s) == pytest.approx(sk.log_loss(s.truth, s.score))


def test_a_constant_truth_has_no_r2_and_zero_truth_no_percentage() -> None:
    s = Scored("regression", np.full(10, 7.1), np.linspace(6, 8, 10), EMPTY)
    assert value("r2", s) is None
    zero = Scored("regression", np.array([0.0, 2.0]), np.array([1.0, 3.0]), EMPTY)
    assert value("mape", zero) == 0.5
    assert value("mape", zero.take(np.array([0]))) is None


def test_a_class_the_model_never_saw_is_a_miss_and_not_a_crash() -> None:
    truth = encode(np.array(["a", "b", "new"], dtype=object), ["a", "b"])
    assert truth.tolist() == [0, 1, -1]
    s = Scored("multiclass", truth, np.array([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]]), np.array([0, 1, 0]))
    assert value("accuracy", s) == pytest.approx(2 / 3)
    assert value("f1_macro", s) == pytest.approx(sk.f1_score(truth, s.label, average="macro"))
    found = value("log_loss", s)
    assert found is not None
    assert found > 10


def test_booleans_and_their_float_form_are_the_same_labels() -> None:
    assert encode(np.array([1.0, 0.0, np.nan]), [False, True]).tolist() == [1, 0, -1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["roc_auc", "average_precision", "median_ae"]))
def test_a_row_of_weight_three_counts_as_three_rows(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    s = regression(rng, 31) if name == "median_ae" else binary(rng, 31, digits=1)
    weights = rng.integers(0, 4, len(s))
    weights[:2] += 1
    repeated = s.take(np.repeat(np.arange(len(s)), weights))
    expected = value(name, repeated)
    found = weighted(name, s)(weights.astype(np.float64))
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(metric_names("binary")))
def test_the_order_of_rows_does_not_matter(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    s = binary(rng, 60, digits=1)
    order: Array = rng.permutation(60)
    assert value(name, s.take(order)) == pytest.approx(value(name, s), abs=1e-12)
