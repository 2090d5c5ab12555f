"""A log file that several processes append to: made anew when it was moved away, moved away when it grew too large."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

REOPEN = 1.0  # seconds between two looks at the file
LARGEST = 10 * 1024**2
"""Bytes from which a file that we rotate ourselves is moved to `.1`, `.1` to `.2` and so on."""
GENERATIONS = 3


class KeptFile:
    """An append-only file. `largest` 0: somebody else rotates it. Writing raises OSError."""

    def __init__(self, path: Path, largest: int = 0) -> None:
        self.path, self._largest = path, largest
        self._descriptor = -1
        self._looked = 0.0

    def write(self, line: bytes, now: float) -> None:
        """Append in one write, so that the lines of several processes stay whole. `now` in seconds."""
        if self._descriptor >= 0 and abs(now - self._looked) >= REOPEN:
            self._looked = now
            self._look()
        if self._descriptor < 0:
            self._looked = now
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.write(self._descriptor, line)

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _look(self) -> None:
        """Close what was moved away, by others or because it is large."""
        ours = os.fstat(self._descriptor)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            self.close()
            return
        moved = (ours.st_ino, ours.st_dev) != (there.st_ino, there.st_dev)
        large = self._largest and ours.st_size > self._largest
        if moved or (large and rotate(self.path, self._largest)):
            self.close()


def rotate(path: Path, largest: int = LARGEST) -> bool:
    """Move a file that is larger to `.1` and older ones on; False when another process did or does so."""
    with contextlib.suppress(OSError), path.with_name(f".{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_size <= largest:
            return False
        for number in range(GENERATIONS, 0, -1):
            older = path if number == 1 else generation(path, number - 1)
            with contextlib.suppress(FileNotFoundError):
                os.replace(older, generation(path, number))
        return True
    return False


def empty_if_large(path: Path, largest: int = LARGEST) -> bool:
    """The same for a file that a process writes to without us (a worker's output): copied to `.1`, then emptied.

    What is written between the two is lost. True when it was done.
    """
    with contextlib.suppress(OSError):
        if path.stat().st_size <= largest:
            return False
        shutil.copyfile(path, generation(path, 1))
        os.truncate(path, 0)
        return True
    return False


def generation(path: Path, number: int) -> Path:
    """The name of an older generation; 0 is the file itself."""
    return path.with_name(f"{path.name}.{number}") if number else path
