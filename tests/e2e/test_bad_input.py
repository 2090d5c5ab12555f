"""What is wrong is told with its place and a next step, harms nothing else and changes nothing that is recorded."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.routes.harbour import DELAY, LATE, MEMBERS, Harbour, copy, statuses

from retinue.control.events import Outcome
from retinue.core.errors import (
    CorruptArtifactError,
    DataError,
    EnvironmentFailure,
    PortfolioError,
    RetinueError,
    StateUnavailableError,
)

pytestmark = pytest.mark.e2e
ALPHA = "params: {alpha: 1.0}"
OTHER = "params: {C: 1.0}\n    gates:\n      roc_auc: {min: 0.55}\n\nendpoints"
"""A parameter of a model that has nothing to do with the faulty one."""


@pytest.fixture
def harbour(tmp_path: Path) -> Harbour:
    return copy(tmp_path / "harbour")


def told(error: RetinueError, kind: type[RetinueError], *words: str) -> None:
    """The error has its class, its words, and a next step that is not a request to report a bug."""
    assert type(error) is kind, repr(error)
    text = f"{error} | {error.hint}"
    for word in words:
        assert word in text, text
    assert error.message
    assert "This is a bug in Retinue" not in error.hint


# ── the file and the tables: a plan is refused whole ────────────────────────────────────────────────────────────────
REFUSED: dict[str, tuple[str, str, type[RetinueError], tuple[str, ...]]] = {
    "wrong YAML": ("features: [hour, swell]", "features: [hour, swell", PortfolioError, ("portfolio.yaml:", "YAML")),
    "an unknown key": (ALPHA, "parms: {alpha: 1.0}", PortfolioError, ("portfolio.yaml:", "parms", "params")),
    "a cycle": (
        "    owner: ada@example.org",
        "    needs: {late-all: {output: probability}}\n    owner: ada@example.org",
        PortfolioError,
        ("portfolio.yaml:",),
    ),
    "a missing column": (
        "features: [wind, swell]",
        "features: [wnd, swell]",
        PortfolioError,
        ("portfolio.yaml:", "wnd", "wind"),
    ),
    "bad SQL": ("from calls c", "frm calls c", DataError, ("judged", "frm")),
    "SQL over a table that is not there": ("from calls c", "from cals c", DataError, ("judged", "cals")),
    "a missing file": ("path: data/calls.parquet", "path: data/gone.parquet", DataError, ("gone.parquet",)),
    "a missing module": ("harbour.delay:train", "harbour.dely:train", PortfolioError, ("harbour", "dely")),
    "a missing function": ("harbour.delay:train", "harbour.delay:trian", PortfolioError, ("trian", "train")),
    "a feature known too late": ("features: [hour, swell]", "features: [hour, delay]", PortfolioError, ("delay",)),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_faulty_declaration_is_refused_and_nothing_changes(harbour: Harbour, fault: str) -> None:
    before = harbour.recorded()
    old, new, kind, words = REFUSED[fault]
    text = (harbour.root / "portfolio.yaml").read_text()
    assert old in text
    if fault == "a cycle":
        needs = "    needs: {delay: {output: delay}}\n"
        text = text.replace("    features: [wind, swell]\n", needs + "    features: [wind, swell, delay]\n")
        text = text.replace("features: [hour, swell]", "features: [hour, swell, late-all]")
    (harbour.root / "portfolio.yaml").write_text(text.replace(old, new))
    for act in (harbour.plan, harbour.apply):
        with pytest.raises(RetinueError) as caught:
            act()
        told(caught.value, kind, *words)
    assert harbour.recorded() == before


def test_a_broken_training_file_is_told_by_its_line(harbour: Harbour) -> None:
    before = harbour.recorded()
    (harbour.root / "harbour" / "late.py").write_text(LATE + "\ndef broken(:\n")
    with pytest.raises(RetinueError) as caught:
        harbour.plan()
    told(caught.value, PortfolioError, "late.py:11", "not valid Python")
    assert harbour.recorded() == before


def test_a_file_that_is_no_parquet_is_told(harbour: Harbour) -> None:
    before = harbour.recorded()
    harbour.data.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(RetinueError) as caught:
        harbour.plan()
    told(caught.value, DataError, "calls.parquet")
    assert harbour.recorded() == before


def test_a_package_that_does_not_resolve_is_told(harbour: Harbour) -> None:
    before = harbour.recorded()
    (harbour.root / "envs" / "base.txt").write_text("scikit-learn==0.0.0.99\n")
    with pytest.raises(RetinueError) as caught:
        harbour.plan()
    told(caught.value, EnvironmentFailure, "base", "scikit-learn")
    assert harbour.recorded() == before


# ── training: the model fails, the rest lands ───────────────────────────────────────────────────────────────────────
def body(lines: str) -> str:
    """The upstream's training with other lines in place of its own."""
    return DELAY[: DELAY.index("    table =")] + "".join(f"    {line}\n" for line in lines.splitlines())


TRAINING: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "raises": (body('raise ValueError("no tide today")'), "{}", ("no tide today", "delay.py:7")),
    "hangs": (body("import time\ntime.sleep(1000)"), "{time: 2s}", ("longer than its limit", "limits")),
    "exceeds its memory": (
        body("import numpy as np\nheap = []\nwhile True:\n    heap.append(np.ones(4_000_000))"),
        "{memory: 400MB}",
        ("of memory", "limits"),
    ),
    "returns nothing": (body("return None"), "{}", ("None",)),
    "returns nonsense": (body('return {"a": 1}'), "{}", ("dict",)),
    "ends the process": (body("import os\nos._exit(3)"), "{}", ("exit code 3",)),
    "reads what is not declared": (body('return open("data/calls.parquet")'), "{}", ("calls.parquet",)),
}


@pytest.mark.parametrize("fault", TRAINING)
def test_training_that_fails_is_told_and_harms_nothing_else(harbour: Harbour, fault: str) -> None:
    code, limits, words = TRAINING[fault]
    before = harbour.live()
    (harbour.root / "harbour" / "delay.py").write_text(code)
    harbour.edit(ALPHA, f"{ALPHA}\n    limits: {limits}")
    harbour.edit(OTHER, OTHER.replace("1.0", "3.0"))
    outcome = harbour.apply()
    assert statuses(outcome) == {"delay": "failed", "late-all": "built", **dict.fromkeys(MEMBERS, "unchanged")}
    (failed,) = (m for m in outcome.models if m.status == "failed")
    assert failed.error is not None
    for word in words:
        assert word in f"{failed.error} | {failed.error.hint}"
    assert "bug in Retinue" not in failed.error.hint
    after = harbour.live()
    assert {m for m in before if before[m] != after[m]} == {"late-all"}
    assert harbour.holds() == {}


# ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────────
def artifact(harbour: Harbour, model: str, part: str = "artifact") -> Path:
    version = harbour.do(lambda p: p.version(model))
    path: Path = harbour.do(lambda p: p.artifacts.local(version.manifest[part]["digest"]))
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def failure(outcome: Outcome, model: str) -> RetinueError:
    (result,) = (m for m in outcome.models if m.model == model)
    assert result.status == "failed", result
    assert result.error is not None
    return result.error


def test_a_corrupt_upstream_stops_only_what_reads_it(harbour: Harbour) -> None:
    before = harbour.live()
    flip(artifact(harbour, "delay"))
    harbour.edit("params: {C: 1.0}", "params: {C: 0.5}")
    outcome = harbour.apply()
    assert statuses(outcome) == {"late-all": "built", **dict.fromkeys(MEMBERS, "failed")}
    told(failure(outcome, "late-west"), CorruptArtifactError, "retinue rebuild")
    after = harbour.live()
    assert {m for m in before if before[m] != after[m]} == {"late-all"}
    assert harbour.holds() == {}


def test_a_corrupt_champion_fails_its_own_model_only(harbour: Harbour) -> None:
    before = harbour.live()
    flip(artifact(harbour, "late-west"))
    harbour.edit("params: {C: 1.0}", "params: {C: 0.5}")
    outcome = harbour.apply()
    told(failure(outcome, "late-west"), CorruptArtifactError, "retinue rebuild")
    after = harbour.live()
    assert {m for m in before if before[m] == after[m]} == {"delay", "late-west"}
    # The way out that the error names.
    assert statuses(harbour.apply(rebuild=("late-west",)))["late-west"] in ("built", "failed")


def test_a_damaged_bundle_is_stored_anew_by_the_next_apply(harbour: Harbour) -> None:
    version = harbour.do(lambda p: p.version("late-all"))
    definition = harbour.do(lambda p: p.registry.definitions([version.definition]))[version.definition]
    path: Path = harbour.do(lambda p: p.artifacts.local(definition.bundle))
    flip(path)
    file = harbour.root / "plan.json"
    harbour.edit(OTHER, OTHER.replace("1.0", "3.0"))
    harbour.do(lambda p: p.save(p.plan(), file))
    newest = max(
        (harbour.root / ".retinue" / "artifacts").rglob("*"), key=lambda f: (f.is_file(), f.stat().st_mtime_ns)
    )
    before = harbour.live()
    flip(newest)
    outcome = harbour.do(lambda p: p.apply(file))
    told(failure(outcome, "late-all"), CorruptArtifactError)
    assert harbour.live() == before
    assert statuses(harbour.apply()) == {"late-all": "built"}


def test_a_locked_database_is_told_and_the_next_apply_goes_on(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retinue.store import registry_read

    monkeypatch.setattr(registry_read.SqlReader.__init__, "__kwdefaults__", {"patience": 0.2})
    before = harbour.recorded()
    harbour.edit("params: {C: 1.0}", "params: {C: 0.5}")
    other = sqlite3.connect(harbour.root / ".retinue" / "state.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RetinueError) as caught:
            harbour.apply()
    finally:
        other.close()
    told(caught.value, StateUnavailableError, "state.db", "locked")
    assert harbour.recorded() == before
    assert not harbour.apply().failed


def test_a_database_locked_in_the_middle_of_an_apply_loses_nothing(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retinue.store import registry_read

    monkeypatch.setattr(registry_read.SqlReader.__init__, "__kwdefaults__", {"patience": 0.2})
    before = harbour.live()
    harbour.edit("params: {C: 1.0}", "params: {C: 0.5}")
    other = sqlite3.connect(harbour.root / ".retinue" / "state.db", isolation_level=None, check_same_thread=False)

    def lock(effect: object, what: str) -> None:
        if getattr(effect, "name", "") == "EVIDENCE_RECORDED":
            other.execute("BEGIN IMMEDIATE")

    try:
        with pytest.raises(StateUnavailableError):
            harbour.do(lambda p: p.apply(on_effect=lock))
    finally:
        other.close()
    assert harbour.live() == before
    outcome = harbour.apply()
    assert not outcome.failed
    assert "reused" in statuses(outcome).values()
    assert harbour.do(lambda p: p.registry.applies("harbour", "prod", "running")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if (
        not mounted
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small file system needs root and a kernel that lets it")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_next_apply_goes_on(harbour: Harbour, small_disk: Path) -> None:
    state = harbour.root / ".retinue"
    target = small_disk / "state"
    shutil.copytree(state, target)
    shutil.rmtree(state)
    state.symlink_to(target)
    before = harbour.live()
    harbour.edit("params: {C: 1.0}", "params: {C: 0.5}")
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(RetinueError) as caught:
        harbour.apply()
    told(caught.value, StateUnavailableError)
    ballast.unlink()
    assert harbour.live() == before
    assert not harbour.apply().failed
    assert harbour.plan().empty


def test_a_damaged_release_file_is_written_anew(harbour: Harbour) -> None:
    file = harbour.root / ".retinue/releases/harbour/prod/1.release"
    whole = file.read_bytes()
    flip(file)
    harbour.apply()
    assert file.read_bytes() == whole
    file.with_name("current").write_bytes(b"\xff")
    harbour.apply()
    assert file.with_name("current").read_text().startswith("1 ")
