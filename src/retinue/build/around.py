"""What the further gates need from the workshop: grouping columns, a quiet machine to measure on, weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retinue.build.columns import Columns, Table, to_columns
from retinue.build.dataset import DataSet
from retinue.build.evaluate import Case
from retinue.build.further import Around
from retinue.build.timing import ROWS, Clocked, Timed, measure
from retinue.build.user_tests import Judged, run_user_tests
from retinue.build.workshop import Workshop
from retinue.core.errors import DataError, RetinueError
from retinue.core.gate_record import asked_columns
from retinue.core.gates import GateResult
from retinue.core.portfolio import ModelSpec
from retinue.core.state import Version
from retinue.core.suggest import did_you_mean

Json = Any
Rival = Callable[[], tuple[Version, Columns] | None]
"""The champion with some rows of its inputs."""


def grouping(spec: ModelSpec, there: Mapping[str, str]) -> set[str]:
    """The columns of the model's table that its gates group rows by. Raises DataError for one that is not there."""
    table, needed = spec.data[0].table, {need.column for need in spec.needs}
    found = {c for c in asked_columns(spec.gates) if c not in needed}
    for column in sorted(found):
        if column not in there or there[column] == "TIMESTAMP":
            what = "is a moment, which is no group" if column in there else f"is not a column of {table}"
            raise DataError(
                f"model {spec.name}: its gates group by {column!r}, which {what}",
                where=spec.where,
                hint=did_you_mean(column, there) if column not in there else "Group by a column of a view: its hour.",
            )
    return found


def hidden(data: DataSet, columns: Collection[str]) -> DataSet:
    """The data with these columns in the holdout only: what gates group by is nothing that training sees."""
    rows = data.train[data.primary]
    gone = [c for c in columns if c in rows.column_names]
    return replace(data, train={**data.train, data.primary: rows.drop_columns(gone)}) if gone else data


def around(workshop: Workshop, spec: ModelSpec, version: Version, rows: tuple[Table, Case], rival: Rival) -> Around:
    """What the gates of `spec` need to judge `version` on its holdout; `rival` gives the champion and its inputs."""
    holdout, case = rows

    def time() -> Timed:
        with workshop.quiet.alone():
            try:
                inputs = [f["name"] for f in version.manifest["artifact"]["signature"]["inputs"]]
                own = _clocked(workshop, version, to_columns(holdout.slice(0, ROWS), inputs))
                champion = rival() if spec.gates.latency is not None and spec.gates.latency.vs_champion else None
                other = _clocked(workshop, *champion) if champion is not None else None
            except RetinueError as error:
                return Timed(_none(), _none(), why=f"not measured: {error}")
            return measure(own, other, workshop.folder(f"{spec.name}-latency"))

    return Around(
        columns=to_columns(holdout, asked_columns(spec.gates)),
        time=time,
        weigh=lambda: workshop.weigh(version),
        run_tests=lambda tests: _tested(workshop, spec, version, case, rival),
    )


def _tested(workshop: Workshop, spec: ModelSpec, version: Version, case: Case, rival: Rival) -> list[GateResult]:
    """The user's tests on this version, with the code it was built from importable."""
    facts: dict[str, Json] = {
        "model": _facts(version, case.classes, case.outputs),
        "champion": None,
        "holdout": {"columns": dict(case.columns), "truth": case.truth, "target": case.target},
    }
    predict = {"model": case.predict}
    found = rival() if case.champion is not None else None
    if found is not None and case.champion is not None:
        live = found[0]
        facts["champion"] = _facts(live, case.champion_classes or case.classes, case.champion)
        predict["champion"] = lambda batch: workshop.answers(live, dict(batch))
    return run_user_tests(
        spec.gates.pytest,
        workshop.artifacts.get,
        Judged(facts, predict),
        project=workshop.opened(version.definition, version.model).project,
        folder=workshop.folder(f"{spec.name}-tests"),
        seconds=spec.limits.time,
    )


def _facts(version: Version, classes: Sequence[Any] | None, answers: Columns | Mapping[str, Any]) -> dict[str, Json]:
    return {
        "name": version.model,
        "version": version.id,
        "task": version.manifest["artifact"]["signature"]["task"],
        "classes": tuple(classes) if classes is not None else None,
        "answers": dict(answers),
    }


def _clocked(workshop: Workshop, version: Version, columns: Columns) -> Clocked:
    body = version.manifest["artifact"]
    python: Path = workshop.opened(version.definition, version.model).environment.python
    return Clocked(
        workshop.artifacts.local(body["digest"]), body["format"], body["signature"], python.absolute(), columns
    )


def _none() -> Any:
    import numpy as np

    return np.empty(0)
