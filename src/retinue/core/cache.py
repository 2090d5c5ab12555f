"""Which loaded models stay when memory is short: greedy-dual by size and frequency (GDSF).

A model's worth of staying is `clock + uses × load seconds / bytes`: one that is asked for often, is slow to load or
small stays; one that nobody asks for falls behind the clock, which rises to the worth of each model that is evicted.
Uses are halved once per turnover of the whole cache, so that yesterday's favourite does not stay for ever; the uses of
an evicted model are remembered for a while, so that one that comes back does not begin as a stranger.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

GHOSTS = 1024  # at least so many evicted models are remembered by their uses
_LEAST_SECONDS = 1e-4  # nothing loads in no time; keeps worth positive
_LEAST_BYTES = 1024


class Entry:
    """One loaded model in the ledger. Whoever uses it sets `uses += 1` and `seen = ledger.clock`: the hot path."""

    __slots__ = ("bytes", "key", "pinned", "seconds", "seen", "uses")

    def __init__(self, key: str, size: int, seconds: float, pinned: bool, uses: float, seen: float) -> None:
        self.key = key
        self.bytes = size
        self.seconds = seconds
        self.pinned = pinned
        self.uses = uses
        self.seen = seen

    @property
    def worth(self) -> float:
        """What it is worth to keep; the lowest goes first."""
        return self.seen + self.uses * max(self.seconds, _LEAST_SECONDS) / max(self.bytes, _LEAST_BYTES)


class Ledger:
    """What is loaded, how much it takes, and what would go first. `budget` and sizes are in bytes."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.clock = 0.0
        self.total = 0
        self._entries: dict[str, Entry] = {}
        self._heap: list[tuple[float, str]] = []  # worth when pushed: only a lower bound, as worth grows with use
        self._ghosts: dict[str, float] = {}
        self._turnover = 0  # evictions since uses were halved

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: str) -> Entry | None:
        """That entry, if it is loaded."""
        return self._entries.get(key)

    def uses(self, key: str) -> float:
        """How often it was used, as far as remembered."""
        entry = self._entries.get(key)
        return entry.uses if entry else self._ghosts.get(key, 0.0)

    def add(self, key: str, size: int, seconds: float, *, pinned: bool = False, uses: float = 0.0) -> Entry:
        """Note a loaded model of `size` bytes that took `seconds` to load; `uses`: credit it brings along."""
        self.remove(key)
        credit = max(uses, self._ghosts.pop(key, 0.0)) + 1.0
        entry = Entry(key, size, seconds, pinned, credit, self.clock)
        self._entries[key] = entry
        self.total += size
        if len(self._heap) > 4 * len(self._entries) + 64:
            self._note_all()  # of those that left, notes are left
        elif not pinned:
            heapq.heappush(self._heap, (entry.worth, key))
        return entry

    def pin(self, key: str, pinned: bool) -> None:
        """Never evict it from now on, or treat it like the others again."""
        entry = self._entries.get(key)
        if entry is not None and entry.pinned != pinned:
            entry.pinned = pinned
            if not pinned:
                heapq.heappush(self._heap, (entry.worth, key))

    def remove(self, key: str) -> None:
        """It is no longer loaded. Harmless when it was not."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.total -= entry.bytes

    def over(self, extra: int = 0) -> bool:
        """Whether so many more bytes would be over the budget."""
        return self.total + extra > self.budget

    def victims(self, extra: int, held: Callable[[str], bool]) -> list[str]:
        """What must go so that `extra` bytes more are within the budget, the least worth first; already removed here.

        Pinned models and those that `held` says are in use never go, so the budget may stay exceeded. Something larger
        than the whole budget makes all others go.
        """
        chosen: list[str] = []
        spared: list[tuple[float, str]] = []
        while self.over(extra) and self._heap:
            noted, key = heapq.heappop(self._heap)
            entry = self._entries.get(key)
            if entry is None or entry.pinned:
                continue  # left, or pinned, since it was noted
            worth = entry.worth
            if worth > noted:
                heapq.heappush(self._heap, (worth, key))
            elif held(key):
                spared.append((worth, key))
            else:
                self._evict(entry, worth)
                chosen.append(key)
        for item in spared:
            heapq.heappush(self._heap, item)
        if self._turnover > max(len(self._entries), 64):
            self._age()
        return chosen

    def _evict(self, entry: Entry, worth: float) -> None:
        self.remove(entry.key)
        self.clock = max(self.clock, worth)
        self._turnover += 1
        self._ghosts[entry.key] = entry.uses
        while len(self._ghosts) > max(GHOSTS, 4 * len(self._entries)):
            del self._ghosts[next(iter(self._ghosts))]

    def _age(self) -> None:
        self._turnover = 0
        for entry in self._entries.values():
            entry.uses /= 2
        self._ghosts = {key: uses / 2 for key, uses in self._ghosts.items() if uses > 0.5}
        self._note_all()

    def _note_all(self) -> None:
        self._heap = [(entry.worth, key) for key, entry in self._entries.items() if not entry.pinned]
        heapq.heapify(self._heap)


class Estimate:
    """What a model that was never measured will take, from its file's size: learnt from those that were.

    >>> guess = Estimate()
    >>> guess.learn(1000, 201_000)
    >>> 100_000 < guess.of(1000) < 201_000
    True
    """

    BASE = 100_000  # bytes that even the smallest session takes

    def __init__(self, factor: float = 6.0) -> None:
        self._factor = factor  # bytes in memory per byte of file, beyond BASE

    def of(self, size: int) -> int:
        """Bytes in memory of a model whose file has `size` bytes."""
        return int(self.BASE + self._factor * size)

    def learn(self, size: int, memory: int) -> None:
        """A model with a file of `size` bytes was measured to take `memory` bytes."""
        if size > 0 and memory > 0:
            seen = min(max((memory - self.BASE) / size, 1.0), 100.0)
            self._factor += 0.1 * (seen - self._factor)


class Retries:
    """What could not be loaded is tried again later and later: `FIRST` seconds, then twice as long each time."""

    FIRST = 1.0
    LONGEST = 300.0

    def __init__(self) -> None:
        self._failures: dict[str, tuple[str, float, int]] = {}  # key → (why, not before, how often)

    def __bool__(self) -> bool:
        return bool(self._failures)

    def reason(self, key: str, now: float) -> str | None:
        """Why it is not tried now; None when it may be."""
        found = self._failures.get(key)
        return found[0] if found is not None and now < found[1] else None

    def failed(self, key: str, why: str, now: float) -> None:
        """It did not load."""
        times = self._failures[key][2] + 1 if key in self._failures else 1
        wait = min(self.FIRST * 2.0 ** min(times - 1, 30), self.LONGEST)
        self._failures[key] = (why, now + wait, times)

    def forget(self, key: str) -> None:
        """It has loaded, or somebody wants it tried now."""
        self._failures.pop(key, None)

    def clear(self) -> None:
        """All may be tried again at once."""
        self._failures.clear()
