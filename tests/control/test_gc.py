"""gc never takes what a gateway, a rollback or a hold needs, and one that was killed is repeated."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.control.kept import State, add, history, land, moment, opened

from retinue.control.events import utc_now
from retinue.control.gc import Collector
from retinue.control.gc_lease import alone, refuse_during_gc
from retinue.control.leases import later, name_holder
from retinue.control.pins import Keep
from retinue.control.rollback import previous_versions
from retinue.core.errors import LeaseHeldError, RetinueError, StateError
from retinue.store.releasefile import ReleaseFile, current

AT_ONCE = -60.0
"""A grace period that is over before it began."""


def collector(state: State, releases: int = 1, since: str = moment(9_999), grace: float = AT_ONCE) -> Collector:
    keep = Keep(releases, since)
    return Collector(state.dump, state.registry, state.artifacts, state.settings, keep, grace=grace, cache_age=AT_ONCE)


def must_stay(state: State, releases: int) -> set[str]:
    """Version ids that a rollback, a hold or a live release names."""
    found = set()
    for stage in ("prod", "dev"):
        made = state.registry.releases("shop", stage, 1_000)
        found |= {entry.version for release in made[:releases] for entry in release.models.values()}
        found |= {hold.version for hold in state.registry.holds("shop", stage) if hold.version}
        if made:
            live = {name: entry.version for name, entry in made[0].models.items()}
            found |= {old for old in previous_versions(state.registry, made[0], live).values() if old}
    return found


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(seed=276, releases=1, cut=0)  # holds in a stage that has no release
@given(seed=st.integers(0, 10_000), releases=st.integers(1, 4), cut=st.integers(0, 12))
def test_whatever_happened_what_is_needed_stays_the_rest_goes_and_a_killed_gc_is_repeated(
    seed: int, releases: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = opened(tmp_path_factory.mktemp("gc") / "state")
    with closing(state.registry):
        history(state, seed, 14)
        stay = state.needed(must_stay(state, releases))
        every = {name for name, _, _ in state.artifacts.stored(set(), time.time() + 60)}
        gc = collector(state, releases)
        found = gc.find()
        assert {name for name, _, _ in state.artifacts.stored(set(), time.time() + 60)} == every  # a dry run
        for item in found.items[:cut]:  # killed here
            gc._remove(item)
        again = gc.find()
        assert gc.remove(again) == again.bytes
        assert gc.find().items == ()
        left = {name for name, _, _ in state.artifacts.stored(set(), time.time() + 60)}
        assert stay <= left < every | {""}
        assert left == every - {i.name for i in (*found.items, *again.items) if i.kind == "artifact"}
        for stage in ("prod", "dev"):
            number = current(state.folder(stage))
            if number is not None:
                with ReleaseFile(state.folder(stage) / f"{number}.release") as file:
                    assert file.artifacts() <= left


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = opened(tmp_path / "state")
    for number in range(4):
        land(made, "prod", number, {"a": add(made, "a", number, number)})
    return made


def test_what_is_young_held_old_enough_to_go_back_to_or_served_stays(state: State) -> None:
    with closing(state.registry):
        assert collector(state, grace=3600.0).find().items == ()
        assert collector(state, releases=4).find().items == ()
        assert collector(state, since=moment(0)).find().items == ()
        found = collector(state).find()  # the live version and the one before it stay
        assert sorted(item.kind for item in found.items) == ["artifact"] * 4 + ["release file"] * 2 + ["release file"]
        assert found.bytes > 0
        serving = state.folder("prod") / "serving"
        serving.mkdir()
        os.link(state.folder("prod") / "1.release", serving / f"{os.getpid()}-1.release")
        kept = state.needed({"a-0"})
        gone = {item.name for item in collector(state).find().items if item.kind == "artifact"}
        with ReleaseFile(serving / f"{os.getpid()}-1.release") as file:
            assert not file.artifacts() & gone
            assert file.artifacts() < kept


def test_a_lost_database_or_an_unreadable_release_file_lets_nothing_go(state: State, tmp_path: Path) -> None:
    with closing(state.registry), closing(opened(tmp_path / "empty").registry) as empty:
        lost = Collector(
            type(state.dump)(empty), empty, state.artifacts, state.settings, Keep(1, moment(9_999)), grace=AT_ONCE
        )
        with pytest.raises(StateError, match="was lost or is another one"):
            lost.find()
        (state.folder("prod") / "4.release").write_bytes(b"garbage")
        with pytest.raises(RetinueError):
            collector(state).find()


def test_gc_and_an_apply_keep_each_other_out(state: State) -> None:
    now, portfolios = utc_now(), state.dump.portfolios()
    other = name_holder("bob").replace("pid ", "pid 1")  # of this machine, but nobody's: it is gone
    with closing(state.registry):
        with alone(state.registry, portfolios, "ann", now):
            with pytest.raises(LeaseHeldError, match="removes garbage"):
                refuse_during_gc(state.registry, now)
            with pytest.raises(LeaseHeldError), alone(state.registry, portfolios, "eve", now):
                pass
        refuse_during_gc(state.registry, now)
        state.registry.acquire("shop", "prod", ["a"], holder="bob@host", now=now, expires=later(now, 60))
        with pytest.raises(LeaseHeldError, match="bob@host is at work"), alone(state.registry, portfolios, "ann", now):
            pass
        refuse_during_gc(state.registry, now)
        assert other
