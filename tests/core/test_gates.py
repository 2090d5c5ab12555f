"""Gates as values: decisions, totals, words and digests."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from retinue.core.gates import (
    GateResult,
    Interval,
    decide_absolute,
    decide_comparison,
    decide_pooled,
    describe,
    failed,
    gates_digest,
    holm,
    metric_names,
    non_inferior,
    passed,
    total,
    undecided,
)
from retinue.core.portfolio import ExampleGate, Gates, MetricGate

RANK = {"fail": 0, "inconclusive": 1, "pass": 2}
AUC = Interval(1204, 1204, 0.683, 0.651, 0.715, 0.0163, "DeLong over 1,204 rows")
bounds = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted)


def test_importing_gates_does_not_import_numpy() -> None:
    code = "import sys; import retinue.core.gates; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_metric_names_are_those_of_the_task() -> None:
    assert "roc_auc" in metric_names("binary")
    assert set(metric_names("regression")) == {"mae", "rmse", "r2", "mape", "median_ae"}
    assert set(metric_names("multiclass")) == {"log_loss", "accuracy", "f1_macro"}


def test_an_absolute_gate_judges_the_point_estimate_and_tells_the_interval() -> None:
    result = decide_absolute(MetricGate("roc_auc", minimum=0.60), "min", AUC)
    assert result.verdict == "pass"
    assert describe(result) == "roc_auc 0.683 [0.651, 0.715] n=1,204 ≥ 0.60 pass"
    assert decide_absolute(MetricGate("roc_auc", minimum=0.7), "min", AUC).verdict == "fail"
    assert decide_absolute(MetricGate("roc_auc", maximum=0.7), "max", AUC).verdict == "pass"
    assert decide_absolute(MetricGate("roc_auc", maximum=0.6), "max", AUC).verdict == "fail"


def test_too_few_rows_are_inconclusive_unless_the_gate_says_pass() -> None:
    few = replace(AUC, why="not enough data: 12 of 30 rows")
    assert decide_absolute(MetricGate("roc_auc", minimum=0.99), "min", few).verdict == "inconclusive"
    lenient = decide_absolute(MetricGate("roc_auc", minimum=0.99, on_inconclusive="pass"), "min", few)
    assert lenient.verdict == "pass"
    assert "not enough data" in lenient.detail


def test_a_relative_margin_is_a_share_of_the_champions_metric_and_an_absolute_one_is_not() -> None:
    found = Interval(2000, 2000, 0.002, -0.003, 0.0105, 0.004, "t")
    relative = MetricGate("log_loss", vs_champion=True, margin=0.02)
    assert decide_comparison(relative, found, 0.551).threshold == 0.02 * 0.551
    assert decide_comparison(relative, found, 0.551).verdict == "pass"
    assert decide_comparison(relative, found, 0.4).verdict == "inconclusive"
    absolute = replace(relative, margin=0.02, margin_relative=False)
    assert decide_comparison(absolute, found, 0.551).threshold == 0.02
    negative = decide_comparison(replace(relative, metric="r2"), found, -0.551)
    assert negative.threshold == 0.02 * 0.551


def test_a_comparison_is_told_as_a_loss_beside_its_margin() -> None:
    found = Interval(1204, 1204, 0.002, -0.003, 0.007, 0.003, "t")
    result = decide_comparison(MetricGate("log_loss", vs_champion=True), found, 0.551)
    told = "log_loss worse by +0.0020 [-0.0030, +0.0070] than champion 0.551 n=1,204 < 0.01102 pass"
    assert describe(result) == told


def test_no_difference_at_all_passes_even_a_margin_of_nothing() -> None:
    assert non_inferior(0.0, 0.0, 0.0) == "pass"
    assert non_inferior(None, None, 0.1) == "inconclusive"


@given(bounds, st.floats(0, 1), st.floats(0, 1))
def test_a_wider_margin_never_makes_the_verdict_worse(bound: list[float], one: float, other: float) -> None:
    low, high = bound
    assert RANK[non_inferior(low, high, max(one, other))] >= RANK[non_inferior(low, high, min(one, other))]


@given(bounds, st.floats(0.001, 1))
def test_two_models_cannot_both_be_worse_than_each_other(bound: list[float], margin: float) -> None:
    low, high = bound
    there, back = non_inferior(low, high, margin), non_inferior(-high, -low, margin)
    assert not (there == "fail" and back == "fail")
    if there == "fail":
        assert back == "pass"


@given(st.lists(st.sampled_from(["pass", "fail", "inconclusive"])))
def test_fail_beats_inconclusive_beats_pass(verdicts: list[str]) -> None:
    made = {"pass": passed("a"), "fail": failed("a", "x"), "inconclusive": undecided("a", "x")}
    found = total(made[v] for v in verdicts)
    assert RANK[found] == min((RANK[v] for v in verdicts), default=2)


def test_a_family_settles_only_what_was_inconclusive() -> None:
    own = GateResult("log_loss.vs_champion", "log_loss", "inconclusive", on_inconclusive="pooled")
    good = Interval(9000, 12, 0.0, -0.001, 0.002, 0.001, "bootstrap over 12 members")
    assert decide_pooled(own, good, 0.01, guard_failed=False).verdict == "pass"
    assert decide_pooled(own, good, 0.01, guard_failed=True).verdict == "fail"
    assert decide_pooled(own, replace(good, low=0.02, high=0.03), 0.01, guard_failed=False).verdict == "inconclusive"
    assert decide_pooled(own, Interval(0, 1, why="two members"), 0.01, guard_failed=False).verdict == "inconclusive"
    lost = replace(own, verdict="fail")
    assert decide_pooled(lost, good, 0.01, guard_failed=False) is lost


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_bonferroni_and_no_correction(p_values: list[float]) -> None:
    for p, rejected in zip(p_values, holm(p_values), strict=True):
        assert rejected or p > 0.05 / len(p_values)
        assert not rejected or p <= 0.05


def test_results_survive_json() -> None:
    result = decide_absolute(MetricGate("roc_auc", minimum=0.60), "min", AUC)
    assert GateResult.from_json(result.to_json()) == result


def test_the_digest_follows_settings_and_not_their_order() -> None:
    one, two = MetricGate("roc_auc", minimum=0.6), MetricGate("log_loss", vs_champion=True)
    example = ExampleGate((("x", 1.0),), (("label", True),))
    gates = Gates((one, two), (example,), 1000)
    assert gates_digest(gates, "binary") == gates_digest(replace(gates, metrics=(two, one)), "binary")
    assert gates_digest(gates, "binary") != gates_digest(replace(gates, size=1001), "binary")
    assert gates_digest(gates, "binary") != gates_digest(gates, "multiclass")
    edited = replace(gates, metrics=(one, replace(two, margin=0.03)))
    assert gates_digest(gates, "binary") != gates_digest(edited, "binary")


def test_results_without_numbers_are_told_by_their_detail() -> None:
    assert describe(passed("contract.order", "reversed rows", n=256)) == "contract.order n=256 pass: reversed rows"
    assert describe(failed("size", "30 of 20 bytes")) == "size fail: 30 of 20 bytes"
