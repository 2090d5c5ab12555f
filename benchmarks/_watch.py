"""Watches processes while something else happens to them: memory, descriptors, and whether they stay flat."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BLOCKS = 10
T_8 = 2.306  # 97.5 % quantile of Student's t with BLOCKS - 2 degrees of freedom


def resident(pid: int) -> int:
    """Bytes of memory a process has; 0 when it has ended."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def descriptors(pid: int) -> int:
    """Open file descriptors of a process; 0 when it has ended."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


@dataclass(slots=True)
class Series:
    """One number over time; moments in seconds."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, moment: float, value: float) -> None:
        """One more sample."""
        self.times.append(moment)
        self.values.append(value)

    def slope(self, skip: float = 0.3) -> tuple[float, float]:
        """Change per second and half the width of its 95 % interval, without the first `skip` of the samples.

        Samples that follow each other are alike, so the line is put through means of blocks.
        """
        start = int(len(self.values) * skip)
        times, values = self.times[start:], self.values[start:]
        size = len(values) // BLOCKS
        if size == 0:
            return 0.0, float("inf")
        xs = [statistics.fmean(times[n * size : (n + 1) * size]) for n in range(BLOCKS)]
        ys = [statistics.fmean(values[n * size : (n + 1) * size]) for n in range(BLOCKS)]
        line = statistics.linear_regression(xs, ys)
        rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
        spread = sum((x - statistics.fmean(xs)) ** 2 for x in xs)
        return line.slope, T_8 * (rest / (BLOCKS - 2) / spread) ** 0.5


class Watch:
    """Samples memory and descriptors of processes until it is left. `pids` is asked anew each time."""

    def __init__(self, pids: Callable[[], Sequence[int]], every: float = 0.5) -> None:
        self._pids = pids
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.memory: dict[int, Series] = {}
        self.files: dict[int, Series] = {}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            now = time.monotonic()
            for pid in self._pids():
                if size := resident(pid):
                    self.memory.setdefault(pid, Series()).add(now, size)
                    self.files.setdefault(pid, Series()).add(now, descriptors(pid))


def megabytes(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1024**2:,.1f} MiB"
