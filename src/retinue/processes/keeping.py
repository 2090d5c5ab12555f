"""Keeps on this host what served releases need, so that serving survives the loss of database and artifact store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from retinue.core.errors import RetinueError
from retinue.settings import Settings
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.releasefile import ReleaseFile, pointer

AGE = 3600.0  # seconds a copy stays for certain: another stage of this host may be about to name it


def keep_artifacts(settings: Settings, release: Path) -> dict[str, str]:
    """Have local copies of all artifacts of that release file; digest → why, for those that could not be had.

    Raises CorruptArtifactError when the release file is unsound. Takes as long as fetching takes: not for a loop.
    """
    store = FsspecArtifacts(settings.artifacts, settings.cache / "artifacts")
    with ReleaseFile(release) as file:
        return store.keep(sorted(file.artifacts()))


def prune_artifacts(settings: Settings, age: float = AGE) -> int:
    """Remove local copies that no release in use on this host names; returns how many went."""
    named: set[str] = set()
    try:
        for path in _in_use(settings.directory / "releases"):
            with ReleaseFile(path) as file:
                named |= file.artifacts()
    except RetinueError:
        return 0  # what cannot be read may name anything
    return FsspecArtifacts(settings.artifacts, settings.cache / "artifacts").prune(named, age)


def _in_use(releases: Path) -> Iterator[Path]:
    """The release file of every stage's pointer, and those that a running supervisor holds."""
    for folder in releases.glob("*/*/"):
        there = pointer(folder)
        if there is not None:
            yield folder / f"{there.number}.release"
        for path in (folder / "serving").glob("*.release"):
            if _runs(path.name.partition("-")[0]):
                yield path


def _runs(pid: str) -> bool:
    with contextlib.suppress(ValueError, ProcessLookupError):
        with contextlib.suppress(PermissionError):
            os.kill(int(pid), 0)
        return True
    return False
