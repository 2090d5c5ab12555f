"""What processes take, as the kernel counts it; what the machine has; giving freed memory back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUPS = Path("/sys/fs/cgroup")
NICE = 10  # of threads that load models and let go of them: a tenth of the event loop's weight
_FALLBACK = 2 * 1024**3  # bytes, on a system that does not say what it has


def taken(pid: int | None = None) -> int:
    """Bytes of memory that are a process's own (not of files it maps), of this one if none is named; 0 if unknown."""
    try:
        text = Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii")
    except OSError:
        return 0
    resident, shared = text.split()[1:3]
    return (int(resident) - int(shared)) * _PAGE


def machine() -> int:
    """Bytes this process may hope for: what the machine has available, or its control group allows if that is less."""
    found = [_available()]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int((_GROUPS / name).read_text(encoding="ascii")))
    return min(found)


def _available() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return _FALLBACK


def stand_back() -> None:
    """Let the calling thread give way to the event loop: on a core they share, a load would hold up every answer.

    Linux keeps niceness per thread; elsewhere it is the whole process's, and stays as it is. Nice, not idle: a thread
    that holds the interpreter's lock must go on soon although others want the core.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Reaper:
    """A thread that lets go of models and gives their memory back: both take too long for the event loop.

    After models went, the allocator is asked to return what is free, in batches: at most so often that the asking
    takes two percent of the time.
    """

    _SHARE = 50  # a trim may begin after so many times the last one's length

    def __init__(self) -> None:
        self._boxes: deque[list[object]] = deque()
        self._wake = threading.Event()
        self._dirty = False
        self._stopping = False
        self.trims = 0
        self.left = 0  # bytes that this process took after the last trim
        self._thread = threading.Thread(target=self._work, name="reaper", daemon=True)
        self._thread.start()

    def drop(self, *things: object) -> None:
        """Let go of these; the caller must keep no other reference."""
        self._boxes.append(list(things))
        self._wake.set()

    def trim(self) -> None:
        """Give free memory back soon."""
        self._dirty = True
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether something is still to be let go, or to be given back."""
        return bool(self._boxes) or self._dirty

    def close(self) -> None:
        """End the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join(5.0)

    def _work(self) -> None:
        stand_back()
        library = ctypes.CDLL(None) if sys.platform == "linux" else None
        trim = getattr(library, "malloc_trim", None)
        due = 0.0  # the next trim, by the monotonic clock
        while not self._stopping:
            self._wake.wait(max(0.01, due - time.monotonic()) if self._dirty else None)
            self._wake.clear()
            while self._boxes and not self._stopping:
                box = self._boxes.popleft()
                while box:
                    box.pop()
                    time.sleep(0.0002)  # destructors hold the interpreter's lock: let the loop have its turn
                self._dirty = True
            began = time.monotonic()
            if self._dirty and began >= due and not self._stopping:
                self._dirty = False
                if trim is not None:
                    trim(0)
                due = time.monotonic() + min(max(0.05, self._SHARE * (time.monotonic() - began)), 5.0)
                self.left = taken()
                self.trims += 1
