"""Several processes on one database, processes that die, databases that refuse."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.store.contender import patch, prepare

from retinue.core.errors import StateError, StateUnavailableError
from retinue.core.state import Entry
from retinue.store.registry import SqlRegistry

SCRIPT = str(Path(__file__).with_name("contender.py"))


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> list[str]:
    with process:
        told, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return told.splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database in which model a and b have two versions each and a-0, b-0 are live."""
    made = tmp_path / "state.db"
    with closing(SqlRegistry(f"sqlite:///{made}")) as registry:
        for model in ("a", "b"):
            prepare(registry, model, 3)
            registry.land(patch(model, None, f"{model}-0"))
    return made


@contextmanager
def opened(file: Path, patience: float = 5.0) -> Iterator[SqlRegistry]:
    with closing(SqlRegistry(f"sqlite:///{file}", patience=patience)) as registry:
        yield registry


def race(file: Path, *changes: tuple[str, str, str]) -> list[str]:
    go = file.with_name("go")
    runners = [start("land", file, *change, go) for change in changes]
    for runner in runners:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "ready\n"
    go.touch()
    return sorted(line for runner in runners for line in ended(runner))


@pytest.mark.e2e
def test_of_two_processes_that_land_on_the_same_model_exactly_one_wins(file: Path) -> None:
    conflict, landed = race(file, ("a", "a-0", "a-1"), ("a", "a-0", "a-2"))
    assert landed == "landed 3"
    assert conflict.startswith("conflict a moved since the plan was made: a was a-0, now a-")
    with opened(file) as registry:
        assert len(registry.history("shop", "prod", "a")) == 2


@pytest.mark.e2e
def test_two_processes_that_land_on_different_models_both_land_and_erase_nothing(file: Path) -> None:
    assert race(file, ("a", "a-0", "a-1"), ("b", "b-0", "b-1")) == ["landed 3", "landed 4"]
    with opened(file) as registry:
        current = registry.current("shop", "prod")
        assert current is not None
        assert current.models == {"a": Entry("a-1"), "b": Entry("b-1")}


@pytest.mark.e2e
def test_four_processes_landing_25_times_each_lose_nothing_and_skip_no_number(tmp_path: Path) -> None:
    file = tmp_path / "new" / "state.db"  # they also race to create it
    runners = [start("many", file, model, 25) for model in "abcd"]
    numbers = [int(line) for runner in runners for line in ended(runner)]
    assert sorted(numbers) == list(range(1, 101))
    with opened(file) as registry:
        current = registry.current("shop", "prod")
        assert current is not None
        assert current.models == {model: Entry(f"{model}-24") for model in "abcd"}
        assert len(registry.history("shop", "prod", limit=1_000)) == 100
        assert [row.new for row in registry.history("shop", "prod", "c")] == [f"c-{n}" for n in range(24, -1, -1)]
        assert [made.parent for made in registry.releases("shop", "prod", 200)] == [*range(99, 0, -1), None]


@pytest.mark.e2e
def test_a_landing_killed_before_any_of_its_statements_leaves_the_old_state_whole(file: Path) -> None:
    with opened(file) as registry:
        before = registry.current("shop", "prod")
    for at in range(30):
        copy = file.with_name(f"{at}.db")
        shutil.copy(file, copy)  # no connection is open: the write-ahead log is folded in
        process = start("die", copy, at)
        process.communicate(timeout=60)
        with opened(copy) as registry:
            if process.returncode == 0:
                assert registry.stages("shop") == {"prod": 3}
                break
            assert process.returncode == -signal.SIGKILL
            assert registry.current("shop", "prod") == before
            assert len(registry.history("shop", "prod")) == len(registry.audit("shop")) == 2
            assert registry.holds("shop", "prod", ended=True) == []
            assert registry.land(patch("a", "a-0", "a-1")).number == 3
    assert 8 < at < 29


@pytest.mark.e2e
def test_a_locked_database_is_told_after_the_patience_is_over_and_can_still_be_read(file: Path) -> None:
    with opened(file, patience=0.3) as registry, start("lock", file, 60) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StateUnavailableError, match=r"stayed locked by another process for 0\.3 s") as refused:
            registry.land(patch("a", "a-0", "a-1"))
        assert "run the same command again" in str(refused.value.hint)
        assert registry.stages("shop") == {"prod": 2}
        holder.kill()
        holder.communicate()
        assert registry.land(patch("a", "a-0", "a-1")).number == 3


@pytest.mark.e2e
def test_a_database_locked_while_it_is_created_is_told(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with start("lock", file, 60) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StateUnavailableError, match="stayed locked"):
            SqlRegistry(f"sqlite:///{file}", patience=0.2)
        holder.kill()
        holder.communicate()


@pytest.mark.e2e
def test_a_full_disk_is_told_and_what_was_recorded_stays_whole(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(mount)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        number, kind, message, hint = ended(start("fill", mount / "state.db"))
        assert kind == "StateUnavailableError"
        assert "full" in message
        assert "run the same command again" in hint
        saved = tmp_path / "saved.db"
        for end in ("", "-wal"):
            if (mount / f"state.db{end}").exists():
                shutil.copy(mount / f"state.db{end}", f"{saved}{end}")
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    with opened(saved) as registry:
        assert registry.stages("shop") == {"prod": int(number)}
        assert len(registry.history("shop", "prod", limit=5_000)) == int(number)


def test_a_database_at_its_size_limit_is_told_as_a_full_disk(file: Path) -> None:
    with opened(file) as registry:
        with registry.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StateUnavailableError, match="is full; nothing of this step was recorded") as refused:
            registry.put_settings("shop", {"note": "x" * 100_000}, expected=0, why="w", who="ann", now="t")
        assert "Free space" in str(refused.value.hint)
        assert registry.settings("shop") is None
        assert registry.stages("shop") == {"prod": 2}


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.write_bytes(b"this is my shopping list\n" * 1_000)
    with pytest.raises(StateUnavailableError, match="is not a state database"):
        SqlRegistry(f"sqlite:///{file}")
    assert file.read_bytes().startswith(b"this is my shopping list")


def test_a_damaged_database_is_told_and_a_damaged_release_too(file: Path) -> None:
    with opened(file) as registry:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("UPDATE release_maps SET body = x'00ff'")
            connection.commit()
        with pytest.raises(StateUnavailableError, match="stored release is damaged"):
            registry.current("shop", "prod")
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(StateUnavailableError, match="is damaged") as refused, opened(file) as registry:
        registry.current("shop", "prod")
    assert "backup" in str(refused.value.hint)


def test_a_place_where_no_file_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateUnavailableError, match="cannot be opened"):
        SqlRegistry(f"sqlite:///{tmp_path / 'file' / 'state.db'}")
    with pytest.raises(StateUnavailableError, match="cannot be opened"):
        SqlRegistry(f"sqlite:///{tmp_path}")


def test_a_read_only_database_can_be_read_and_refuses_to_be_written(file: Path) -> None:
    with closing(SqlRegistry(f"sqlite:///file:{file}?mode=ro&uri=true")) as registry:
        assert registry.stages("shop") == {"prod": 2}
        with pytest.raises(StateUnavailableError, match="is read-only"):
            registry.land(patch("a", "a-0", "a-1"))


def test_a_url_that_says_nothing_is_told() -> None:
    with pytest.raises(StateError, match="database"):
        SqlRegistry("state.db")
    with pytest.raises(StateError, match="database"):
        SqlRegistry("nosuch://host/db")
