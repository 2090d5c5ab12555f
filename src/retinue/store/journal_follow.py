"""Follows a journal while it is written: records of closed and open segments, from a position that can be kept.

A canary cannot wait for compaction. A follower holds the files it reads, so a segment that is closed, compacted and
removed meanwhile is still read to its end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from retinue.core.errors import CorruptArtifactError
from retinue.store.journal import CLOSED, Header, Node, Record, decode, frames, list_segments, read_header

READ = 4 * 1024**2  # bytes at most in one read


class Seen(NamedTuple):
    """A record with the segment it stands in and the nodes known there so far."""

    segment: str
    record: Record
    nodes: Mapping[int, Node]


class _Tail:
    """One segment, read as far as it is whole."""

    def __init__(self, path: Path, skip: int) -> None:
        self.name = path.stem
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.offset = 0  # everything before it has been read
        self._skip = skip  # records before it are not given out again, but their nodes are learnt
        self.header: Header | None = None
        self.nodes: dict[int, Node] = {}
        self.idle = False

    def read(self) -> Iterator[Seen]:
        """What is new and whole. Raises CorruptArtifactError for a file that is no segment."""
        size = READ
        while True:
            data = os.pread(self._descriptor, size, self.offset)
            start = 0
            if self.header is None:
                if not data:
                    return
                self.header, start = read_header(data, self.name)
            used = start
            for kind, payload, after in frames(data, start):
                used = after
                for record in decode(kind, payload):
                    if isinstance(record, Node):
                        self.nodes[record.number] = record
                    if self.offset + used > self._skip:
                        yield Seen(self.name, record, self.nodes)
            self.offset += used
            self.idle = not used
            if used:
                size = READ
            elif len(data) < size:
                return
            else:
                size *= 2  # one record is larger than a read

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)


class Follower:
    """All segments of a stage's journal. `position` may be kept and given to the next follower.

    A position whose segment has been compacted and removed while nobody followed is dropped: `query` has those rows.
    """

    def __init__(self, folder: Path, position: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._start = dict(position or {})
        self._tails: dict[str, _Tail] = {}
        self._done: dict[str, int] = {}

    def read(self) -> Iterator[Seen]:
        """Every record that came since the last read, segment by segment; what is half written comes next time."""
        paths = {path.stem: path for path in list_segments(self._folder)}
        for name, path in paths.items():
            if name not in self._tails and name not in self._done:
                self._open(name, path)
        for name, tail in list(self._tails.items()):
            ended = name not in paths or paths[name].suffix == CLOSED
            try:
                yield from tail.read()
            except CorruptArtifactError:
                ended = True  # compaction puts it aside and says so
            if ended:
                tail.close()
                del self._tails[name]
                self._done[name] = tail.offset
        self._done = {name: offset for name, offset in self._done.items() if name in paths}

    def position(self) -> dict[str, int]:
        """Where each segment has been read to."""
        return {**self._done, **{name: tail.offset for name, tail in self._tails.items()}}

    def close(self) -> None:
        """Give the files back."""
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()

    def _open(self, name: str, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            try:
                self._tails[name] = _Tail(path, self._start.get(name, 0))
            except FileNotFoundError:  # closed between two looks
                self._tails[name] = _Tail(path.with_suffix(CLOSED), self._start.get(name, 0))
