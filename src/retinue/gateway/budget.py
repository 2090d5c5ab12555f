"""How many bytes a second the journal keeps for certain, and the chance of what is beyond them."""

from __future__ import annotations


class Budget:
    """Bytes a second that are always kept; beyond them the chance that follows from the last second's demand.

    A chance depends on the past alone, so counts weighted by its inverse have no bias. Within a second it halves
    each time what was left of the budget is half spent again, so no burst writes more than twice the budget.
    """

    __slots__ = ("_began", "_limit", "_next", "chance", "rate", "spent", "wished")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.spent = 0  # bytes written in this second
        self.wished = 0.0  # bytes it would have been without sampling, as estimated from what was kept
        self.chance = 1.0
        self._began = 0
        self._limit = float(rate)
        self._next = rate / 2

    def spend(self, now: int) -> float:
        """The chance from now on; `now` in nanoseconds."""
        if now - self._began >= 1_000_000_000:
            demand = self.wished / max(1.0, (now - self._began) / 1e9)
            self.chance = 1.0 if demand <= self.rate else self.rate / demand
            self._began, self.spent, self.wished = now, 0, 0.0
            self._limit, self._next = float(self.rate), self.rate / 2
        while self.spent > self._limit and self._next >= 1:
            self.chance /= 2
            self._limit += self._next
            self._next /= 2
        return self.chance
