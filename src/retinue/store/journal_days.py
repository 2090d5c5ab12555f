"""What a compacted day consists of: one manifest a day, moved into place whole; a file it does not name is not there.

A manifest also names the segments whose rows of that day it holds, so a segment that outlives its compaction (a kill
came between) is neither lost nor counted twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from retinue.core.errors import CorruptArtifactError, LeaseHeldError
from retinue.store.journal import CLOSED, DAMAGED, OPEN, segments_of

_MANIFEST = "manifest.json"
_DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)")


class DayFile(msgspec.Struct, frozen=True):
    """One Parquet file of a day. `model` is None where it holds rows of several, `schema` names their columns."""

    path: str  # within the day's folder
    kind: str  # "predictions" or "requests"
    schema: str
    model: str | None
    rows: int
    bytes: int


class Day(msgspec.Struct, frozen=True):
    """A day's manifest."""

    files: tuple[DayFile, ...] = ()
    segments: frozenset[str] = frozenset()
    format: int = 1


def day_folder(folder: Path, day: str) -> Path:
    """Where a day of a stage's journal lies."""
    return folder / "rows" / f"date={day}"


def days(folder: Path) -> list[str]:
    """Days that have a manifest, oldest first."""
    try:
        found = [_DAY.fullmatch(path.name) for path in (folder / "rows").iterdir() if (path / _MANIFEST).exists()]
    except FileNotFoundError:
        return []
    return sorted(match[1] for match in found if match)


def read_day(folder: Path, day: str) -> Day:
    """A day's manifest, empty when there is none. Raises CorruptArtifactError."""
    path = day_folder(folder, day) / _MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=Day)
    except FileNotFoundError:
        return Day()
    except msgspec.MsgspecError as error:
        raise CorruptArtifactError(
            f"the manifest of a journal's day cannot be read: {error}",
            hint="Restore it from a backup; what it does not name is not there.",
            where=str(path),
        ) from error


def write_day(folder: Path, day: str, manifest: Day) -> None:
    """Move a day's manifest into place, durably: from here on the day is what it says."""
    path = day_folder(folder, day) / _MANIFEST
    made = path.with_suffix(".new")
    with made.open("wb") as file:
        file.write(msgspec.json.encode(manifest))
        file.flush()
        os.fsync(file.fileno())
    made.rename(path)
    sync_folder(path.parent)
    sync_folder(path.parent.parent)


def remove_day(folder: Path, day: str) -> None:
    """Remove a day; its manifest goes first, so it is gone whole."""
    path = day_folder(folder, day)
    (path / _MANIFEST).unlink(missing_ok=True)
    sync_folder(path)
    shutil.rmtree(path)


def garbage(folder: Path) -> list[Path]:
    """Files of days that no manifest names: what a kill or a rewriting left."""
    found: list[Path] = []
    for day in sorted((folder / "rows").glob("date=*")):
        match = _DAY.fullmatch(day.name)
        if match is None:
            continue
        named = {day / file.path for file in read_day(folder, match[1]).files} | {day / _MANIFEST}
        found += [path for path in sorted(day.rglob("*")) if path.is_file() and path not in named]
    return found


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------------------- locks
@contextlib.contextmanager
def changing(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """The right to change compacted days: one process at a time. Raises LeaseHeldError after `patience` seconds."""
    with _locked(folder, "compact.lock", fcntl.LOCK_EX, patience) as held:
        if not held:
            raise LeaseHeldError(
                "another process compacts or erases in this journal", hint="Wait for it, then run the command again."
            )
        yield


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """While it is held, no file that a manifest named at its beginning is removed."""
    with _locked(folder, "readers.lock", fcntl.LOCK_SH, 60.0) as held:
        if not held:
            raise LeaseHeldError("the journal's files are being removed", hint="Run the command again.")
        yield


@contextlib.contextmanager
def removing(folder: Path, patience: float = 0.0) -> Iterator[bool]:
    """Whether files may be removed now: nobody reads them."""
    with _locked(folder, "readers.lock", fcntl.LOCK_EX, patience) as held:
        yield held


@contextlib.contextmanager
def _locked(folder: Path, name: str, kind: int, patience: float) -> Iterator[bool]:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    ends = time.monotonic() + patience
    try:
        held = False
        while not held:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                if time.monotonic() >= ends:
                    break
                time.sleep(0.05)
        yield held
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------------------- state
class State(msgspec.Struct, frozen=True):
    """A stage's journal as it lies on disk; sizes in bytes. `lag` in seconds: the age of what waits to be compacted."""

    open: int
    closed: int
    damaged: int
    segment_bytes: int
    lag: float
    days: int
    first: str | None
    last: str | None
    requests: int
    rows: int
    bytes: int
    free: int


def state(folder: Path, now: int) -> State:
    """How a stage's journal stands; `now` in nanoseconds since 1970."""
    counts = {OPEN: 0, CLOSED: 0, DAMAGED: 0}
    size = 0
    oldest = now
    for path in _listed(segments_of(folder)):
        if path.suffix in counts:
            with contextlib.suppress(FileNotFoundError):  # closed or folded meanwhile
                size += path.stat().st_size
                counts[path.suffix] += 1
                began = path.stem.partition("-")[0]
                if path.suffix == CLOSED and began.isdigit():
                    oldest = min(oldest, int(began))
    there = days(folder)
    files = [file for day in there for file in read_day(folder, day).files]
    return State(
        open=counts[OPEN],
        closed=counts[CLOSED],
        damaged=counts[DAMAGED],
        segment_bytes=size,
        lag=(now - oldest) / 1e9,
        days=len(there),
        first=there[0] if there else None,
        last=there[-1] if there else None,
        requests=sum(file.rows for file in files if file.kind == "requests"),
        rows=sum(file.rows for file in files if file.kind == "predictions"),
        bytes=sum(file.bytes for file in files),
        free=shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free,
    )


def lag(folder: Path, now: int) -> float:
    """Seconds since the oldest closed segment was begun; 0 when none waits."""
    begun = [path.stem.partition("-")[0] for path in _listed(segments_of(folder)) if path.suffix == CLOSED]
    return max((max(0.0, (now - int(began)) / 1e9) for began in begun if began.isdigit()), default=0.0)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
