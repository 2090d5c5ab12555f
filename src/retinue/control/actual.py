"""Reads what is recorded of one stage in a constant number of queries."""

from __future__ import annotations

from collections.abc import Collection

from retinue.core.planner import Actual
from retinue.core.state import BUILD_SECONDS, Evidence, Version
from retinue.store.base import RegistryReader


def read_actual(registry: RegistryReader, portfolio: str, stage: str) -> Actual:
    """The stage's release with its versions, definitions, snapshots and evidence; holds; settings."""
    release = registry.current(portfolio, stage)
    live = {entry.version for entry in release.models.values()} if release else set()
    versions = registry.versions(live)
    evidence = registry.evidence(live)
    return Actual(
        release=release,
        versions=versions,
        definitions=registry.definitions({v.definition for v in versions.values()}),
        snapshots=registry.snapshots({v.snapshot for v in versions.values()}),
        evidence=evidence,
        holds=registry.holds(portfolio, stage),
        settings=registry.settings(portfolio),
        candidates={},
        seconds=_seconds(versions.values(), evidence),
    )


def add_candidates(actual: Actual, registry: RegistryReader, portfolio: str, definitions: Collection[str]) -> Actual:
    """The same with the versions that other definitions already have, and their snapshots."""
    found = registry.versions_of_definitions(portfolio, definitions)
    snapshots = registry.snapshots({v.snapshot for versions in found.values() for v in versions})
    return Actual(
        release=actual.release,
        versions=actual.versions,
        definitions=actual.definitions,
        snapshots={**actual.snapshots, **snapshots},
        evidence=actual.evidence,
        holds=actual.holds,
        settings=actual.settings,
        candidates=found,
        seconds=actual.seconds,
    )


def _seconds(versions: Collection[Version], evidence: dict[str, list[Evidence]]) -> dict[str, float]:
    """Average build seconds by model and by family, from what evidence measured."""
    sums: dict[str, tuple[float, int]] = {}
    for version in versions:
        for row in evidence.get(version.id, ()):
            for result in row.results:
                if result.get("gate") == BUILD_SECONDS and result.get("estimate") is not None:
                    for name in {version.model, version.manifest["family"] or version.model}:
                        total, count = sums.get(name, (0.0, 0))
                        sums[name] = (total + float(result["estimate"]), count + 1)
    return {name: total / count for name, (total, count) in sums.items()}
