"""Did-you-mean: the nearest known word to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, or None if nothing is near.

    >>> nearest("departure", ["flights", "departures"])
    'departures'
    """
    names = sorted(set(known))
    lower = {name.lower(): name for name in reversed(names)}
    found = difflib.get_close_matches(word.lower(), list(lower), n=1, cutoff=0.6)
    return lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], *, limit: int = 12) -> str:
    """A hint in words: the nearest known word, else the list of what is known (at most `limit`)."""
    names = sorted(set(known))
    near = nearest(word, names)
    if near is not None:
        return f"Did you mean {near!r}?"
    if not names:
        return "None is declared."
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return f"Known are: {', '.join(names[:limit])}{more}."
