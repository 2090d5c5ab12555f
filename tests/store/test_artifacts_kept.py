"""Local copies: what is kept is read when the store is gone, damage is found, and what nobody names goes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from retinue.core.errors import CorruptArtifactError
from retinue.core.state import ReleaseImage, ServedModel
from retinue.processes.keeping import keep_artifacts, prune_artifacts
from retinue.settings import Settings
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.releasefile import point, write_release


def test_what_is_kept_outlives_the_store_and_is_the_same_file_where_it_can_be(tmp_path: Path) -> None:
    store = FsspecArtifacts(f"file://{tmp_path}/store", tmp_path / "kept")
    one, two = store.put(b"one"), store.put(b"two")
    gone = "0" * 64
    problems = store.keep([one, two, gone])
    assert list(problems) == [gone]
    assert "is gone" in problems[gone]
    assert store.local(one).stat().st_ino == (tmp_path / "store" / one[:2] / one).stat().st_ino
    shutil.rmtree(tmp_path / "store")
    assert store.local(one).read_bytes() == b"one"
    assert store.keep([one, two]) == {}
    (tmp_path / "kept" / two[:2] / two).write_bytes(b"other")
    with pytest.raises(CorruptArtifactError):
        store.local(two)


def test_a_remote_store_is_copied_once(tmp_path: Path) -> None:
    store = FsspecArtifacts("memory://kept-test", tmp_path / "kept")
    digests = [store.put(b"%d" % n) for n in range(20)]
    assert store.keep(digests) == {}
    other = FsspecArtifacts("memory://nothing-here", tmp_path / "kept")
    assert [other.local(digest).read_bytes() for digest in digests] == [b"%d" % n for n in range(20)]


def test_copies_that_no_release_in_use_names_go_after_a_while(tmp_path: Path) -> None:
    settings = Settings(tmp_path, "none", f"file://{tmp_path}/store")
    store = FsspecArtifacts(settings.artifacts, settings.cache / "artifacts")
    folder = settings.releases("p", "prod")
    for number in (1, 2):
        model = ServedModel("m", f"v{number}", store.put(b"model %d" % number), "onnx", {}, "none")
        path = write_release(folder, ReleaseImage("p", "prod", number, {"m": model}, {}))
        assert keep_artifacts(settings, path) == {}
    point(folder, 2)
    assert prune_artifacts(settings) == 0  # too young
    assert prune_artifacts(settings, age=-1.0) == 1
    assert [path.read_bytes() for path in (settings.cache / "artifacts").glob("??/*")] == [b"model 2"]
    (folder / "2.release").write_bytes(b"damaged")
    assert prune_artifacts(settings, age=-1.0) == 0
