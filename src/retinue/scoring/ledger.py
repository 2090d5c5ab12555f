"""What an output folder remembers of its run: what was asked (`job.json`), and a line for each partition that is done.

Partitions appear whole (written beside, fsynced, renamed); the line that names one follows. Killed between the two,
the partition is scored again into the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from retinue.core.errors import LeaseHeldError, StateError, StateUnavailableError, UsageError
from retinue.store.releasefile import replace_file

FOLDER = "_retinue_score"
WORDS = {
    "endpoint": "the endpoint", "release": "the release", "input": "the input's files",
    "partition": "the partitioning", "columns": "the columns", "journal": "the journalling", "stage": "the stage",
}  # fmt: skip


class Effect(IntEnum):
    """What was just made durable, in the order it can happen; the last four repeat for each partition."""

    JOB_WRITTEN = 1
    PART_WRITTEN = 2
    PART_MOVED = 3
    JOURNALLED = 4
    PART_MARKED = 5


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked. `id` names the run in the journal; `began` is in nanoseconds since 1970."""

    id: str
    began: int
    asked: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """One finished partition. `models`: [model, version, rows, by fallback] each."""

    number: int
    path: str
    rows: int
    errors: int
    seconds: float
    models: list[list[Any]]
    texts: list[list[Any]]  # the most frequent texts of errors, with how often


class Ledger:
    """The record of one output folder, locked while it is open: one run at a time."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._folder = out / FOLDER
        self._lock = -1
        self._made = False  # whether the output folder is ours to take away again

    def open(self) -> Job | None:
        """Make the folder if need be and lock it; the job that is recorded there, if any.

        Raises UsageError for a folder of something else, LeaseHeldError, StateUnavailableError (unwritable, full).
        """
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out} is a file", hint="--out names a folder, which may not be there yet.")
        try:
            if not self._folder.is_dir() and self.out.is_dir() and any(self.out.iterdir()):
                raise UsageError(
                    f"{self.out} holds files that `retinue score` did not write", hint="Name a new or an empty folder."
                )
            self._made = not self.out.exists()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            self._lock = -1
            raise LeaseHeldError(
                f"another `retinue score` writes to {self.out}", hint="Wait for it, or name another folder."
            ) from error
        except OSError as error:
            raise unwritable(self.out, error) from error
        return self._job()

    def _job(self) -> Job | None:
        path = self._folder / "job.json"
        try:
            return Job(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise StateError(
                f"the record of the run cannot be read: {error}", where=str(path), hint="Begin anew with --restart."
            ) from error

    def begin(self, job: Job) -> None:
        """Forget what was there, also its partitions, and record this job."""
        try:
            (self._folder / "job.json").unlink(missing_ok=True)
            for path in self.out.iterdir():
                if path.name == FOLDER:
                    continue
                if path.is_dir() and "=" in path.name:
                    shutil.rmtree(path)
                elif path.name.startswith(("part-", ".part-")):
                    path.unlink()
            (self._folder / "done.jsonl").unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.out, error) from error
        replace_file(self._folder / "job.json", json.dumps(asdict(job), indent=1).encode())

    def done(self) -> dict[int, Done]:
        """The partitions that are done and still there; a torn last line is none."""
        found: dict[int, Done] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self._folder / "done.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    one = Done(**json.loads(line))
                    if (self.out / one.path).is_file():
                        found[one.number] = one
        return found

    def mark(self, done: Done) -> None:
        """Record a partition as done, durably."""
        try:
            line = b"\n" + json.dumps(asdict(done)).encode() + b"\n"  # a torn line before it stays a line of its own
            handle = os.open(self._folder / "done.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o640)
            try:
                os.write(handle, line)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise unwritable(self.out, error) from error

    def close(self) -> None:
        """Free the lock; a run that was refused before it began leaves nothing behind."""
        lock, self._lock = self._lock, -1
        if lock < 0:
            return
        with contextlib.suppress(OSError):  # what is not empty stays
            if not (self._folder / "job.json").exists():
                (self._folder / "lock").unlink()
                self._folder.rmdir()
                if self._made:
                    self.out.rmdir()
        os.close(lock)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is asked otherwise than before, in words."""
    told = []
    for key in now:
        old, new = before.get(key), now[key]
        if old != new:
            shown = "" if key == "input" else f" ({old} → {new})"
            told.append(f"{WORDS.get(key, key)}{shown}")
    return told


@contextlib.contextmanager
def on_disk(place: Path) -> Iterator[None]:
    """What the disk refuses becomes StateUnavailableError."""
    try:
        yield
    except OSError as error:
        raise unwritable(place, error) from error


def unwritable(out: Path, error: OSError) -> StateUnavailableError:
    """The error for an output folder that does not take what is written."""
    return StateUnavailableError(
        f"cannot write: {error.strerror or error}",
        where=str(out),
        hint="Free the disk or correct the permissions, then run the same command again: it goes on where it was.",
    )
