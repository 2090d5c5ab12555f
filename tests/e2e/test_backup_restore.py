"""Backup here, restore there: from SQLite into PostgreSQL; it plans nothing, serves, rolls back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests import postgres
from tests.routes.harbour import Harbour, copy

from retinue.core.errors import StateError

pytestmark = pytest.mark.e2e
QUIET = {"RETINUE_PORT": "0", "RETINUE_ADMIN_PORT": "0", "RETINUE_GATEWAYS": "1"}


def retinue(root: Path, *words: str) -> str:
    command = [sys.executable, "-m", "retinue", "-f", str(root), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_state_moves_from_sqlite_to_postgresql_and_goes_on_there(tmp_path: Path) -> None:
    here = copy(tmp_path / "here")
    here.edit("alpha: 1.0", "alpha: 2.0")
    here.apply()
    archive = tmp_path / "backup.tar"
    assert "artifacts" in retinue(here.root, "backup", str(archive))
    there = tmp_path / "there"
    shutil.copytree(here.root, there, ignore=shutil.ignore_patterns(".retinue"))
    (there / "retinue.toml").write_text(f'[state]\ndatabase = "{postgres.new_database()}"\n')
    assert retinue(there, "restore", str(archive)).startswith("Restored")
    harbour = Harbour(there)
    assert harbour.live() == here.live()
    assert harbour.plan().empty
    process = subprocess.Popen(
        [sys.executable, "-m", "retinue", "-f", str(there), "serve"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **QUIET},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.partition(" at ")[2].partition(": release")[0]
        assert "release 2" in line
        body = {"inputs": [{"name": n, "shape": [1], "datatype": "FP64", "data": [0.5]} for n in ("wind", "swell")]}
        answer = httpx.post(f"{url}/v2/models/late-all/infer", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    harbour.do(lambda p: p.rollback(["delay"], why="as before"))
    assert harbour.live() != here.live()


def test_a_rollback_to_bytes_that_gc_took_is_refused_and_applying_that_definition_builds_them_again(
    tmp_path: Path,
) -> None:
    harbour = copy(tmp_path / "harbour")
    first = harbour.live()
    harbour.edit("alpha: 1.0", "alpha: 2.0")
    harbour.apply()

    def lose(project: object) -> None:
        opened = harbour.project()
        version = opened.registry.versions([first["delay"]])[first["delay"]]
        for part in ("artifact", "native"):
            opened.artifacts.remove(version.manifest[part]["digest"])  # type: ignore[attr-defined]  # the real store
        opened.close()

    harbour.do(lose)
    with pytest.raises(StateError, match="have no artifacts any more"):
        harbour.do(lambda p: p.rollback(to=1, why="back"))
    harbour.edit("alpha: 2.0", "alpha: 1.0")
    assert not harbour.apply().failed
    assert harbour.live()["delay"] == first["delay"]  # built again, to the byte
