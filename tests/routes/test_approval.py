"""Human approval on a real portfolio: built, withheld, approved by who may, landed as it is; what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.routes.harbour import MEMBERS, Harbour, statuses, steps
from tests.routes.test_live_tests import command

from retinue.core.errors import PortfolioError, StateError, UsageError
from retinue.core.plan import Build

pytestmark = pytest.mark.e2e
ALONE = "  late-all:\n    train: harbour.late:train\n"


@pytest.fixture
def act_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda name: monkeypatch.setenv("RETINUE_USER", name)


@pytest.fixture
def asking(harbour: Harbour, act_as: Callable[[str], None]) -> Harbour:
    """`late-all` asks group risk, in which is grace; ada applies."""
    harbour.edit("[build]", '[approvers]\nrisk = ["grace", "hopper"]\nops = ["ada"]\n[build]', "retinue.toml")
    harbour.edit(ALONE, f"{ALONE}    approval: required by @risk\n")
    act_as("ada")
    return harbour


def change(harbour: Harbour, value: str = "0.5") -> None:
    """Another late-all, by its last parameter."""
    head, found, tail = (harbour.root / "portfolio.yaml").read_text().rpartition("params: {C: ")
    (harbour.root / "portfolio.yaml").write_text(f"{head}{found}{value}{tail[tail.index('}') :]}")


def audited(harbour: Harbour) -> list[tuple[str, str]]:
    rows = harbour.do(lambda p: p.registry.audit("harbour"))
    return [(row.who, row.act) for row in rows if row.act in ("approve", "reject")]


def test_what_is_approved_lands_as_it_was_built_and_only_then(
    asking: Harbour, act_as: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    change(asking)
    assert "late-all waits for approval by risk once built and tested" in asking.plan().notes
    before = asking.live()
    outcome = asking.apply()
    assert statuses(outcome) == {"late-all": "waiting"}
    assert not outcome.failed
    assert asking.live() == before
    version = outcome.models[0].version
    assert asking.holds() == {"late-all": "approval"}
    capsys.readouterr()
    assert command(asking, "plan") == 0
    told = capsys.readouterr().out
    assert "late-all   held (waits for approval by risk)" in told
    assert "retinue approve late-all --reason TEXT" in told
    assert command(asking, "status", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["status"]["holds"][0]["cause"] == "approval"

    with pytest.raises(UsageError, match="ada is not of group risk") as error:
        asking.do(lambda p: p.approve(["late-all"], why="mine"))
    assert "grace, hopper" in (error.value.hint or "")
    act_as("grace")
    with pytest.raises(UsageError, match="say why"):
        asking.do(lambda p: p.approve(["late-all"], why=" "))
    with pytest.raises(UsageError, match="delay does not wait for approval"):
        asking.do(lambda p: p.approve(["delay"], why="a slip"))
    assert audited(asking) == []
    assert command(asking, "approve", "late-all", "--reason", "looked at it") == 0
    assert "The next `retinue apply` lands it." in capsys.readouterr().out
    assert asking.live() == before

    act_as("ada")
    (step,) = [s for s in asking.plan().steps if isinstance(s, Build)]
    assert step.reuse == version
    assert statuses(asking.apply()) == {"late-all": "reused"}
    assert asking.live()["late-all"] == version
    assert asking.plan().empty
    assert asking.holds() == {}
    assert audited(asking) == [("grace", "approve")]


def test_what_moved_is_not_approved_and_the_next_apply_asks_again(
    asking: Harbour, act_as: Callable[[str], None]
) -> None:
    change(asking)
    first = asking.apply().models[0].version
    change(asking, "0.25")
    act_as("grace")
    with pytest.raises(StateError, match="late-all moved since it was built") as error:
        asking.do(lambda p: p.approve(["late-all"], why="fine"))
    assert "retinue apply" in (error.value.hint or "")
    second = asking.apply().models[0].version
    assert second != first
    assert asking.live()["late-all"] not in (first, second)


def test_a_rejected_version_stays_out_until_something_changes(asking: Harbour, act_as: Callable[[str], None]) -> None:
    change(asking)
    asking.apply()
    saved = asking.root / "plan.json"
    act_as("hopper")
    asking.do(lambda p: p.approve(["late-all"], why="fine"))
    asking.do(lambda p: p.save(p.plan(), saved))
    asking.do(lambda p: p.reject(["late-all"], why="on second thought"))
    assert asking.plan().empty
    before = asking.live()
    asking.do(lambda p: p.apply(saved))  # planned while it was approved
    assert asking.live() == before
    assert asking.holds() == {"late-all": "rejected"}
    assert audited(asking) == [("hopper", "reject"), ("hopper", "approve")]
    change(asking, "0.25")
    assert steps(asking.plan()) == {"late-all": "build"}


def test_what_changes_together_waits_and_lands_together(asking: Harbour, act_as: Callable[[str], None]) -> None:
    asking.edit("    for_each: {distinct: [region]", "    approval: required by ops\n    for_each: {distinct: [region]")
    asking.edit("alpha: 1.0", "alpha: 1.5")
    asking.edit("features: [wind, swell, delay]", "features: [swell, wind, delay]")
    before = asking.live()
    outcome = asking.apply(exclude=("late-all",))
    assert set(statuses(outcome).values()) == {"waiting"}, statuses(outcome)
    assert asking.live() == before
    assert asking.plan(exclude=("late-all",)).empty
    act_as("ada")
    asking.do(lambda p: p.approve([MEMBERS[0]], why="one of three"))
    assert asking.holds()["delay"] == "approval"
    assert asking.plan(exclude=("late-all",)).empty
    asking.do(lambda p: p.approve(MEMBERS[1:], why="the rest"))
    assert set(asking.holds().values()) == {"approved"}
    assert set(statuses(asking.apply()).values()) == {"reused"}
    after = asking.live()
    assert {m for m in after if after[m] != before[m]} == {"delay", *MEMBERS}
    assert asking.plan().empty


def test_removing_or_weakening_approval_is_a_danger_and_frees_what_waits(asking: Harbour) -> None:
    change(asking)
    version = asking.apply().models[0].version
    asking.edit("    approval: required by @risk\n", "    approval: required by ops\n")
    assert "late-all: approval by risk → by ops" in asking.plan().dangers[0].text
    asking.edit("    approval: required by ops\n", "")
    plan = asking.plan()
    assert "late-all: approval by risk removed" in plan.blocked[0].text
    with pytest.raises(UsageError, match="blocked"):
        asking.apply()
    asking.apply(allow_weaker=("late-all",))
    assert asking.live()["late-all"] == version


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (("required by @risk", "required by rsk"), "required by rsk, a group that [approvers]"),
        (("required by @risk", "grace"), "expected who must approve, found 'grace'"),
        (("required by @risk", "[risk]"), "expected who must approve, found a list"),
    ],
)
def test_bad_approvals_are_told_at_plan_with_their_place(asking: Harbour, edit: tuple[str, str], told: str) -> None:
    asking.edit(*edit)
    with pytest.raises(PortfolioError) as error:
        asking.plan()
    found: Any = (error.value.problems or (error.value,))[0]
    assert told in found.message
    assert "portfolio.yaml:" in str(found.where)
    assert found.hint


@pytest.mark.parametrize("body", ['risk = "grace"', "risk = [1]", '"a b" = ["grace"]', "risk = []"])
def test_bad_groups_are_told(asking: Harbour, body: str) -> None:
    asking.edit('risk = ["grace", "hopper"]', body, "retinue.toml")
    with pytest.raises(PortfolioError, match=r"\[approvers\]|empty"):
        asking.plan()
