"""Planning at scale: what it asks of the database, what it imports, and that a cache never changes an answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks._many import apply_all, make
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from retinue.control.alike import Bodies, Kinds
from retinue.control.planfile import plan_id
from retinue.core.errors import UsageError
from retinue.core.identity import digest
from retinue.core.plan import Build
from retinue.project import Asked, Project

EDITS = {
    "params": ("params: {depth: 3}", "params: {depth: 5}"),
    "one": ('"s0000,p0000": {params: {depth: 4}}', '"s0000,p0001": {params: {depth: 6}}'),
    "gates": ("gates: {mae: {max: 1000}}", "gates: {mae: {max: 900}}"),
    "owner": ("owner: shops@example.org", "owner: others@example.org"),
    "features": (
        "features: [price, weekday]\n    target: units\n    tags",
        "features: [price]\n    target: units\n    tags",
    ),
    "was": ('"mix-{store}-{product}":', '"blend-{store}-{product}":\n    was: "mix-{store}-{product}"'),
    "endpoint": ("  demand: {select:", "  asked: {select:"),
}


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 × (4 + 1 + 2) models, all live."""
    folder = tmp_path_factory.mktemp("shops")
    make(folder, 3, 4, 2).close()
    return folder


@contextmanager
def opened(folder: Path) -> Iterator[Project]:
    project = Project(folder)
    try:
        yield project
    finally:
        project.close()


def edited(folder: Path, names: list[str]) -> None:
    text = (folder / "portfolio.yaml").read_text()
    for name in names:
        assert EDITS[name][0] in text
        text = text.replace(*EDITS[name])
    (folder / "portfolio.yaml").write_text(text)


@contextmanager
def counted(project: Project) -> Iterator[list[str]]:
    """The statements that the registry's database is asked."""
    engine = getattr(project.registry, "engine")  # noqa: B009 - the port does not have it
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


def queries(folder: Path) -> int:
    with opened(folder) as project:
        assert project.plan().empty
    shutil.rmtree(folder / ".retinue" / "cache" / "settled")
    with opened(folder) as project, counted(project) as asked:
        assert project.plan().empty
        return len(asked)


def test_the_number_of_queries_does_not_depend_on_the_number_of_models(shops: Path, tmp_path: Path) -> None:
    make(tmp_path / "more", 5, 12, 3).close()
    assert queries(shops) == queries(tmp_path / "more") <= 12


def test_a_plan_without_changes_imports_nothing_heavy(shops: Path) -> None:
    with opened(shops) as project:
        project.plan()
    shutil.rmtree(shops / ".retinue" / "cache" / "settled")
    code = (
        "import sys; from pathlib import Path; from retinue.project import Project\n"
        f"plan = Project(Path({str(shops)!r})).plan(); assert plan.empty\n"
        "print([m for m in ('pyarrow', 'duckdb', 'fsspec', 's3fs', 'pydantic', 'ruamel.yaml', 'onnxruntime', 'sklearn')"
        " if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@settings(max_examples=12, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(EDITS)), unique=True, max_size=3))
def test_a_plan_from_caches_is_the_plan_without_them(shops: Path, names: list[str]) -> None:
    edited(shops, names)
    try:
        with opened(shops) as project:
            first = project.plan()
        with opened(shops) as project:
            again = project.plan()
        for cache in ("recorded", "portfolios", "answers", "settled"):
            shutil.rmtree(shops / ".retinue" / "cache" / cache, ignore_errors=True)
        with opened(shops) as project:
            cold = project.plan()
    finally:
        text = (shops / "portfolio.yaml").read_text()
        for name in names:
            text = text.replace(EDITS[name][1], EDITS[name][0])
        (shops / "portfolio.yaml").write_text(text)
    assert plan_id(first) == plan_id(again) == plan_id(cold)
    assert first.forecast == again.forecast == cold.forecast


@pytest.mark.parametrize("garbage", [b"", b"\0" * 100, b"not a cache", None])
def test_garbled_caches_are_passed_over_and_made_anew(shops: Path, garbage: bytes | None) -> None:
    with opened(shops) as project:
        wanted = plan_id(project.plan())
    files = [f for c in ("recorded", "portfolios", "settled") for f in (shops / ".retinue" / "cache" / c).iterdir()]
    assert len(files) >= 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-7] if garbage is None else garbage)
    with opened(shops) as project:
        assert plan_id(project.plan()) == wanted
    assert all(len(file.read_bytes()) > 100 for file in files if file.stat().st_mtime > 1_770_000_000)


def test_bodies_made_by_kind_are_those_made_one_by_one(shops: Path) -> None:
    from retinue.control.planning import _gathered

    with opened(shops) as project:
        _, wisher = project._planned(Asked(), lambda text: None)
        _, members, _ = _gathered(project.registry, wisher, "prod", project.settings.cache)
        kinds = Kinds(members.specs)
        assert len(kinds.all) == 4  # three families, one of them with an override
        schemas = wisher._schemas(members.specs)
        made = Bodies(kinds, schemas, lambda spec: wisher._body(spec, schemas))
        for spec in members.specs.values():
            whole = wisher._body(spec, schemas)
            assert made.of(spec) == (whole, digest(whole))


def test_selectors_see_what_is_modified_and_new(shops: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(shops, folder)
    with opened(folder) as project:
        assert project.plan(Asked(select=("state:modified",))).empty
    edited(folder, ["one"])
    with opened(folder) as project:
        built = [
            step.model for step in project.plan(Asked(select=("state:modified",))).steps if isinstance(step, Build)
        ]
        assert built == ["demand-s0000-p0000", "demand-s0000-p0001"]
        left = project.plan(Asked(select=("state:modified",), exclude=("*-p0001",)))
        assert [step.model for step in left.steps if isinstance(step, Build)] == ["demand-s0000-p0000"]
        assert apply_all(project, replace(left)).release == 2
        with pytest.raises(UsageError, match="no tag is named"):
            project.plan(Asked(select=("tag:level",)))
