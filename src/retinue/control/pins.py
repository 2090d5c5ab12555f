"""What is kept: the versions that gateways, rollbacks and holds may need, and the bytes that these refer to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from retinue.control.rollback import previous_versions
from retinue.core.state import Release, Version
from retinue.store.base import RegistryReader

Json = Any
_MANY = 1_000_000


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of the past stays: the newest `releases` of a stage, and what was live or made since `since`."""

    releases: int
    since: str


def kept_releases(releases: Collection[Release], keep: Keep) -> list[Release]:
    """Of a stage's releases: the newest ones, those since then, and the one that was live at that moment."""
    newest = sorted(releases, key=lambda release: release.number, reverse=True)
    kept = []
    for place, release in enumerate(newest):
        replaced = newest[place - 1].created if place else None  # when it stopped being live
        if place < max(1, keep.releases) or replaced is None or replaced >= keep.since:
            kept.append(release)
    return kept


def pinned_versions(
    registry: RegistryReader, portfolios: Mapping[str, Collection[str]], versions: Collection[Version], keep: Keep
) -> set[str]:
    """Ids of all versions that must stay: of kept releases, of active holds, and those made since `keep.since`."""
    pinned = {version.id for version in versions if version.created >= keep.since}
    for portfolio, stages in portfolios.items():
        for stage in stages:
            for release in kept_releases(registry.releases(portfolio, stage, _MANY), keep):
                pinned |= {entry.version for entry in release.models.values()}
            current = registry.current(portfolio, stage)
            if current is not None:
                live = {name: entry.version for name, entry in current.models.items()}
                pinned |= {old for old in previous_versions(registry, current, live).values() if old is not None}
            pinned |= {hold.version for hold in registry.holds(portfolio, stage) if hold.version}
    return pinned


def bytes_in(value: Json) -> set[str]:
    """Digests that stand anywhere in recorded JSON."""
    return set(_digests(value))


def bytes_of(version: Version) -> set[str]:
    """Digests of the artifacts that a version's manifest names."""
    return set(_digests(version.manifest))


def _digests(value: Json) -> Iterator[str]:
    """Every text that has the form of a digest: naming too many is safe, naming too few is not."""
    if isinstance(value, str):
        if len(value) == 64 and all(c in "0123456789abcdef" for c in value):
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _digests(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _digests(part)
