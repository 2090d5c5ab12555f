"""Versions whose bytes are still there: gc takes bytes and leaves rows, and such a pair is built anew."""

from __future__ import annotations

from collections.abc import Mapping

from retinue.core.state import Evidence, Version
from retinue.store.base import Artifacts, Registry


def is_whole(artifacts: Artifacts, version: Version) -> bool:
    """Whether the artifacts that serve and judge a version are stored."""
    parts = [version.manifest.get(name) for name in ("artifact", "native")]
    return all(artifacts.has(part["digest"]) for part in parts if isinstance(part, dict))


def find_whole(registry: Registry, artifacts: Artifacts, portfolio: str, pair: tuple[str, str]) -> Version | None:
    """The version of a (definition, snapshot), if it can serve."""
    found = registry.versions_of_pairs(portfolio, [pair]).get(pair)
    return found if found is not None and is_whole(artifacts, found) else None


def register_whole(registry: Registry, artifacts: Artifacts, version: Version, *, sibling: bool) -> Version:
    """Register a version; beside a first one whose bytes went it is a sibling, unless it is the very same."""
    made = registry.register(version, sibling=sibling)
    return made if is_whole(artifacts, made) else registry.register(version, sibling=True)


def recorded_pass(
    registry: Registry, version: Version, gates: str, upstreams: Mapping[str, str], rival: str | None
) -> Evidence | None:
    """The newest evidence that a version passed these gates beside these upstreams, against `rival` if any."""
    for row in registry.evidence([version.id])[version.id]:
        fits = row.gates == gates and dict(row.upstreams) == dict(upstreams) and row.verdict == "pass"
        if fits and rival in (None, row.champion):
            return row
    return None
