"""What lands together, and what goes back together."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from retinue.core.landing import Passed, groups, inverse, resolve, unproved

NEEDS = {"u1": (), "u2": (), "a1": ("u",), "a2": ("u",), "b1": ("u",), "b2": ("u",)}


def needs(version: str) -> tuple[str, ...]:
    return NEEDS[version]


def passing(*pairs: tuple[str, str]) -> Passed:
    known = {(v, u) for v, u in pairs}

    def passed(version: str, upstreams: Mapping[str, str]) -> bool:
        return (version, upstreams.get("u", "")) in known

    return passed


ALL = passing(*[(v, u) for v in ("a1", "a2", "b1", "b2") for u in ("u1", "u2")], ("u1", ""), ("u2", ""))


def test_everything_lands_when_all_evidence_passes() -> None:
    found = resolve({"u": "u1", "a": "a1"}, {"u": "u2", "a": "a2"}, needs, ALL)
    assert found.accepted == {"u": "u2", "a": "a2"}
    assert not found.refused


def test_an_upstream_does_not_land_when_a_consumer_that_stays_fails_with_it() -> None:
    passed = passing(("u2", ""), ("a1", "u1"), ("b2", "u2"))
    found = resolve({"u": "u1", "a": "a1", "b": "b1"}, {"u": "u2", "b": "b2"}, needs, passed)
    assert found.accepted == {}
    assert found.refused["u"] == "a does not pass its gates with it"
    assert "was built with the new u" in found.refused["b"]


def test_a_failing_consumer_change_does_not_stop_an_upstream_its_live_version_gets_along_with() -> None:
    passed = passing(("u2", ""), ("a1", "u2"))
    found = resolve({"u": "u1", "a": "a1"}, {"u": "u2", "a": "a2"}, needs, passed)
    assert found.accepted == {"u": "u2"}


def test_a_new_model_whose_upstream_is_missing_is_refused() -> None:
    found = resolve({}, {"a": "a1"}, needs, ALL)
    assert found.accepted == {}
    assert "not in the release" in found.refused["a"]


def test_groups_tie_models_by_needs_among_the_changed_only() -> None:
    assert groups({"u": "u2", "a": "a2", "b": "b2"}, needs) == (("a", "b", "u"),)
    assert groups({"a": "a2", "b": "b2"}, needs) == (("a",), ("b",))


def test_rolling_back_an_upstream_takes_back_the_consumer_that_was_rebuilt_with_it() -> None:
    passed = passing(("u1", ""), ("u2", ""), ("a2", "u2"), ("a1", "u1"), ("b1", "u1"), ("b1", "u2"))
    live = {"u": "u2", "a": "a2", "b": "b1"}
    patch = inverse(live, {"u": "u1", "a": "a1"}, ("u",), needs, passed)
    assert patch == {"u": "u1", "a": "a1"}
    assert unproved(live, patch, needs, passed) == []


def test_rolling_back_a_consumer_alone_stays_alone_when_it_passed_with_the_new_upstream() -> None:
    patch = inverse({"u": "u2", "a": "a2"}, {"u": "u1", "a": "a1"}, ("a",), needs, ALL)
    assert patch == {"a": "a1"}


@given(st.sets(st.tuples(st.sampled_from(["u1", "u2", "a1", "a2", "b1", "b2"]), st.sampled_from(["", "u1", "u2"]))))
def test_what_is_accepted_always_has_evidence(pairs: set[tuple[str, str]]) -> None:
    passed = passing(*pairs)
    live = {"u": "u1", "a": "a1", "b": "b1"}
    found = resolve(live, {"u": "u2", "a": "a2", "b": "b2"}, needs, passed)
    final = {**live, **found.accepted}
    for model in found.accepted:
        ups = {u: final[u] for u in needs(final[model])}
        assert passed(final[model], ups)
    if "u" in found.accepted:
        assert all(passed(final[m], {"u": final["u"]}) for m in ("a", "b"))
    assert set(found.accepted) | set(found.refused) == {"u", "a", "b"}
