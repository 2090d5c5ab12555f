"""Backup and restore: the same state in any database; torn, changed and newer archives are refused whole."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from tests import postgres
from tests.control.kept import State, add, history, land, opened

from retinue.control import backup
from retinue.control.backup import read_head, restore_state, write_backup
from retinue.core.errors import CorruptArtifactError, StateError
from retinue.store.releasefile import ReleaseFile, current


def saved(state: State, file: Path, journal: bool = False) -> backup.BackupDone:
    return write_backup(state.dump, state.artifacts, state.settings, file, journal=journal, made={"who": "ann"})


def restored(state: State, file: Path, force: bool = False) -> backup.BackupDone:
    return restore_state(state.dump, state.artifacts, state.settings, file, force=force)


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = opened(tmp_path / "state")
    history(made, 5, 12)
    land(made, "prod", 999, {"a": add(made, "a", 999, 999)})
    return made


@pytest.mark.e2e
@pytest.mark.parametrize("first", ["sqlite", "postgresql"])
def test_a_restored_state_is_the_same_in_another_database_and_goes_on(tmp_path: Path, first: str) -> None:
    urls = [None, postgres.new_database()]
    one, other = urls if first == "sqlite" else urls[::-1]
    source = opened(tmp_path / "source", one)
    history(source, 7, 12)
    land(source, "prod", 999, {"a": add(source, "a", 999, 999)})
    file = tmp_path / "b.tar"
    target = opened(tmp_path / "target", other)
    with closing(source.registry), closing(target.registry):
        done = saved(source, file)
        told = restored(target, file)
        assert (told.rows, told.artifacts, told.files) == (done.rows, done.artifacts, done.files)
        assert list(target.dump.lines()) == list(source.dump.lines())
        number = current(target.folder("prod"))
        assert number == current(source.folder("prod"))
        with ReleaseFile(target.folder("prod") / f"{number}.release") as served:
            assert all(target.artifacts.has(digest) for digest in served.artifacts())
        land(target, "prod", 1_000, {"a": add(target, "a", 1_000, 1_000)})  # counters go on behind what came in
        assert current(target.folder("prod")) == (number or 0) + 1
        assert saved(target, tmp_path / "again.tar").missing == ()


def test_a_restore_does_not_overwrite_unless_forced_and_then_replaces(state: State, tmp_path: Path) -> None:
    with closing(state.registry):
        file = tmp_path / "b.tar"
        saved(state, file)
        before = list(state.dump.lines())
        land(state, "prod", 1_000, {"b": add(state, "b", 1_000, 1_000)})
        with pytest.raises(StateError, match="there is a state already") as refused:
            restored(state, file)
        assert "--force" in str(refused.value.hint)
        restored(state, file, force=True)
        assert list(state.dump.lines()) == before
        restored(state, file, force=True)  # as one that was killed is repeated
        assert list(state.dump.lines()) == before


def test_archives_that_are_torn_changed_newer_or_no_archives_are_refused_before_anything_is_written(
    state: State, tmp_path: Path
) -> None:
    file, bad = tmp_path / "b.tar", tmp_path / "bad.tar"
    target = opened(tmp_path / "new")
    with closing(state.registry), closing(target.registry):
        saved(state, file)
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[whole.index(b'["definitions"') + 30] ^= 1
        broken = [b"", b"hello", whole[:500], whole[: len(whole) // 2], whole[:-12_000], bytes(flipped)]
        for data in broken:
            bad.write_bytes(data)
            with pytest.raises(CorruptArtifactError, match="cannot be used"):
                restored(target, bad)
        for head, error in (({"format": 99, "schema": "0001"}, "newer"), ({"format": 1, "schema": "9999"}, "newer"),
                            ({"format": 1, "schema": "0001"}, "schema 0001")):  # fmt: skip
            bad.write_bytes(archive({"retinue-backup.json": json.dumps(head).encode()}))
            with pytest.raises(StateError, match=error):
                restored(target, bad)
        bad.write_bytes(archive({"../../etc/passwd": b"x"}))
        with pytest.raises(CorruptArtifactError, match="which no backup does"):
            restored(target, bad)
        with pytest.raises(StateError, match="cannot be read"):
            restored(target, tmp_path / "nothing.tar")
        assert target.dump.is_empty()
        assert not list(target.settings.directory.glob("releases/*"))
        assert read_head(file)["who"] == "ann"


def test_a_backup_without_an_artifact_of_the_live_release_is_none_and_leaves_no_file(
    state: State, tmp_path: Path
) -> None:
    with closing(state.registry):
        release = state.registry.current("shop", "prod")
        assert release is not None
        version = state.registry.versions([release.models["a"].version])[release.models["a"].version]
        state.artifacts.remove(version.manifest["artifact"]["digest"])
        with pytest.raises(CorruptArtifactError, match="is gone"):
            saved(state, tmp_path / "b.tar")
        assert not [*tmp_path.glob("*.tar"), *tmp_path.glob(".new*")]


def archive(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as made:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return sink.getvalue()
