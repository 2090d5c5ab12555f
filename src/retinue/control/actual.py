"""Reads what is recorded of one stage in a constant number of queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from retinue.core.state import BUILD_SECONDS, GATES_SECONDS, Evidence, Version
from retinue.core.wish import Actual
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
        elsewhere=frozenset(
            entry.version
            for other in registry.stages(portfolio)
            if other != stage and (there := registry.current(portfolio, other)) is not None
            for entry in there.models.values()
        ),
        seconds=_seconds(versions.values(), evidence),
    )


def add_candidates(actual: Actual, registry: RegistryReader, portfolio: str, definitions: Collection[str]) -> Actual:
    """The same with the versions that other definitions already have, and their snapshots."""
    found = registry.versions_of_definitions(portfolio, definitions)
    snapshots = registry.snapshots({v.snapshot for versions in found.values() for v in versions})
    return replace(actual, candidates=found, snapshots={**actual.snapshots, **snapshots})


def _seconds(versions: Collection[Version], evidence: Mapping[str, Sequence[Evidence]]) -> dict[tuple[str, str], float]:
    """Average seconds of building and of testing, by model and by family, from what evidence measured."""
    kinds = {BUILD_SECONDS: "build", GATES_SECONDS: "gates"}
    sums: dict[tuple[str, str], tuple[float, int]] = {}
    for version in versions:
        names = {version.model, version.manifest["family"] or version.model}
        for row in evidence.get(version.id, ()):
            for result in row.results:
                kind, seconds = kinds.get(str(result.get("gate"))), result.get("estimate")
                if kind is not None and seconds is not None:
                    for name in names:
                        total, count = sums.get((kind, name), (0.0, 0))
                        sums[(kind, name)] = (total + float(seconds), count + 1)
    return {key: total / count for key, (total, count) in sums.items()}
