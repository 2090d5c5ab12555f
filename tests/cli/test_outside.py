"""What a name is that no model of the release has."""

from __future__ import annotations

from retinue.cli.outside import _endpoint, _planned
from retinue.core.plan import Build, Held, Plan, Waiting
from retinue.core.state import Release

ROUTE = {"select": "late-{origin}", "fallback": "late-all", "fallback_when": ["unknown"]}
RELEASE = Release("p", "prod", 1, {}, {"late": ROUTE}, (), None, "apply", "", "ada", None, "2026-01-31T09:30:00Z")
PLAN = Plan(
    "p",
    "prod",
    1,
    (Build("late-LGA", (), "d", {}),),
    held=(Held("late-EWR", "failed gate", "roc_auc.min", 1),),
    waiting=(Waiting("late-JFK", 486, 600),),
)
HOLDS = {1: "7475dd122cc1cbfdf0e0b8f79c0c4cb4"}


def test_a_member_that_waits_is_told_with_its_rows_and_who_answers_for_it() -> None:
    found = _planned("late-JFK", PLAN, RELEASE, HOLDS)
    assert found is not None
    assert "486 of 600 rows" in found.text
    assert "Endpoint late answers with late-all for it" in found.text
    assert found.facts["waiting"] == {"rows": 486, "min_rows": 600}


def test_held_and_planned_models_are_told_and_others_are_not() -> None:
    told = [_planned(name, PLAN, RELEASE, HOLDS) for name in ("late-EWR", "late-LGA", "late-XXX")]
    assert [found and next(iter(found.facts)) for found in told] == ["model", "model", None]
    assert told[0] is not None
    assert "held (failed gate, roc_auc.min)" in told[0].text
    assert "`retinue show late-EWR@7475dd122cc1` shows what is held." in told[0].text
    assert told[1] is not None
    assert "`retinue apply` builds it" in told[1].text


def test_an_endpoint_is_told_with_its_select_and_fallback() -> None:
    found = _endpoint("late", ROUTE)
    assert "late-{origin}; when that model is unknown, late-all answers" in found.text
    assert found.facts == {"endpoint": "late", **ROUTE}
