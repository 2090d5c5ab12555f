"""Collects every problem of a file, in the order a person should read them, and raises them together."""

from __future__ import annotations

import re

from retinue.core.errors import Location, PortfolioError

SHAPE, MEANING, LATER = 0, 1, 2  # wrong shapes first, then what does not fit together, then what is not built yet


class Problems:
    """Problems found so far. A place is not complained about twice for the same reason."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, Location, PortfolioError]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, message: str, where: Location, hint: str | None = None, rank: int = MEANING) -> None:
        """Notes a problem. A message may begin with the key it speaks of: `models.late.task: …`."""
        reason = message.partition(": ")[2] or message
        error = PortfolioError(message, hint=hint, where=where)
        self._found.setdefault((str(where), reason), (rank, where, error))

    def extend(self, error: PortfolioError) -> None:
        """Notes the problems of an error that was raised elsewhere."""
        for problem in error.problems:
            self.add(problem.message, _location(problem.where or ""), problem.hint)

    def check(self) -> None:
        """Raises PortfolioError with all problems, the most important first, if there are any."""
        if not self._found:
            return
        ordered = sorted(self._found.values(), key=lambda found: (found[0], found[1].file, found[1].line))
        errors = tuple(error for _, _, error in ordered)
        first = errors[0]
        raise PortfolioError(first.message, hint=first.hint, where=first.where, problems=errors)


def _location(where: str) -> Location:
    found = re.fullmatch(r"(.*?)(?::(\d+))?(?::(\d+))?", where, re.DOTALL)
    assert found is not None
    return Location(found[1], int(found[2] or 0), int(found[3] or 0))
