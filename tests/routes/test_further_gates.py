"""The further gates on a real portfolio: planned, built, judged, told, and a danger when they are loosened."""

from __future__ import annotations

import pytest
from tests.routes.harbour import Harbour, statuses

from retinue.core.errors import PortfolioError

pytestmark = pytest.mark.e2e

TEST = """\
def test_probabilities_are_probabilities(predict, holdout):
    found = predict(holdout.columns)["probability"]
    assert 0 <= found.min() <= found.max() <= 1


def test_calm_is_early(predict):
    assert predict({"wind": [0.0], "swell": [0.0]})["probability"][0] < 0.0, "calm days are late"
"""
OLD = """\
    params: {C: 1.0}
    gates:
      roc_auc: {min: 0.55}

endpoints:"""
NEW = """\
    params: {C: 1.0}
    gates:
      roc_auc: {min: 0.55}
      memory: 100MB
      slices: {by: region, metric: log_loss, worst: 3x, min_rows: 20}
      calibration: {ece: 0.9, on_inconclusive: pass}
      fairness: {by: region, metric: accuracy, gap: 0.99, min_rows: 10, on_inconclusive: pass}
      robustness: {noise: 1%, bound: 0.5, extremes: true, on_inconclusive: pass}
      latency: {p99: 10s, vs_champion: 100x}
      pytest: tests/test_late.py

endpoints:"""


def test_all_gates_are_carried_out_and_a_failing_test_blocks(harbour: Harbour) -> None:
    (harbour.root / "tests").mkdir()
    file = harbour.root / "tests" / "test_late.py"
    file.write_text(TEST)
    harbour.edit(OLD, NEW)
    before = harbour.live()
    outcome = harbour.apply(select=("late-all",))
    assert statuses(outcome)["late-all"] == "gate failed", [m.text for m in outcome.models]
    found = {r["gate"]: r for m in outcome.models for r in m.results}
    failing = {name: r["detail"] for name, r in found.items() if r["verdict"] == "fail"}
    assert list(failing) == ["pytest.tests/test_late.py::test_calm_is_early"]
    assert "calm days are late" in failing["pytest.tests/test_late.py::test_calm_is_early"]
    assert found["slices.region"]["n"]
    assert found["latency.p99"]["estimate"] > 0
    assert found["memory"]["verdict"] == "pass"
    assert harbour.live() == before

    file.write_text(TEST.replace("< 0.0", "<= 1.0"))
    assert statuses(harbour.apply(select=("late-all",)))["late-all"] == "regated"
    assert harbour.plan().empty

    harbour.edit("      memory: 100MB\n", "")
    assert "gate memory weakened" in harbour.plan().dangers[0].text


def test_gates_that_cannot_be_meant_are_told_with_their_place(harbour: Harbour) -> None:
    harbour.edit(
        OLD,
        NEW.replace("metric: log_loss, worst", "metric: mae, worst").replace(
            "by: region, metric: acc", "by: region, metric: acc"
        ),
    )
    with pytest.raises(PortfolioError) as error:
        harbour.plan()
    told = [str(p) for p in error.value.problems]
    assert any("'mae' is no metric by which slices of a binary model are compared" in text for text in told)
    assert any("tests/test_late.py cannot be read" in text for text in told)
    assert all("portfolio.yaml:" in text for text in told)
