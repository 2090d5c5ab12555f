"""Artifacts: bytes come back verified, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from retinue.core.errors import CorruptArtifactError, StateUnavailableError
from retinue.store.artifacts import FsspecArtifacts

DATA = b"some model" * 1000


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecArtifacts:
    url = f"file://{tmp_path}/artifacts" if request.param == "file" else f"memory://{tmp_path.name}"
    return FsspecArtifacts(url, tmp_path / "cache")


def test_bytes_and_files_come_back_under_their_digest(store: FsspecArtifacts, tmp_path: Path) -> None:
    digest = store.put(DATA)
    assert digest == hashlib.sha256(DATA).hexdigest()
    source = tmp_path / "source"
    source.write_bytes(DATA)
    assert store.put_file(source) == digest == store.put(DATA)
    assert store.has(digest)
    assert store.get(digest) == DATA
    assert store.local(digest).read_bytes() == DATA
    assert store.local(digest) == store.local(digest)


def test_what_is_not_there_is_named(store: FsspecArtifacts) -> None:
    digest = "0" * 64
    assert not store.has(digest)
    for read in (store.get, store.local):
        with pytest.raises(CorruptArtifactError, match="artifact 000000000000 is gone"):
            read(digest)
    with pytest.raises(CorruptArtifactError, match="not a SHA-256 digest"):
        store.get("../../etc/passwd")


def test_a_local_store_gives_the_stored_file_itself_and_putting_again_repairs_it(tmp_path: Path) -> None:
    store = FsspecArtifacts(f"file://{tmp_path}/a", tmp_path / "cache")
    digest = store.put(DATA)
    path = store.local(digest)
    assert path.is_relative_to(tmp_path / "a")
    path.write_bytes(DATA[:-1] + b"?")
    for read in (store.get, store.local):
        with pytest.raises(CorruptArtifactError, match="is damaged"):
            read(digest)
    assert store.put(DATA) == digest
    assert store.get(digest) == DATA


def test_a_damaged_copy_in_the_cache_is_fetched_anew(tmp_path: Path) -> None:
    store = FsspecArtifacts(f"memory://{tmp_path.name}", tmp_path / "cache")
    digest = store.put(DATA)
    store.local(digest).write_bytes(b"rot")
    assert store.local(digest).read_bytes() == DATA


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FsspecArtifacts(f"file://{tmp_path}/a", tmp_path / "cache")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateUnavailableError, match="No space left on device"):
        store.put(DATA)
    assert [path for path in (tmp_path / "a").rglob("*") if path.is_file()] == []


def test_many_writers_of_the_same_bytes_agree(tmp_path: Path) -> None:
    store = FsspecArtifacts(f"file://{tmp_path}/a", tmp_path / "cache")
    digests: list[Any] = []
    threads = [threading.Thread(target=lambda: digests.append(store.put(DATA))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(digests)) == 1
    assert store.get(digests[0]) == DATA
    assert len([path for path in (tmp_path / "a").rglob("*") if path.is_file()]) == 1
