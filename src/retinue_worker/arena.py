"""Memory that a gateway and its worker share for large batches: one anonymous file, inherited, mapped by both.

Nothing of it has a name in any file system, so nothing is left when either side is killed. The gateway hands out
spans in a ring, in the order of its frames, and gets them back in the order of the answers; a worker reads the
request from its span and writes its answer into the same one. It grows while it is empty and only up to a limit;
what does not fit travels in the frame.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections import deque

SMALLEST = 64 * 1024  # bytes of a batch from which it travels here
FIRST = 1024**2
LARGEST = 256 * 1024**2
_ALIGN = 64


class Arena:
    """The gateway's side: owns the file, hands out spans."""

    def __init__(self, largest: int = LARGEST) -> None:
        self.descriptor = _anonymous()
        self.size = 0
        self._largest = largest
        self._wanted = FIRST
        self._map: mmap.mmap | None = None
        self._spans: deque[tuple[int, int]] = deque()  # in use: (start, end), oldest first

    def take(self, size: int) -> int | None:
        """Where a span of `size` bytes begins; None when there is no room for it at present, or ever."""
        size = -(-max(size, 1) // _ALIGN) * _ALIGN
        if size > self._largest:
            return None
        start = self._place(size)
        if start is None:
            while self._wanted < 2 * size and self._wanted < self._largest:
                self._wanted *= 2
            if self._spans:
                return None
            self._grow()
            start = self._place(size)
            if start is None:
                return None
        self._spans.append((start, start + size))
        return start

    def give_back(self) -> None:
        """The oldest span is no longer needed."""
        self._spans.popleft()
        if not self._spans and self._wanted > self.size:
            self._grow()

    def write(self, start: int, parts: list[bytes | memoryview]) -> int:
        """Copy the parts into a span, one behind the other; returns how many bytes that were."""
        assert self._map is not None
        at = start
        for part in parts:
            self._map[at : at + len(part)] = part
            at += len(part)
        return at - start

    def read(self, start: int, size: int) -> memoryview:
        """The bytes at a place. Raises ValueError when the place is outside. Release the view soon."""
        if self._map is None or not 0 <= start <= start + size <= self.size:
            raise ValueError(f"{size} bytes at {start} are outside of the shared memory")
        return memoryview(self._map)[start : start + size]

    def rest(self) -> None:
        """Give the pages back to the system while nothing is in use; the room stays."""
        if self._map is not None and not self._spans and sys.platform == "linux":
            self._map.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Give everything back."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _place(self, size: int) -> int | None:
        if not self._spans:
            return 0 if size <= self.size else None
        first, last = self._spans[0][0], self._spans[-1][1]
        if last > first:  # free: from `last` to the end, and from 0 to `first`
            if last + size <= self.size:
                return last
            return 0 if size < first else None
        return last if last + size < first else None

    def _grow(self) -> None:
        self.size = min(self._wanted, self._largest)
        os.ftruncate(self.descriptor, self.size)
        old, self._map = self._map, mmap.mmap(self.descriptor, self.size)
        if old is not None:
            old.close()


class Window:
    """The worker's side: maps the inherited file, again whenever it has grown."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def view(self, start: int, size: int) -> memoryview:
        """A span, to read and to write. Raises ValueError when it is outside of the file. Release the view soon."""
        if self._map is None or start + size > len(self._map):
            old, self._map = self._map, mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
            if old is not None:
                old.close()
        if not 0 <= start <= start + size <= len(self._map):
            raise ValueError(f"{size} bytes at {start} are outside of the shared memory")
        return memoryview(self._map)[start : start + size]


def _anonymous() -> int:
    """An open file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("retinue", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
