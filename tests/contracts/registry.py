"""What every registry must do. A concrete test class inherits `RegistryContract` and gives the `registry` fixture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from retinue.core.access import ClientKey, ClientRecord
from retinue.core.errors import ConflictError, LeaseHeldError, StateError
from retinue.core.publication import Publication
from retinue.core.state import (
    ApplyRecord,
    AuditRow,
    Definition,
    Entry,
    Evidence,
    HistoryRow,
    Hold,
    Landing,
    Lease,
    Release,
    Snapshot,
    Version,
)
from retinue.store.base import Registry

P, S = "shop", "prod"


def moment(second: int) -> str:
    """A moment that many seconds (< 3,600) after noon."""
    return f"2026-01-31T12:{second // 60:02}:{second % 60:02}.000000Z"


def add_version(registry: Registry, id: str, model: str = "a", *, portfolio: str = P, **changes: Any) -> Version:
    """Register version `id` of its own definition `d-id` on snapshot `s`."""
    definition = changes.pop("definition", f"d-{id}")
    registry.put_definitions([Definition(definition, model, {"params": {"depth": 3}}, "bundle")])
    registry.put_snapshots([Snapshot("s", {"cutoff": "2013-04-30T00:00:00"})])
    version = Version(id, portfolio, model, definition, "s", {"artifact": id}, moment(0))
    return registry.register(version, **changes)


def landing(
    expected: Mapping[str, str | None], models: Mapping[str, str | None], now: int = 1, **changes: Any
) -> Landing:
    """A landing of plain versions."""
    entries = {model: Entry(version) if version else None for model, version in models.items()}
    made = Landing(P, S, expected, entries, {}, (tuple(models),), "apply", "because", "ann", moment(now))
    return replace(made, **changes)


def land(registry: Registry, model: str, old: str | None, new: str | None, now: int = 1, **changes: Any) -> Release:
    """Land one model's change."""
    return registry.land(landing({model: old}, {model: new}, now, **changes))


def hold(model: str = "a", **changes: Any) -> Hold:
    """An active hold."""
    made = Hold(P, S, model, f"d-{model}", "s", f"{model}1", "failed gate", "auc 0.6 < 0.7", "gates", moment(5))
    return replace(made, **changes)


def lease(registry: Registry, models: Collection[str], holder: str = "ann", now: int = 0, end: int = 60) -> Lease:
    """Take a lease from second `now` to `end`."""
    return registry.acquire(P, S, models, holder=holder, now=moment(now), expires=moment(end))


class RegistryContract:
    """The suite."""

    # Definitions, snapshots, versions, evidence

    def test_what_was_put_is_read_back_and_unknown_keys_are_left_out(self, registry: Registry) -> None:
        first = Definition("d1", "a", {"params": {"x": [1, 2.5, None, "é"]}}, "bundle")
        registry.put_definitions([first, Definition("d2", "b", {}, "bundle")])
        registry.put_snapshots([Snapshot("s1", {"rows": 10})])
        assert registry.definitions(["d1", "nope"]) == {"d1": first}
        assert registry.snapshots(["s1", "nope"]) == {"s1": Snapshot("s1", {"rows": 10})}
        assert registry.definitions([]) == {}

    def test_a_definition_or_snapshot_already_there_is_left_as_it_is(self, registry: Registry) -> None:
        registry.put_definitions([Definition("d", "a", {"n": 1}, "one"), Definition("d", "a", {"n": 2}, "two")])
        registry.put_definitions([Definition("d", "a", {"n": 3}, "three")])
        registry.put_snapshots([Snapshot("s", {"n": 1})])
        registry.put_snapshots([Snapshot("s", {"n": 2})])
        assert registry.definitions(["d"])["d"].body == {"n": 1}
        assert registry.snapshots(["s"])["s"].body == {"n": 1}

    def test_what_json_cannot_hold_is_refused(self, registry: Registry) -> None:
        with pytest.raises(StateError, match="JSON"):
            registry.put_definitions([Definition("d", "a", {"x": float("nan")}, "b")])

    def test_the_first_version_of_a_pair_wins_and_is_returned(self, registry: Registry) -> None:
        first = add_version(registry, "v1", definition="d")
        assert add_version(registry, "v2", definition="d") == first
        assert registry.versions(["v1", "v2"]) == {"v1": first}

    def test_a_sibling_stands_beside_the_first_and_is_what_its_pair_means_then(self, registry: Registry) -> None:
        add_version(registry, "v1", definition="d")
        second = add_version(registry, "v2", definition="d", sibling=True)
        assert second.sibling == 1
        assert registry.versions_of_pairs(P, [("d", "s"), ("d", "other")]) == {("d", "s"): second}
        assert [version.id for version in registry.versions_of_model(P, "a")] == ["v2", "v1"]

    def test_rebuilding_to_the_same_bytes_is_the_same_version(self, registry: Registry) -> None:
        first = add_version(registry, "v1", definition="d")
        assert add_version(registry, "v1", definition="d", sibling=True) == first

    def test_a_version_of_an_unrecorded_definition_or_of_another_pair_is_refused(self, registry: Registry) -> None:
        with pytest.raises(StateError, match="definition"):
            registry.register(Version("v", P, "a", "nope", "s", {}, moment(0)))
        add_version(registry, "v1", definition="d")
        with pytest.raises(StateError, match="another definition"):
            add_version(registry, "v1", definition="e")

    def test_portfolios_are_name_spaces(self, registry: Registry) -> None:
        add_version(registry, "v1", definition="d")
        other = add_version(registry, "v1", definition="d", portfolio="bank")
        land(registry, "a", None, "v1")
        assert other.portfolio == "bank"
        assert registry.versions(["v1"])["v1"].portfolio == P
        assert registry.versions_of_pairs("bank", [("d", "s")]) == {("d", "s"): other}
        assert registry.current("bank", S) is None
        assert registry.stages("bank") == {}
        assert registry.stages(P) == {S: 1}
        assert registry.audit("bank") == []

    def test_a_version_of_another_portfolio_cannot_land(self, registry: Registry) -> None:
        add_version(registry, "v1", portfolio="bank")
        with pytest.raises(StateError, match="not registered"):
            land(registry, "a", None, "v1")

    def test_evidence_is_appended_and_read_newest_first(self, registry: Registry) -> None:
        add_version(registry, "v1")
        old = Evidence("v1", {"up": "u1"}, "g", "fail", ({"metric": "auc", "value": 0.6},), None, moment(1))
        new = replace(old, upstreams={"up": "u2"}, verdict="pass", champion="v0", created=moment(2))
        registry.add_evidence([old, new])
        registry.add_evidence([])
        assert registry.evidence(["v1", "v2"]) == {"v1": [new, old], "v2": []}
        with pytest.raises(StateError, match="not registered"):
            registry.add_evidence([replace(old, version="v9")])

    # Landing

    def test_a_stage_without_a_release_is_not_there(self, registry: Registry) -> None:
        assert registry.current(P, S) is None
        assert registry.stages(P) == {}
        assert registry.releases(P, S) == []
        assert registry.release_at(P, S, moment(9)) is None
        with pytest.raises(StateError, match="no release 1"):
            registry.release(P, S, 1)

    def test_a_landing_makes_the_next_release_and_the_stage_points_at_it(self, registry: Registry) -> None:
        for id, model in (("a1", "a"), ("b1", "b"), ("b2", "b")):
            add_version(registry, id, model)
        endpoints = {"front": {"select": "a"}}
        first = registry.land(landing({"a": None, "b": None}, {"a": "a1", "b": "b1"}, endpoints=endpoints, plan="p1"))
        second = land(registry, "b", "b1", "b2", 2)
        assert (first.number, first.parent, first.plan) == (1, None, "p1")
        assert (second.number, second.parent) == (2, 1)
        assert second.models == {"a": Entry("a1"), "b": Entry("b2")}
        assert second.endpoints == endpoints
        assert second.groups == (("b",),)
        assert registry.current(P, S) == second
        assert registry.release(P, S, 1) == first
        assert registry.releases(P, S) == [second, first]
        assert registry.releases(P, S, limit=1) == [second]
        assert registry.stages(P) == {S: 2}

    def test_each_stage_has_its_own_line_of_releases(self, registry: Registry) -> None:
        add_version(registry, "v1")
        land(registry, "a", None, "v1")
        promoted = land(registry, "a", None, "v1", 2, stage="staging")
        assert promoted.number == 1
        assert registry.stages(P) == {"prod": 1, "staging": 1}

    def test_expected_must_name_every_model_that_changes(self, registry: Registry) -> None:
        add_version(registry, "v1")
        with pytest.raises(StateError, match="does not name a"):
            registry.land(landing({}, {"a": "v1"}))

    def test_a_landing_on_a_moved_model_conflicts_and_changes_nothing(self, registry: Registry) -> None:
        for id in ("a1", "a2", "a3"):
            add_version(registry, id)
        land(registry, "a", None, "a1")
        land(registry, "a", "a1", "a2", 2)
        with pytest.raises(ConflictError, match=r"a moved .* was a1, now a2") as refused:
            land(registry, "a", "a1", "a3", 3, holds=(hold(),))
        assert "retinue plan" in str(refused.value.hint)
        with pytest.raises(ConflictError, match="was absent, now a2"):
            land(registry, "a", None, "a3", 3)
        assert registry.stages(P) == {S: 2}
        assert registry.holds(P, S) == []
        assert len(registry.audit(P)) == 2

    def test_a_regated_model_that_moved_conflicts_though_it_would_not_change(self, registry: Registry) -> None:
        for id, model in (("a1", "a"), ("b1", "b"), ("b2", "b")):
            add_version(registry, id, model)
        land(registry, "b", None, "b2")
        with pytest.raises(ConflictError, match="b moved"):
            registry.land(landing({"a": None, "b": "b1"}, {"a": "a1"}))

    def test_independent_changes_made_against_the_same_release_both_land(self, registry: Registry) -> None:
        for id, model in (("a1", "a"), ("b1", "b")):
            add_version(registry, id, model)
        land(registry, "a", None, "a1")
        assert land(registry, "b", None, "b1", 2).models == {"a": Entry("a1"), "b": Entry("b1")}

    def test_an_unregistered_version_cannot_land(self, registry: Registry) -> None:
        with pytest.raises(StateError, match="not registered: version v1"):
            land(registry, "a", None, "v1")
        assert registry.current(P, S) is None

    def test_a_landing_that_changes_nothing_is_refused_unless_endpoints_change(self, registry: Registry) -> None:
        add_version(registry, "v1")
        with pytest.raises(StateError, match="nothing would change"):
            registry.land(landing({}, {}))
        land(registry, "a", None, "v1")
        with pytest.raises(StateError, match="nothing would change"):
            land(registry, "a", "v1", "v1", 2)
        made = registry.land(landing({}, {}, 3, endpoints={"front": {"select": "a"}}))
        assert made.number == 2
        assert registry.history(P, S)[0].release == 1
        gone = registry.land(landing({}, {}, 4, endpoints={"front": None}))
        assert gone.endpoints == {}

    def test_protection_alone_is_a_change_of_the_release_but_not_of_history(self, registry: Registry) -> None:
        add_version(registry, "v1")
        land(registry, "a", None, "v1")
        made = registry.land(replace(landing({"a": "v1"}, {}, 2), models={"a": Entry("v1", protect=True)}))
        assert made.models == {"a": Entry("v1", protect=True)}
        assert registry.current(P, S) == made
        assert len(registry.history(P, S)) == 1

    @pytest.mark.parametrize("body", [{"select": "a"}, {"select": "late-{origin}", "fallback": "a"}])
    def test_a_model_an_endpoint_answers_with_is_not_removed(self, registry: Registry, body: dict[str, Any]) -> None:
        for id, model in (("a1", "a"), ("b1", "b")):
            add_version(registry, id, model)
        both = landing({"a": None, "b": None}, {"a": "a1", "b": "b1"}, endpoints={"front": body})
        registry.land(both)
        with pytest.raises(StateError, match="a cannot be removed: endpoint front"):
            land(registry, "a", "a1", None, 2)
        assert land(registry, "b", "b1", None, 3).models == {"a": Entry("a1")}
        assert land(registry, "a", "a1", None, 4, endpoints={"front": None}).models == {}

    def test_rolling_back_lands_the_old_content_as_a_new_release(self, registry: Registry) -> None:
        for id in ("a1", "a2"):
            add_version(registry, id)
        first = land(registry, "a", None, "a1")
        land(registry, "a", "a1", "a2", 2)
        held = hold(definition="d-a2", version="a2", cause="rollback")
        back = land(registry, "a", "a2", "a1", 3, cause="rollback", holds=(held,))
        assert (back.number, back.parent, back.models) == (3, 2, first.models)
        assert [(row.old, row.new, row.cause) for row in registry.history(P, S, "a")] == [
            ("a2", "a1", "rollback"),
            ("a1", "a2", "apply"),
            (None, "a1", "apply"),
        ]
        assert [(h.version, h.release) for h in registry.holds(P, S)] == [("a2", 3)]
        assert registry.audit(P)[0].act == "rollback"

    def test_release_at_is_what_was_current_at_that_moment(self, registry: Registry) -> None:
        for id in ("a1", "a2"):
            add_version(registry, id)
        first = land(registry, "a", None, "a1", 10)
        second = land(registry, "a", "a1", "a2", 20)
        assert registry.release_at(P, S, moment(9)) is None
        assert registry.release_at(P, S, moment(10)) == first
        assert registry.release_at(P, S, moment(19)) == first
        assert registry.release_at(P, S, moment(20)) == second

    def test_history_tells_each_change_newest_first_and_per_model(self, registry: Registry) -> None:
        for id, model in (("a1", "a"), ("b1", "b"), ("b2", "b")):
            add_version(registry, id, model)
        registry.land(landing({"a": None, "b": None}, {"a": "a1", "b": "b1"}, 1))
        registry.land(landing({"a": "a1", "b": "b1"}, {"a": None, "b": "b2"}, 2, why="cleaning"))
        told = registry.history(P, S)
        assert told[0] == HistoryRow(2, "a", "a1", None, "apply", "cleaning", "ann", moment(2))
        assert [(row.release, row.model) for row in told] == [(2, "a"), (2, "b"), (1, "a"), (1, "b")]
        assert [row.new for row in registry.history(P, S, "b")] == ["b2", "b1"]
        assert registry.history(P, S, limit=2) == told[:2]

    # Leases

    def test_a_lease_is_taken_on_all_models_or_on_none(self, registry: Registry) -> None:
        first = lease(registry, ["b", "a"])
        assert first.models == ("a", "b")
        with pytest.raises(LeaseHeldError, match="ann is at work on b "):
            lease(registry, ["b", "c"], "bob")
        assert registry.leases(P, S, moment(0)) == [first]
        second = lease(registry, ["c"], "bob")
        assert second.fence > first.fence
        assert registry.leases(P, S, moment(0)) == [first, second]

    def test_calls_of_one_holder_do_not_share_a_lease(self, registry: Registry) -> None:
        lease(registry, ["a"])
        with pytest.raises(LeaseHeldError):
            lease(registry, ["a"])

    def test_stages_and_portfolios_lease_apart(self, registry: Registry) -> None:
        lease(registry, ["a"])
        registry.acquire(P, "dev", ["a"], holder="bob", now=moment(0), expires=moment(60))
        registry.acquire("bank", S, ["a"], holder="bob", now=moment(0), expires=moment(60))

    def test_a_freed_lease_can_be_taken_and_freeing_twice_is_harmless(self, registry: Registry) -> None:
        first = lease(registry, ["a"])
        registry.free(first)
        second = lease(registry, ["a"], "bob")
        registry.free(first)
        assert registry.leases(P, S, moment(0)) == [second]
        assert second.fence > first.fence

    def test_an_expired_lease_is_taken_over_and_the_late_holder_is_refused(self, registry: Registry) -> None:
        add_version(registry, "a1")
        late = lease(registry, ["a", "b"], end=10)
        assert registry.leases(P, S, moment(10)) == []
        heir = lease(registry, ["a"], "bob", now=10)
        with pytest.raises(ConflictError, match="lease of ann on a was lost"):
            land(registry, "a", None, "a1", 11, lease=late)
        with pytest.raises(ConflictError, match="lost"):
            registry.renew(late, now=moment(11), expires=moment(90))
        assert registry.current(P, S) is None
        assert land(registry, "a", None, "a1", 12, lease=heir).number == 1

    def test_an_expired_lease_that_nobody_took_still_lands_and_renews(self, registry: Registry) -> None:
        add_version(registry, "a1")
        mine = lease(registry, ["a"], end=10)
        renewed = registry.renew(mine, now=moment(20), expires=moment(50))
        assert renewed == replace(mine, expires=moment(50))
        assert registry.leases(P, S, moment(49)) == [renewed]
        assert land(registry, "a", None, "a1", 55, lease=renewed).number == 1

    def test_a_lease_must_cover_the_whole_affected_set_of_its_own_stage(self, registry: Registry) -> None:
        add_version(registry, "a1")
        mine = lease(registry, ["a"])
        with pytest.raises(ConflictError, match="on b was lost"):
            registry.land(landing({"a": None, "b": None}, {"a": "a1"}, lease=mine))
        with pytest.raises(StateError, match="not on shop/dev"):
            registry.land(landing({"a": None}, {"a": "a1"}, lease=mine, stage="dev"))

    def test_an_urgent_landing_without_a_lease_goes_ahead_and_the_holder_conflicts(self, registry: Registry) -> None:
        for id in ("a1", "a2", "a3"):
            add_version(registry, id)
        land(registry, "a", None, "a1")
        mine = lease(registry, ["a"])
        land(registry, "a", "a1", "a2", 2)
        with pytest.raises(ConflictError, match="a moved"):
            land(registry, "a", "a1", "a3", 3, lease=mine)

    def test_an_empty_lease_serves_changes_of_endpoints_alone(self, registry: Registry) -> None:
        none = lease(registry, [])
        made = registry.land(landing({}, {}, endpoints={"front": {"select": "late-{origin}"}}, lease=none))
        assert made.number == 1
        registry.renew(none, now=moment(1), expires=moment(90))
        registry.free(none)

    # Holds

    def test_a_hold_is_active_until_it_is_ended_with_a_reason(self, registry: Registry) -> None:
        registry.hold([hold("a"), hold("b")])
        newest, oldest = registry.holds(P, S)
        assert (newest.model, oldest.model) == ("b", "a")
        assert replace(oldest, id=0) == hold("a")
        registry.end_holds([oldest.id], why="data was wrong", who="bob", now=moment(9))
        registry.end_holds([oldest.id], why="again", who="eve", now=moment(10))
        assert registry.holds(P, S) == [newest]
        ended = registry.holds(P, S, ended=True)[1]
        assert (ended.ended, ended.ended_why) == (moment(9), "data was wrong")
        assert [(row.who, row.act, row.why) for row in registry.audit(P)] == [("bob", "unhold", "data was wrong")]
        assert registry.holds(P, "dev", ended=True) == []

    def test_a_newer_hold_replaces_the_active_one_on_the_same_build(self, registry: Registry) -> None:
        registry.hold([hold("a")])
        registry.hold([hold("a", detail="auc 0.5 < 0.7", created=moment(8)), hold("a", snapshot="s2")])
        assert [(h.snapshot, h.detail) for h in registry.holds(P, S)] == [
            ("s2", "auc 0.6 < 0.7"),
            ("s", "auc 0.5 < 0.7"),
        ]
        replaced = registry.holds(P, S, ended=True)[-1]
        assert (replaced.ended, replaced.ended_why) == (moment(8), "replaced by a newer hold")

    def test_ending_an_unknown_hold_is_refused_and_ends_none(self, registry: Registry) -> None:
        registry.hold([hold("a")])
        known = registry.holds(P, S)[0].id
        with pytest.raises(StateError, match="no hold 999"):
            registry.end_holds([known, 999], why="x", who="bob", now=moment(9))
        assert len(registry.holds(P, S)) == 1

    def test_a_landing_cannot_hold_in_another_stage(self, registry: Registry) -> None:
        add_version(registry, "a1")
        with pytest.raises(StateError, match="another portfolio or stage"):
            land(registry, "a", None, "a1", holds=(hold(stage="dev"),))

    # Settings, applies, audit

    def test_settings_are_their_own_line_moved_by_compare_and_swap(self, registry: Registry) -> None:
        assert registry.settings(P) is None
        first = registry.put_settings(P, {"owners": ["ann"]}, expected=0, why="start", who="ann", now=moment(1))
        with pytest.raises(ConflictError, match="revision was 0, now 1"):
            registry.put_settings(P, {}, expected=0, why="late", who="bob", now=moment(2))
        second = registry.put_settings(P, {"owners": []}, expected=1, why="more", who="bob", now=moment(3))
        assert (first.revision, second.revision) == (1, 2)
        assert registry.settings(P) == second
        assert [(row.act, row.why) for row in registry.audit(P)] == [("settings", "more"), ("settings", "start")]

    def test_an_apply_runs_once_and_ends_once(self, registry: Registry) -> None:
        record = ApplyRecord("x1", P, S, {"steps": [1]}, "ann", "running", moment(1))
        registry.begin_apply(record)
        registry.begin_apply(replace(record, id="x2"))
        with pytest.raises(ConflictError):
            registry.begin_apply(record)
        registry.end_apply("x1", status="done", now=moment(2), summary={"landed": 3})
        with pytest.raises(ConflictError, match="already recorded as done"):
            registry.end_apply("x1", status="failed", now=moment(3), summary={})
        with pytest.raises(StateError, match="no apply x9"):
            registry.end_apply("x9", status="done", now=moment(3), summary={})
        ended = replace(record, status="done", ended=moment(2), summary={"landed": 3})
        assert registry.applies(P, S) == [replace(record, id="x2"), ended]
        assert registry.applies(P, S, status="running") == [replace(record, id="x2")]
        assert registry.applies(P, "dev") == []
        assert registry.applies(P, S, limit=1) == [replace(record, id="x2")]

    def test_heads_tell_what_the_whole_tells(self, registry: Registry) -> None:
        for version in ("a1", "a2", "b1"):
            add_version(registry, version, version[0])
        failed = [{"gate": "auc", "verdict": "fail", "estimate": 0.5}]
        rows = [
            Evidence("a1", {}, "g1", "pass", (), None, moment(1)),
            Evidence("a1", {"b": "b1"}, "g2", "fail", tuple(failed), "a0", moment(2)),
            Evidence("b1", {}, "g1", "inconclusive", tuple(failed), None, moment(3)),
        ]
        registry.add_evidence(rows)
        asked = ["a1", "a2", "b1", "nope"]
        assert registry.evidence_heads(asked) == registry.evidence(asked)  # of a pass the results may be left out
        assert registry.evidence_heads([]) == {}
        assert registry.settings_head(P) is None
        registry.put_settings(
            P, {"models": {"ü": {"owner": "ann"}}, "n": 1.5}, expected=0, why="", who="", now=moment(1)
        )
        registry.put_settings(P, {"models": {}, "z": None}, expected=1, why="", who="", now=moment(2))
        head, whole = registry.settings_head(P), registry.settings(P)
        assert head is not None
        assert head == whole
        assert dict(head.body) == {"models": {}, "z": None}

    def test_the_version_before_is_that_of_the_newest_change_that_is_no_rollback(self, registry: Registry) -> None:
        for version in ("a1", "a2", "a3", "b1"):
            add_version(registry, version, version[0])
        assert registry.before(P, S, {"a": "a1"}) == {}
        land(registry, "a", None, "a1")
        land(registry, "b", None, "b1")
        land(registry, "a", "a1", "a2")
        land(registry, "a", "a2", "a3")
        live = {"a": "a3", "b": "b1", "c": "c1"}
        assert registry.before(P, S, live) == {"a": "a2", "b": None}
        assert registry.before(P, "dev", live) == {}
        land(registry, "a", "a3", "a2", cause="rollback")
        assert registry.before(P, S, {"a": "a2"}) == {"a": "a1"}  # not the version that was rolled back
        land(registry, "a", "a2", "a1", cause="rollback")
        land(registry, "a", "a1", "a2")
        assert registry.before(P, S, {"a": "a2"}) == {"a": "a1"}
        assert registry.before(P, S, {}) == {}

    def test_history_and_releases_are_read_in_part(self, registry: Registry) -> None:
        for number in range(1, 6):
            add_version(registry, f"a{number}")
            land(registry, "a", f"a{number - 1}" if number > 1 else None, f"a{number}")
        assert [row.release for row in registry.history(P, S, since=4)] == [5, 4]
        assert [row.release for row in registry.history(P, S, "a", limit=1, since=2)] == [5]
        assert registry.history(P, S, since=6) == []
        heads, whole = registry.releases(P, S, 2, heads=True), registry.releases(P, S, 2)
        assert heads == [replace(release, models={}, endpoints={}) for release in whole]
        assert whole[0].models.keys() == {"a"}

    def test_the_mark_moves_with_all_that_a_plan_reads_and_with_nothing_else(self, registry: Registry) -> None:
        add_version(registry, "a1")
        marks = [registry.mark(P)]

        def moved(yes: bool = True) -> bool:
            marks.append(registry.mark(P))
            return (marks[-1] not in marks[:-1]) if yes else marks[-1] == marks[-2]

        land(registry, "a", None, "a1")
        assert moved()
        add_version(registry, "a2")
        assert moved()
        registry.add_evidence([Evidence("a2", {}, "g", "pass", (), None, moment(1))])
        assert moved()
        registry.hold([hold(version=None)])
        assert moved()
        registry.hold([hold(detail="another", version=None)])
        assert moved()
        registry.put_settings(P, {"n": 1}, expected=0, why="", who="ann", now=moment(1))
        assert moved()
        registry.land(landing({"a": None}, {"a": "a2"}, stage="dev"))
        assert moved()
        lease(registry, ["a"])
        registry.record(P, AuditRow(moment(1), "ann", "note", "n", "why", None))
        registry.begin_apply(ApplyRecord("x", P, S, {}, "ann", "running", moment(1), None, {}))
        assert moved(False)
        add_version(registry, "o1", portfolio="other")
        registry.put_settings("other", {"n": 1}, expected=0, why="", who="ann", now=moment(1))
        assert moved(False)
        registry.end_holds([h.id for h in registry.holds(P, S)], why="x", who="ann", now=moment(9))
        marks.append(registry.mark(P))
        assert marks[-1] != marks[-2]

    def test_audit_rows_are_read_newest_first_within_the_limit(self, registry: Registry) -> None:
        acts = [AuditRow(moment(n), "ann", "note", f"n{n}", "why", None) for n in range(3)]
        for row in acts:
            registry.record(P, row)
        assert registry.audit(P) == acts[::-1]
        assert registry.audit(P, limit=1) == [acts[2]]

    def test_a_landing_is_audited_with_its_plan(self, registry: Registry) -> None:
        add_version(registry, "a1")
        land(registry, "a", None, "a1", plan="plan-1")
        expected = AuditRow(moment(1), "ann", "apply", "prod release 1: 1 model changed", "because", "plan-1")
        assert registry.audit(P) == [expected]

    def test_thousands_of_ids_are_looked_up_at_once(self, registry: Registry) -> None:
        registry.put_definitions([Definition(f"d{n}", "a", {}, "b") for n in range(6_000)])
        assert len(registry.definitions([f"d{n}" for n in range(12_000)])) == 6_000
        assert registry.versions([f"v{n}" for n in range(12_000)]) == {}
        assert registry.versions_of_pairs(P, [(f"d{n}", "s") for n in range(12_000)]) == {}

    def test_threads_share_a_registry(self, registry: Registry) -> None:
        models = [f"m{n}" for n in range(8)]
        for model in models:
            add_version(registry, f"{model}-v", model)
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda model: land(registry, model, None, f"{model}-v").number, models))
        assert sorted(made) == list(range(1, 9))
        current = registry.current(P, S)
        assert current is not None
        assert current.models.keys() == set(models)

    # Clients

    def test_a_client_is_recorded_with_its_act_and_read_back_by_name(self, registry: Registry) -> None:
        key = ClientKey("abcdefgh", "0" * 64, moment(1), moment(9))
        shop = ClientRecord("web", "acme", ("late-*", "arrival"), "urgent", (key,), moment(1))
        act = AuditRow(moment(1), "ann", "add client", "web", "", None)
        registry.put_client(P, shop, expected=None, audit=act)
        registry.put_client(P, ClientRecord("batch", created=moment(2)), expected=None, audit=act)
        assert registry.clients(P) == [ClientRecord("batch", created=moment(2)), shop]
        assert registry.clients("bank") == []
        assert registry.audit(P)[0] == act

    def test_a_client_is_replaced_only_if_it_is_what_was_read(self, registry: Registry) -> None:
        act = AuditRow(moment(1), "ann", "add client", "web", "", None)
        first = ClientRecord("web", created=moment(1))
        registry.put_client(P, first, expected=None, audit=act)
        with pytest.raises(ConflictError, match="web was changed by somebody else"):
            registry.put_client(P, first, expected=None, audit=act)
        second = replace(first, revoked=moment(2))
        registry.put_client(P, second, expected=first, audit=act)
        with pytest.raises(ConflictError, match="web was changed by somebody else"):
            registry.put_client(P, first, expected=first, audit=act)
        assert registry.clients(P) == [second]
        assert len(registry.audit(P)) == 2

    # Publications

    def test_the_newest_publication_of_each_model_counts_and_saying_the_same_again_records_nothing(
        self, registry: Registry
    ) -> None:
        def publish(model: str, digest: str, n: int, run: str = "r1", portfolio: str = P) -> bool:
            made = Publication(model, digest, "onnx", 3_000_000_000, {"run": run}, "nightly", "ann", moment(n))
            return registry.publish(
                portfolio, made, audit=AuditRow(moment(n), "ann", "publish", model, "nightly", None)
            )

        assert [publish("a", "1" * 64, 1), publish("a", "1" * 64, 2)] == [True, False]
        assert publish("a", "1" * 64, 3, run="r2")
        assert publish("a", "2" * 64, 4)
        assert publish("a", "1" * 64, 5)  # back to earlier bytes is a publication of its own
        assert publish("b", "3" * 64, 6)
        assert publish("a", "4" * 64, 7, portfolio="bank")
        assert {model: p.digest[0] for model, p in registry.published(P).items()} == {"a": "1", "b": "3"}
        found = registry.publications(P, "a")
        assert [(p.digest[0], dict(p.claimed)["run"], p.created) for p in found] == [
            ("1", "r1", moment(5)), ("2", "r1", moment(4)), ("1", "r2", moment(3)), ("1", "r1", moment(1)),
        ]  # fmt: skip
        assert found[0].size == 3_000_000_000
        assert registry.publications(P, "a", limit=1) == found[:1]
        assert registry.publications(P, "c") == []
        assert [row.what for row in registry.audit(P)] == ["b", "a", "a", "a", "a"]
