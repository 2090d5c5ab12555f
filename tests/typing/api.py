"""The public types, used as a user would use them: mypy checks this file, nobody runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

from retinue.client import Client
from retinue.control.events import Outcome
from retinue.core.plan import Build, Danger, Plan, Regate, Step
from retinue.core.state import Hold, Release, Version
from retinue.project import Asked, Project
from retinue_worker import TrainingJob


def train(job: TrainingJob) -> Any:
    assert_type(job.features, list[str])
    assert_type(job.target, str)
    assert_type(job.seed, int)
    assert_type(job.files, Path)
    table = job.data["departures"]
    job.log(rows=table.num_rows, kept=True, text="a", missing=None)
    return table


def operate(folder: Path) -> int:
    project = Project(folder, "staging")
    plan = project.plan(Asked(select=("family:late",), refresh_data=True))
    assert_type(plan, Plan)
    assert_type(plan.steps, tuple[Step, ...])
    assert_type(plan.blocked, tuple[Danger, ...])
    built = [step.model for step in plan.steps if isinstance(step, Build | Regate)]
    outcome = project.apply(plan, why="more data")
    assert_type(outcome, Outcome)
    assert_type(outcome.failed, bool)
    assert_type(project.current(), Release | None)
    assert_type(project.version("late-JFK-B6"), Version)
    assert_type(project.rollback(built, why="complaints"), Release)
    assert_type(project.unhold(built, why="fixed"), list[Hold])
    project.close()
    return len(built)


def ask(url: str) -> float:
    with Client(url, timeout=5.0) as client:
        assert_type(client.ready(), bool)
        assert_type(client.models(), list[str])
        answer = client.predict("late", [{"origin": "JFK", "carrier": "B6"}])
        assert_type(answer, dict[str, Any])
        columns = client.infer("late-JFK-B6", {"distance": [1089.0, None]}, outputs=["probability"])
        assert_type(columns, dict[str, list[Any]])
    return float(columns["probability"][0])
