"""Ending holds by selectors, and why the models of two releases differ, on a real portfolio."""

from __future__ import annotations

import pytest
from tests.routes.harbour import MEMBERS, Harbour

from retinue.control.telling import compare_releases
from retinue.core.errors import PortfolioError, UsageError
from retinue.project import Project

pytestmark = pytest.mark.e2e


def reasons(project: Project, old: int, new: int) -> dict[str, list[str]]:
    """Model → reasons of its change between two releases."""
    before, after = (project.registry.release(project.name, project.stage, number) for number in (old, new))
    found = compare_releases(project.registry, before, after)
    return {c.model: [w.reason for w in c.reasons] for c in found.models}


def test_a_selector_ends_the_holds_that_one_rollback_made(harbour: Harbour) -> None:
    harbour.edit(
        ".fit(table[list(job.features)], table[job.target])",
        ".fit(table[list(job.features)], -9 * table[job.target])",
        "harbour/delay.py",
    )
    harbour.edit("margin: 50%", "margin: 5000%")
    harbour.apply(allow_weaker=("delay",))
    told = harbour.do(lambda p: reasons(p, 1, 2))
    assert told["delay"] == ["CODE"]
    assert {tuple(told[m]) for m in MEMBERS} == {("UPSTREAM",)}
    harbour.do(lambda p: p.rollback(["late-west"], why="worse"))
    assert set(harbour.holds()) == {"delay", *MEMBERS}
    with pytest.raises(UsageError, match="no active hold"):
        harbour.do(lambda p: p.unhold(["late-all"], why="it has none"))
    with pytest.raises(UsageError, match="no model is named"):
        harbour.do(lambda p: p.unhold(["tide*"], why="a slip of the pen"))
    broken = (harbour.root / "portfolio.yaml").read_text()
    harbour.edit("models:", "modles:")
    with pytest.raises(PortfolioError):
        harbour.do(lambda p: p.unhold(["delay+"], why="needs the file"))
    assert [h.model for h in harbour.do(lambda p: p.unhold([MEMBERS[0]], why="a name needs no file"))] == [MEMBERS[0]]
    (harbour.root / "portfolio.yaml").write_text(broken)
    ended = harbour.do(lambda p: p.unhold(["delay+"], why="the report was mended"))
    assert {h.model for h in ended} == {"delay", *MEMBERS[1:]}
    assert not harbour.holds()
