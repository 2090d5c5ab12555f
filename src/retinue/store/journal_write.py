"""Writes segments: appends whole or not at all, rotates, and holds a lock that dies with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from retinue.store.journal import CLOSED, OPEN, Header, beginning, segments_of

TEMPORARY = ".new"


class SegmentWriter:
    """One open segment of one gateway. Not thread-safe.

    While the process lives it holds an exclusive `flock` on the file: whoever can take it knows that the writer is
    gone. Making one raises OSError.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        segments = segments_of(folder)
        segments.mkdir(parents=True, exist_ok=True)
        self._stem = segments / f"{header.opened:020d}-{header.gateway}"
        first = beginning(header)
        made = self._path(TEMPORARY)  # under its own name only when locked and with its header
        self._descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(self._descriptor, first)
            made.rename(self._path(OPEN))
        except OSError:
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                made.unlink()
            raise
        self.size = len(first)
        self._empty = True
        self.broken = False  # a partial record could not be cut off: nothing may follow it

    def write(self, data: bytes, *, durable: bool = False) -> None:
        """Append whole records; on OSError nothing of them is left in the file (or `broken` is set)."""
        try:
            _write(self._descriptor, data)
            if durable:
                os.fdatasync(self._descriptor)
        except OSError:
            try:
                os.ftruncate(self._descriptor, self.size)
            except OSError:
                self.broken = True
            raise
        self.size += len(data)
        self._empty = False

    def close(self) -> None:
        """Nothing more will come: readers may fold it. An empty segment is removed. Never raises."""
        with contextlib.suppress(OSError):
            if self._empty and not self.broken:
                self._path(OPEN).unlink()
            else:
                self._path(OPEN).rename(self._path(CLOSED))
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _path(self, ending: str) -> Path:
        return self._stem.with_name(self._stem.name + ending)


def _write(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):  # a full disk takes a part first, and says so at the next try
        written += os.write(descriptor, data[written:])


def close_orphans(folder: Path, alive: Callable[[Path], None] = lambda path: None) -> list[Path]:
    """Close the open segments whose gateways are dead; those that live are told to `alive`. Returns what was closed."""
    closed: list[Path] = []
    try:
        found = sorted(segments_of(folder).iterdir())
    except FileNotFoundError:
        return closed
    for path in found:
        if path.suffix not in (OPEN, TEMPORARY):
            continue
        with contextlib.suppress(FileNotFoundError):  # its gateway has closed it meanwhile
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.suffix == TEMPORARY:  # without its lock only for the moment of its making
                    if os.fstat(descriptor).st_size == 0:
                        continue
                    path.unlink()
                else:
                    path.rename(path.with_suffix(CLOSED))
                    closed.append(path.with_suffix(CLOSED))
            except BlockingIOError:
                if path.suffix == OPEN:
                    alive(path)
            finally:
                os.close(descriptor)
    return closed
