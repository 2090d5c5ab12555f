"""Reads what is recorded of one stage in a constant number of queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from retinue.control.recorded import Recorded
from retinue.control.wish import Wisher
from retinue.core.gates import gates_digest
from retinue.core.plan import Build, Regate
from retinue.core.selectors import States
from retinue.core.state import BUILD_SECONDS, GATES_SECONDS, Definition, Evidence, Version
from retinue.core.wish import Actual, Options, Wish
from retinue.store.base import RegistryReader

Json = Any
SAMPLE = 200
"""Models from whose past builds a forecast is made, at most."""


def read_actual(registry: RegistryReader, portfolio: str, stage: str, recorded: Recorded | None = None) -> Actual:
    """The stage's release with its versions, definitions, snapshots and evidence; holds; settings.

    With `recorded`, only what a plan compares: manifests hold what it keeps of them, what evidence of a pass measured
    is left out, and there are no definitions yet (`add_definitions`).
    """
    release = registry.current(portfolio, stage)
    live = {entry.version for entry in release.models.values()} if release else set()
    if recorded is None:
        versions = registry.versions(live)
        snapshots = registry.snapshots({v.snapshot for v in versions.values()})
        evidence = registry.evidence(live)
        definitions = registry.definitions({v.definition for v in versions.values()})
        settings, seconds = registry.settings(portfolio), _seconds(versions.values(), evidence)
    else:
        versions, snapshots = recorded.heads(registry, live)
        evidence = registry.evidence_heads(live)
        definitions, settings, seconds = {}, registry.settings_head(portfolio), {}
    return Actual(
        release=release,
        versions=versions,
        definitions=definitions,
        snapshots=snapshots,
        evidence=evidence,
        holds=registry.holds(portfolio, stage),
        settings=settings,
        candidates={},
        elsewhere=frozenset(
            entry.version
            for other in registry.stages(portfolio)
            if other != stage and (there := registry.current(portfolio, other)) is not None
            for entry in there.models.values()
        ),
        seconds=seconds,
    )


def add_definitions(
    actual: Actual, registry: RegistryReader, wished: Mapping[str, tuple[Mapping[str, Json], str]]
) -> Actual:
    """The same with the definitions of all live versions; those that the file wishes too are known by their hash."""
    found = {hash_: Definition(hash_, name, body, "") for name, (body, hash_) in wished.items()}
    live = {v.definition for v in actual.versions.values()}
    definitions = {hash_: found[hash_] for hash_ in live if hash_ in found}
    missing = live - definitions.keys()
    if missing:
        definitions.update(registry.definitions(missing))
    return replace(actual, definitions=definitions)


def add_candidates(actual: Actual, registry: RegistryReader, portfolio: str, definitions: Collection[str]) -> Actual:
    """The same with the versions that other definitions already have, and their snapshots."""
    if not definitions:
        return actual
    found = registry.versions_of_definitions(portfolio, definitions)
    snapshots = registry.snapshots({v.snapshot for versions in found.values() for v in versions})
    return replace(actual, candidates=found, snapshots={**actual.snapshots, **snapshots})


def to_build(wish: Wish, live: Mapping[str, Version], options: Options) -> set[str]:
    """The definitions of models that a plan may build: a version of one of them may be there already."""
    asked = options.refresh | options.rebuild
    found = set()
    for name, wished in wish.models.items():
        version = live.get(name) or live.get(wished.spec.was or name)
        if version is None or version.definition != wished.definition or name in asked:
            found.add(wished.definition)
    return found


def states(wisher: Wisher, actual: Actual) -> States:
    """Which models are new, and which are wished otherwise (definition or gates) than they are live; new ones too."""
    entries = actual.release.models if actual.release else {}
    new, modified = set(), set()
    for name, (_, definition) in wisher.bodies.items():
        spec = wisher.kinds.specs[name]
        entry = entries.get(name) or entries.get(spec.was or name)
        if entry is None:
            new.add(name)
            continue
        gates = gates_digest(spec.gates, spec.task)
        tested = any(row.gates == gates for row in actual.evidence.get(entry.version, ()))
        if actual.versions[entry.version].definition != definition or not tested:
            modified.add(name)
    return States(frozenset(new), frozenset(new | modified))


def read_seconds(
    actual: Actual, registry: RegistryReader, built: Sequence[Build | Regate]
) -> dict[tuple[str, str], float]:
    """What building and testing took so far, of the models that are built or of a sample of them and their families."""
    entries = actual.release.models if actual.release else {}
    families = {step.family for step in built if step.family is not None}
    same = (m for m, e in entries.items() if actual.versions[e.version].manifest["family"] in families)
    own = (step.model for step in built if step.model in entries)
    chosen = dict.fromkeys([*islice(own, SAMPLE), *islice(same, SAMPLE)])
    versions = [actual.versions[entries[m].version] for m in chosen]
    return _seconds(versions, registry.evidence({v.id for v in versions})) if versions else {}


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
