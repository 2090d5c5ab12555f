"""Which held models selectors mean; a held model's own name needs no portfolio file that loads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from retinue.core.errors import RetinueError
from retinue.core.portfolio import ModelSpec
from retinue.core.selectors import select


def held_names(selectors: Collection[str], held: Collection[str], specs: Callable[[], Iterable[ModelSpec]]) -> set[str]:
    """Names that selectors choose; `specs` gives every declared model, and is asked only when one is no held name."""
    exact = {s for s in selectors if s in held}
    others = [s for s in selectors if s not in held]
    if not others:
        return exact
    try:
        found = specs()
    except RetinueError:
        if any(sign in s for s in others for sign in "*?[+@:,"):
            raise
        return exact
    return exact | set(select(others, found))
