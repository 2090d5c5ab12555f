"""A plan without changes is remembered: the memory answers as planning does, whatever moved meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks._many import make
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue import compose
from retinue.control.planfile import plan_id
from retinue.control.settled import settled_by
from retinue.core.errors import RetinueError
from retinue.core.state import Entry, Hold, Landing
from retinue.project import Asked, Project
from retinue.store.registry_mark import file_of, mark_of_file

NOW = "2026-03-01T00:00:00.000000Z"
MODEL = "demand-s0000-p0000"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settled")
    make(folder, 2, 3, 1).close()
    return folder


@pytest.fixture
def shops(made: Path, tmp_path: Path) -> Path:
    """2 × (3 + 1 + 1) models, all live, and their plan remembered."""
    folder = tmp_path / "shops"
    shutil.copytree(made, folder)
    assert told(folder) == ("no changes", 1)
    assert (folder / ".retinue" / "cache" / "settled").is_dir()
    return folder


@contextmanager
def opened(folder: Path) -> Iterator[Project]:
    project = Project(folder)
    try:
        yield project
    finally:
        project.close()


def told(folder: Path) -> tuple[str, int | None]:
    """What the plan with memory says; that without any must say the same, twice."""
    with opened(folder) as project:
        remembered = _said(lambda: plan_id(project.plan()))
    with opened(folder) as project:
        worked_out = _said(lambda: plan_id(project._planned(Asked(), lambda text: None)[0]))
    with opened(folder) as project:
        again = _said(lambda: plan_id(project.plan()))
    assert remembered == worked_out == again
    with opened(folder) as project:
        try:
            plan = project.plan()
        except RetinueError as error:
            return type(error).__name__, None
        return "no changes" if plan.empty and not plan.held else "changes", plan.base


def _said(plan: Callable[[], str]) -> str:
    try:
        return plan()
    except RetinueError as error:
        return f"{type(error).__name__}: {error.message}"


def _replaced(file: str, old: str, new: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return act


def _hold(folder: Path) -> None:
    with opened(folder) as project:
        live = project.version(MODEL)
        registry = project.registry
        registry.hold([Hold("shops", "prod", MODEL, live.definition, live.snapshot, live.id, "rollback", "", "", NOW)])


def _unhold(folder: Path) -> None:
    with opened(folder) as project:
        project.registry.end_holds([h.id for h in project.registry.holds("shops", "prod")], why="x", who="ann", now=NOW)


def _failed(folder: Path) -> None:
    """New evidence of the live version: it fails beside what it reads today."""
    with opened(folder) as project:
        live = project.version(MODEL)
        row = project.registry.evidence([live.id])[live.id][0]
        project.registry.add_evidence([replace(row, verdict="fail", created=NOW)])


def _removed(folder: Path) -> None:
    with opened(folder) as project:
        version = project.version(MODEL).id
        project.registry.land(
            Landing("shops", "prod", {MODEL: version}, {MODEL: None}, {}, ((MODEL,),), "apply", "", "ann", NOW)
        )


def _protected(folder: Path) -> None:
    with opened(folder) as project:
        version = project.version(MODEL).id
        entry = {MODEL: Entry(version, protect=True)}
        project.registry.land(
            Landing("shops", "prod", {MODEL: version}, entry, {}, ((MODEL,),), "apply", "", "ann", NOW)
        )


def _other_settings(folder: Path) -> None:
    with opened(folder) as project:
        now = project.registry.settings("shops")
        assert now is not None
        body = {**now.body, "policies": {}}
        project.registry.put_settings("shops", body, expected=now.revision, why="", who="ann", now=NOW)


def _elsewhere(folder: Path) -> None:
    """Another process ends the release."""
    code = f"from tests.control import test_settled as t; from pathlib import Path; t._removed(Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def _rows(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "sales.parquet")
    last = table.slice(table.num_rows - 1)
    pq.write_table(pa.concat_tables([table, last]), folder / "sales.parquet")


def _gone(folder: Path) -> None:
    (folder / "mixed.parquet").unlink()


def _garbled(folder: Path) -> None:
    for file in (folder / ".retinue" / "cache" / "settled").iterdir():
        file.write_bytes(file.read_bytes()[:-5] + b"12345")


def _forgotten(folder: Path) -> None:
    shutil.rmtree(folder / ".retinue" / "cache")


ACTS: dict[str, Callable[[Path], None]] = {
    "params": _replaced("portfolio.yaml", "params: {depth: 3}", "params: {depth: 5}"),
    "owner": _replaced("portfolio.yaml", "owner: shops@example.org", "owner: others@example.org"),
    "gates": _replaced("portfolio.yaml", "gates: {mae: {max: 1000}}", "gates: {mae: {max: 900}}"),
    "wrong key": _replaced("portfolio.yaml", "cutoff: last 20%", "cutof: last 20%"),
    "code": _replaced("shops.py", "def train", "X = 1\n\n\ndef train"),
    "wrong code": _replaced("shops.py", "def train", "def train("),
    "hold": _hold,
    "unhold": _unhold,
    "evidence": _failed,
    "settings": _other_settings,
    "rows": _rows,
    "file gone": _gone,
    "touched": lambda folder: (folder / "sales.parquet").touch(),
    "garbled": _garbled,
    "forgotten": _forgotten,
}
CHANGE = {"params", "owner", "code", "settings"}


@pytest.mark.parametrize("act", sorted(ACTS))
def test_whatever_moved_the_remembered_plan_is_the_one_worked_out(shops: Path, act: str) -> None:
    ACTS[act](shops)
    said = told(shops)
    if act in CHANGE:
        assert said[0] == "changes"


def test_what_another_process_does_is_seen(shops: Path) -> None:
    _elsewhere(shops)
    assert told(shops) == ("changes", 2)


def test_a_protected_entry_and_a_new_release_are_seen(shops: Path) -> None:
    _protected(shops)
    assert told(shops)[1] == 2


@settings(max_examples=6, deadline=None)
@given(
    acts=st.lists(
        st.sampled_from(sorted(CHANGE | {"hold", "unhold", "evidence", "touched", "rows", "garbled"})), max_size=4
    )
)
def test_after_any_acts_the_remembered_plan_is_the_one_worked_out(
    made: Path, tmp_path_factory: pytest.TempPathFactory, acts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("acts") / "shops"
    shutil.copytree(made, folder)
    told(folder)
    for act in acts:
        try:
            ACTS[act](folder)
        except AssertionError:
            continue  # that text was replaced already
        told(folder)


def test_the_remembered_plan_asks_no_registry_and_looks_at_no_model(
    shops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinue.project.compare", None)
    monkeypatch.setattr(compose, "open_registry", None)
    with opened(shops) as project:
        assert project.plan().empty


def test_a_plan_with_options_is_not_remembered(shops: Path) -> None:
    file = next((shops / ".retinue" / "cache" / "settled").iterdir())
    file.unlink()
    with opened(shops) as project:
        assert project.plan(Asked(select=("level-*",))).empty
    assert not file.exists()


def test_other_stages_do_not_take_it(shops: Path) -> None:
    project = Project(shops, "dev")
    with closing(project):
        assert not project.plan().empty


def test_the_quick_mark_is_the_registrys_own_and_silent_about_what_is_no_database(shops: Path, tmp_path: Path) -> None:
    with opened(shops) as project:
        assert compose.quick_mark(project.settings, "shops") == project.registry.mark("shops")
    assert mark_of_file(tmp_path / "none.db", "shops") is None
    (tmp_path / "garbage.db").write_bytes(b"no database" * 1000)
    assert mark_of_file(tmp_path / "garbage.db", "shops") is None
    (tmp_path / "empty.db").touch()
    assert mark_of_file(tmp_path / "empty.db", "shops") is None
    assert file_of("postgresql://host/name") is None
    assert file_of("sqlite:///a.db?mode=ro") is None
    assert file_of("sqlite:////var/a.db") == Path("/var/a.db")


def test_what_has_no_stamp_is_planned_each_time(shops: Path) -> None:
    text = (shops / "portfolio.yaml").read_text()
    keys = "for_each: {distinct: [store], of: sales, min_rows: 5}"
    assert keys in text
    (shops / "keys.py").write_text('def stores(job):\n    return ["s0000", "s0001"]\n')
    (shops / "portfolio.yaml").write_text(text.replace(keys, "for_each: {python: keys:stores}"))
    with opened(shops) as project:
        assert settled_by(project._wisher(Asked(), lambda text: None), "", ("prod", "", "")) is None
    remote = text.replace("path: mixed.parquet", "path: s3://nowhere/mixed.parquet")
    (shops / "portfolio.yaml").write_text(remote)
    with opened(shops) as project:
        assert settled_by(project._wisher(Asked(), lambda text: None), "", ("prod", "", "")) is None
