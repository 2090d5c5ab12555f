"""What a gateway was running when it died: a note in shared memory that outlives it.

Each gateway has one anonymous file, made by the supervisor and inherited. Before a model runs inside the gateway, the
thread that runs it notes the model's index in its slot; afterwards it notes 0. Beside the slots stands which version
has which index. When a gateway is killed by a signal, the supervisor reads which versions were running.

    slots        64 numbers of 32 bits, one per thread
    versions     records of 128 bytes, the n-th for index n; index 0 is nobody
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections.abc import Callable

SLOTS = 64
RECORD = 128  # bytes of a version's id; a longer one is cut, alike for writer and reader
VERSIONS = 1 << 16  # distinct versions that one gateway can note in its life; later ones leave no note
_SIZE = SLOTS * 4 + VERSIONS * RECORD  # a file with holes: only what is used takes memory

Hook = Callable[[], None]


class Breadcrumbs:
    """One gateway's notes. The gateway asks for `hooks`; the supervisor reads `running` when it has died."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._slots = memoryview(self._map)[: SLOTS * 4].cast("I")
        self._index: dict[str, int] = {}
        self._slot_of: dict[int, int] = {}  # thread → its slot
        self._lock = threading.Lock()

    def hooks(self, version: str) -> tuple[Hook, Hook]:
        """What to call before and after a run of this version, on whatever thread; about 0.1 µs each."""
        index, slots, slot_of = self._note(version), self._slots, self._slot_of
        ident, take = threading.get_ident, self._take

        def enter() -> None:
            slot = slot_of.get(ident())
            slots[take() if slot is None else slot] = index

        def leave() -> None:
            slots[slot_of[ident()]] = 0

        return enter, leave

    def running(self) -> list[str]:
        """The versions that are noted as running now, each once."""
        found: dict[str, None] = {}
        for index in self._slots:
            if 0 < index < VERSIONS:
                start = SLOTS * 4 + index * RECORD
                record = self._map[start : start + RECORD].rstrip(b"\0")
                found[record.decode("utf-8", "replace")] = None
        return list(found)

    def close(self) -> None:
        """Unmap."""
        self._slots.release()
        self._map.close()

    def _note(self, version: str) -> int:
        """The version's index; its record is written before any slot can hold it."""
        with self._lock:
            index = self._index.get(version)
            if index is None:
                index = len(self._index) + 1
                if index >= VERSIONS:
                    return 0
                start = SLOTS * 4 + index * RECORD
                self._map[start : start + RECORD] = name_in_note(version).encode().ljust(RECORD, b"\0")
                self._index[version] = index
            return index

    def _take(self) -> int:
        """A slot for this thread; when more threads run models than there are slots, they share the last."""
        with self._lock:
            return self._slot_of.setdefault(threading.get_ident(), min(len(self._slot_of), SLOTS - 1))


def name_in_note(version: str) -> str:
    """The version's id as a note holds it: as much of it as fits.

    >>> name_in_note("v1"), len(name_in_note("é" * 100))
    ('v1', 64)
    """
    return version.encode()[:RECORD].decode("utf-8", "ignore")


def anonymous_notes() -> int:
    """The descriptor of an empty file for one gateway's notes; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("retinue-notes", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _SIZE)
    return descriptor
