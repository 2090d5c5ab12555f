"""What models really take: the sum of what they were thought to take, corrected by what processes were seen to grow."""

from __future__ import annotations

from collections.abc import Sequence

from retinue.core.cache import Ledger
from retinue.gateway.memory import Reaper, taken
from retinue.gateway.workers import Worker

ENOUGH = 8 * 1024**2  # bytes of models from which on the measured total says something about them
SLACK = 64 * 1024**2  # bytes a worker process may have beyond what it hosts before it is restarted to get them back
REST = 600.0  # seconds between two such restarts of a worker
OWN = 0  # this process, among pids


class Scales:
    """`correction`: what models take by what was thought; `fat`: a worker whose memory does not come back."""

    def __init__(self) -> None:
        self.correction = 1.0
        self.fat: Worker | None = None
        self.hosted: dict[str, Worker] = {}  # where models are that are not in this process, by key
        self._bases: dict[int, int] = {}  # bytes a process takes without models, by pid
        self._rested: dict[int, float] = {}
        self._trims = 0

    def first(self, size: int) -> None:
        """A model of about `size` bytes was loaded: if it was the first, the rest is what this process takes itself."""
        if OWN not in self._bases:
            self._bases[OWN] = max(0, taken() - size)

    def weigh(self, ledger: Ledger, workers: Sequence[Worker], reaper: Reaper) -> None:
        """Look at all processes; call it about once a second."""
        now = taken()
        if len(ledger) == 0 or now == 0:  # nothing to weigh, or a system that does not tell
            return
        if reaper.busy:  # what is on its way out counts for nothing: take what was there after the last trim
            if reaper.trims == self._trims:
                return
            now = reaper.left
        self._trims = reaper.trims
        measured = max(0, now - self._bases.get(OWN, now))
        self.fat = None
        for worker in workers:
            measured += self._of_worker(worker, ledger)
        if ledger.total > ENOUGH:
            ratio = min(max(measured / ledger.total, 0.5), 4.0)
            self.correction += 0.5 * (ratio - self.correction)

    def recycled(self, worker: Worker, now: float) -> None:
        """That worker is restarted at this moment of the loop's clock, and not soon again."""
        self._rested[id(worker)] = now + REST
        self.fat = None

    def rested(self, worker: Worker, now: float) -> bool:
        """Whether it may be restarted for its memory."""
        return now >= self._rested.get(id(worker), 0.0)

    def _of_worker(self, worker: Worker, ledger: Ledger) -> int:
        pids = worker.pids
        entries = [ledger.get(key) for key, host in self.hosted.items() if host is worker]
        each = sum(entry.bytes for entry in entries if entry) // max(1, len(pids))
        measured = 0
        for pid in pids:
            now = taken(pid)
            base = self._bases.setdefault(pid, max(0, now - each))
            measured += max(0, now - base)
            if now - base > 2 * each + SLACK:
                self.fat = worker
        return measured
