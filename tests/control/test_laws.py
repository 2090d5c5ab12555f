"""Laws of planning and applying, on portfolios and edits that hypothesis makes up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.control.little import Wished, World

from retinue.control.effects import Effect
from retinue.control.planfile import plan_id
from retinue.control.publish import publish
from retinue.control.rollback import Act, roll_back
from retinue.core.errors import ConflictError, StateError, UsageError
from retinue.core.wish import Options
from retinue.store.releasefile import current, write_release

NAMES = "abcde"
File = dict[str, Wished]


@st.composite
def files(draw: st.DrawFn, failing: bool = False) -> File:
    """A portfolio of up to five models, each needing some of those before it."""
    made: File = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1).map(sorted)):
        needs = draw(st.lists(st.sampled_from(sorted(made)), unique=True, max_size=2)) if made else []
        made[name] = Wished(
            tuple(sorted(needs)),
            quality=draw(st.integers(1, 3)),
            parity=draw(st.integers(0, 1)),
            gate=draw(st.integers(0, 3 if failing else 1)),
            owner=draw(st.sampled_from(["ada", "grace"])),
            raises=failing and draw(st.integers(0, 5)) == 0,
        )
    return made


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=60, deadline=None)
@given(st.lists(files(), min_size=1, max_size=3))
def test_after_an_apply_the_same_file_plans_nothing(folder: Path, edits: list[File]) -> None:
    world = World(folder)
    for file in edits:
        assert not world.apply(file).failed
        assert set(world.live()) == set(file)
        assert world.unproved() == []
        again = world.plan(file)
        assert again.empty, again.steps
        assert not again.held


@settings(max_examples=60, deadline=None)
@given(st.lists(files(failing=True), min_size=1, max_size=3))
def test_whatever_fails_the_release_is_proved_and_applying_comes_to_rest(folder: Path, edits: list[File]) -> None:
    world = World(folder)
    for file in edits:
        for _ in range(5):
            world.apply(file)
            assert world.unproved() == []
            left = world.plan(file)
            if left.empty or any(wished.raises for wished in file.values()):  # training that raises is tried again
                break
        else:
            pytest.fail(f"still planned after five applies: {left.steps}")


@settings(max_examples=40, deadline=None)
@given(files(failing=True), files(failing=True))
def test_planning_changes_nothing_and_is_repeatable(folder: Path, first: File, second: File) -> None:
    world = World(folder)
    world.apply(first)
    assert plan_id(world.plan(second)) == plan_id(world.plan(second))


@settings(max_examples=40, deadline=None)
@given(files(), files())
def test_going_back_to_an_earlier_file_trains_nothing_that_was_trained_on_these_rows(
    folder: Path, first: File, second: File
) -> None:
    world = World(folder)
    world.apply(first)
    live = world.live()
    world.apply(second)
    world.trained.clear()
    world.apply(first)
    if set(first) == set(second):
        assert world.live().keys() == live.keys()
    assert world.plan(first).empty


@settings(max_examples=40, deadline=None)
@given(files(), st.lists(st.integers(0, 1), min_size=5, max_size=5), st.data())
def test_a_rollback_leaves_a_proved_release_that_the_next_plan_keeps(
    folder: Path, file: File, flips: list[int], data: st.DataObject
) -> None:
    world = World(folder)
    world.apply(file)
    edited = {name: replace(w, parity=w.parity ^ flip) for (name, w), flip in zip(file.items(), flips, strict=False)}
    world.apply(edited)
    model = data.draw(st.sampled_from(sorted(file)))
    try:
        roll_back(world.registry, "p", "prod", (model,), Act("ada", "2099-01-01T00:00:00.000000Z", "because"))
    except UsageError:
        return  # it never changed
    except StateError as error:
        pytest.fail(f"{error}")
    assert world.unproved() == []
    back = world.live()
    world.apply(edited)
    assert world.live()[model] == back[model]
    assert world.plan(edited).empty


@settings(max_examples=30, deadline=None)
@given(files(), st.data())
def test_rows_alone_plan_nothing_and_a_refresh_builds_what_was_chosen(
    folder: Path, file: File, data: st.DataObject
) -> None:
    world = World(folder)
    world.apply(file)
    plan = world.plan(file, rows=2)
    assert plan.empty
    assert set(plan.newer_data) == set(file)
    chosen = frozenset([data.draw(st.sampled_from(sorted(file)))])
    world.trained.clear()
    world.apply(file, Options(selected=chosen, refresh=chosen), rows=2)
    assert set(chosen) == set(world.trained)  # the parity is the same, so nothing that reads it is rebuilt
    after = world.plan(file, rows=2)
    assert after.empty
    assert set(after.newer_data) == set(file) - chosen


@settings(max_examples=30, deadline=None)
@given(files())
def test_a_promotion_takes_the_very_same_versions(folder: Path, file: File) -> None:
    world = World(folder)
    world.apply(file)
    world.trained.clear()
    world.apply(file, rows=2, stage="staging")
    assert world.live("staging") == world.live()
    assert world.trained == []


def test_an_upstream_does_not_wait_for_a_consumer_that_cannot_be_built(folder: Path) -> None:
    world = World(folder)
    start = Wished(quality=1)
    world.apply({"a": start, "d": replace(start, needs=("a",))})
    wish = {
        "a": replace(start, parity=1),  # the live d fails with it
        "c": replace(start, gate=2),  # never passes its gate
        "d": replace(start, needs=("a", "c")),  # so this d is never built
    }
    for _ in range(3):
        world.apply(wish)
    assert world.plan(wish).empty


def test_an_apply_does_not_land_beside_an_upstream_that_was_rolled_back_meanwhile(folder: Path) -> None:
    world = World(folder)
    world.apply({"a": Wished(), "b": Wished(("a",))})
    world.apply({"a": Wished(quality=4), "b": Wished(("a",))})

    def urgent(effect: Effect, _: str) -> None:
        if effect == Effect.EVIDENCE_RECORDED:
            roll_back(world.registry, "p", "prod", ("a",), Act("grace", "2026-02-01T00:00:00.000000Z", "urgent"))

    with pytest.raises(ConflictError, match="a moved"):
        world.apply({"a": Wished(quality=4), "b": Wished(("a",), quality=5)}, on_effect=urgent)
    assert world.unproved() == []


def test_a_rollback_that_an_apply_overtakes_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(folder)
    world.apply({"a": Wished(), "b": Wished(("a",))})
    world.apply({"a": Wished(), "b": Wished(("a",), quality=4)})
    before = world.registry.before

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        world.apply({"a": Wished(quality=4), "b": Wished(("a",), quality=4)})
        return before(*args, **kwargs)

    monkeypatch.setattr(world.registry, "before", overtaken)
    with pytest.raises(ConflictError, match="a moved"):
        roll_back(world.registry, "p", "prod", ("b",), Act("grace", "2026-02-01T00:00:00.000000Z", "urgent"))
    assert world.unproved() == []


def test_publishing_late_does_not_point_gateways_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.apply({"a": Wished()})

    def overtaken(*args: Any) -> Path:
        monkeypatch.undo()
        world.apply({"a": Wished(quality=4)})
        return write_release(*args)

    monkeypatch.setattr("retinue.control.publish.write_release", overtaken)
    publish(world.registry, tmp_path, "p", "prod")
    assert current(tmp_path) == 2
