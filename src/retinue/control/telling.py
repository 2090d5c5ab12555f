"""What is recorded, gathered for a question: what is live, why, since when, what differs. Reads, never writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retinue.control.evidence import EvidenceBook
from retinue.control.recorded import CHUNK, Recorded
from retinue.core.declaration import differences
from retinue.core.errors import StateError, UsageError
from retinue.core.family import placeholders
from retinue.core.landing import closure
from retinue.core.outside import PUBLISHED
from retinue.core.plan import Why
from retinue.core.portfolio import EndpointSpec
from retinue.core.publication import Publication
from retinue.core.state import (
    ApplyRecord,
    Definition,
    Evidence,
    HistoryRow,
    Hold,
    Lease,
    Release,
    Snapshot,
    Version,
)
from retinue.core.suggest import did_you_mean
from retinue.store.base import RegistryReader

Json = Any


@dataclass(frozen=True, slots=True)
class Failing:
    """A live version whose newest evidence beside what it reads today is no pass; without any, `results` is empty."""

    model: str
    version: str
    verdict: str
    results: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """One stage as it is recorded now. `families` maps family (or "" for models of none) to model names."""

    portfolio: str
    stage: str
    stages: Mapping[str, int]
    release: Release | None
    families: Mapping[str, tuple[str, ...]]
    holds: tuple[Hold, ...]
    failing: tuple[Failing, ...]
    leases: tuple[Lease, ...]
    running: tuple[ApplyRecord, ...]
    last_apply: ApplyRecord | None
    settings: int | None


def narrowed(status: Status, models: Collection[str]) -> Status:
    """The status of these models alone; release, endpoints and work in hand are the stage's and stay."""
    families = {f: tuple(m for m in names if m in models) for f, names in status.families.items()}
    release = status.release
    if release is not None:
        release = replace(release, models={m: e for m, e in release.models.items() if m in models})
    return replace(
        status,
        release=release,
        families={f: names for f, names in families.items() if names},
        holds=tuple(h for h in status.holds if h.model in models),
        failing=tuple(f for f in status.failing if f.model in models),
    )


@dataclass(frozen=True, slots=True)
class Told:
    """One version with all that is recorded around it. `live` tells whether the stage serves it."""

    version: Version
    live: bool
    definition: Definition | None
    snapshot: Snapshot | None
    evidence: tuple[Evidence, ...]
    published: Publication | None = None  # how its artifact was handed over, and what is only claimed of it


@dataclass(frozen=True, slots=True)
class Story:
    """Why a model's live version is live."""

    told: Told
    release: Release  # the current one
    landed: HistoryRow | None  # the change that made this version live
    before: Version | None
    changes: tuple[Why, ...]  # what differs from the version before
    evidence: Evidence | None  # beside what it reads today
    upstreams: Mapping[str, str]
    consumers: tuple[str, ...]
    holds: tuple[Hold, ...]


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """Two versions of a model: what differs in definition and in the data they were built on."""

    old: Told
    new: Told
    changes: tuple[Why, ...]
    data: tuple[tuple[str, Json, Json], ...]  # (what, old, new)


@dataclass(frozen=True, slots=True)
class Change:
    """One model's change from a version to another (None: absent), and why their definitions or data differ."""

    model: str
    family: str | None
    old: str | None
    new: str | None
    reasons: tuple[Why, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseDifference:
    """Two releases: models whose versions differ, and endpoints whose entries do (None for absent)."""

    old: Release
    new: Release
    models: tuple[Change, ...]
    endpoints: Mapping[str, tuple[Mapping[str, Json] | None, Mapping[str, Json] | None]]


def status(registry: RegistryReader, portfolio: str, stage: str, now: str, recorded: Recorded | None = None) -> Status:
    """Everything `retinue status` tells, in a constant number of queries; `recorded` spares it the manifests."""
    release = registry.current(portfolio, stage)
    live = {m: e.version for m, e in release.models.items()} if release else {}
    ids = set(live.values())
    versions = recorded.heads(registry, ids)[0] if recorded is not None else registry.versions(ids)
    families: dict[str, list[str]] = {}
    for model, version in sorted(live.items()):
        families.setdefault(versions[version].manifest.get("family") or "", []).append(model)
    applies = registry.applies(portfolio, stage, limit=1)
    settings = registry.settings_head(portfolio)
    return Status(
        portfolio=portfolio,
        stage=stage,
        stages=registry.stages(portfolio),
        release=release,
        families={f: tuple(models) for f, models in families.items()},
        holds=tuple(
            h for h in registry.holds(portfolio, stage) if h.cause != "approved" or live.get(h.model) != h.version
        ),
        failing=failing(registry, live, versions),
        leases=tuple(registry.leases(portfolio, stage, now)),
        running=tuple(registry.applies(portfolio, stage, "running")),
        last_apply=applies[0] if applies else None,
        settings=settings.revision if settings else None,
    )


def failing(registry: RegistryReader, live: Mapping[str, str], versions: Mapping[str, Version]) -> tuple[Failing, ...]:
    """Live versions that are not shown to pass beside what they read today."""
    book = EvidenceBook(versions, registry.evidence_heads(set(live.values())))
    found = []
    for model, version in sorted(live.items()):
        row = book.find(version, _beside(version, live, book))
        if row is None:
            found.append(Failing(model, version, "no evidence"))
        elif row.verdict != "pass":
            found.append(Failing(model, version, row.verdict, row.results))
    return tuple(found)


def _beside(version: str, live: Mapping[str, str], book: EvidenceBook) -> dict[str, str]:
    names, _ = closure(version, live, book.needs)
    return {name: live[name] for name in names if name in live}


def told(registry: RegistryReader, version: Version, release: Release | None) -> Told:
    """A version with its definition, snapshot and evidence."""
    return Told(
        version=version,
        live=release is not None
        and version.model in release.models
        and release.models[version.model].version == version.id,
        definition=registry.definitions([version.definition]).get(version.definition),
        snapshot=registry.snapshots([version.snapshot]).get(version.snapshot),
        evidence=tuple(registry.evidence([version.id])[version.id]),
        published=_published(registry, version),
    )


def _published(registry: RegistryReader, version: Version) -> Publication | None:
    if (version.manifest.get("spec") or {}).get("artifact") != PUBLISHED:
        return None
    digest = version.manifest["native"]["digest"]
    found = registry.publications(version.portfolio, version.model, limit=1_000)
    return next((made for made in found if made.digest == digest), None)


def story(registry: RegistryReader, release: Release | None, model: str) -> Story:
    """Why the live version of `model` is live. Raises UsageError when the release does not have it."""
    if release is None:
        raise StateError("this stage has no release", hint="Run `retinue apply` first.")
    if model not in release.models:
        raise UsageError(
            f"{model} is not in release {release.number} of stage {release.stage}",
            hint=did_you_mean(model, release.models),
        )
    live = {m: e.version for m, e in release.models.items()}
    versions = registry.versions(set(live.values()))
    rows = registry.history(release.portfolio, release.stage, model, limit=1000)
    landed = next((r for r in rows if r.new == live[model]), None)
    old = registry.versions([landed.old]).get(landed.old) if landed is not None and landed.old else None
    book = EvidenceBook(versions, registry.evidence([live[model]]))
    beside = _beside(live[model], live, book)
    return Story(
        told=told(registry, versions[live[model]], release),
        release=release,
        landed=landed,
        before=old,
        changes=_definition_changes(registry, old, versions[live[model]]) if old is not None else (),
        evidence=book.find(live[model], beside),
        upstreams=beside,
        consumers=tuple(sorted(m for m, v in live.items() if model in book.needs(v))),
        holds=tuple(h for h in registry.holds(release.portfolio, release.stage) if h.model == model),
    )


def compare_versions(
    registry: RegistryReader, release: Release | None, old: Version, new: Version
) -> VersionDifference:
    """What differs between two versions of one model."""
    first, second = told(registry, old, release), told(registry, new, release)
    return VersionDifference(first, second, _definition_changes(registry, old, new), _data_changes(first, second))


def _definition_changes(registry: RegistryReader, old: Version, new: Version) -> tuple[Why, ...]:
    bodies = registry.definitions({old.definition, new.definition})
    if old.definition == new.definition or not {old.definition, new.definition} <= set(bodies):
        return ()
    return differences(bodies[old.definition].body, bodies[new.definition].body)


def _data_changes(old: Told, new: Told) -> tuple[tuple[str, Json, Json], ...]:
    rows: list[tuple[str, Json, Json]] = []
    before = old.snapshot.body if old.snapshot else {}
    after = new.snapshot.body if new.snapshot else {}
    rows.append(("cutoff", before.get("cutoff"), after.get("cutoff")))
    rows += _keyed("data until", before.get("sources", {}), after.get("sources", {}))
    rows += _keyed("upstream", before.get("upstreams", {}), after.get("upstreams", {}))
    rows += _keyed("rows", old.version.manifest.get("rows", {}), new.version.manifest.get("rows", {}))
    return tuple(row for row in rows if row[1] != row[2])


def _keyed(what: str, old: Mapping[str, Json], new: Mapping[str, Json]) -> list[tuple[str, Json, Json]]:
    return [(f"{what} {name}", old.get(name), new.get(name)) for name in sorted({*old, *new})]


def changes(registry: RegistryReader, moves: Sequence[tuple[str, str | None, str | None]]) -> tuple[Change, ...]:
    """Each (model, old version, new version) with its family and its reasons; manifests are not held all at once."""
    ids = sorted({v for _, old, new in moves for v in (old, new) if v is not None})
    versions = {
        found.id: replace(found, manifest={"family": found.manifest.get("family")})
        for start in range(0, len(ids), CHUNK)
        for found in registry.versions(ids[start : start + CHUNK]).values()
    }
    pairs = [(versions[old], versions[new]) for _, old, new in moves if old in versions and new in versions]
    definitions = registry.definitions({v.definition for a, b in pairs if a.definition != b.definition for v in (a, b)})
    snapshots = registry.snapshots({v.snapshot for a, b in pairs if a.snapshot != b.snapshot for v in (a, b)})
    found = []
    for model, old, new in moves:
        known = versions.get(new or old or "")
        family = known.manifest.get("family") if known is not None else None
        reasons: tuple[Why, ...] = ()
        if old in versions and new in versions:
            reasons = _reasons(versions[old], versions[new], definitions, snapshots)
        found.append(Change(model, family, old, new, reasons))
    return tuple(found)


def _reasons(
    old: Version, new: Version, definitions: Mapping[str, Definition], snapshots: Mapping[str, Snapshot]
) -> tuple[Why, ...]:
    """Why two versions differ: by definition, else by what they were built on."""
    if old.definition != new.definition:
        if old.definition not in definitions or new.definition not in definitions:
            return ()
        return differences(definitions[old.definition].body, definitions[new.definition].body)
    before = snapshots[old.snapshot].body if old.snapshot in snapshots else {}
    after = snapshots[new.snapshot].body if new.snapshot in snapshots else {}
    found: list[Why] = []
    ups, now = before.get("upstreams", {}), after.get("upstreams", {})
    if ups != now:
        found.append(Why("UPSTREAM", ", ".join(sorted(m for m in {*ups, *now} if ups.get(m) != now.get(m)))))
    if {**before, "upstreams": None} != {**after, "upstreams": None}:
        found.append(Why("DATA", "other rows"))
    return tuple(found)


def compare_releases(registry: RegistryReader, old: Release, new: Release) -> ReleaseDifference:
    """What differs between two releases."""
    before, after = ({m: e.version for m, e in release.models.items()} for release in (old, new))
    moves = [(m, before.get(m), after.get(m)) for m in sorted({*before, *after}) if before.get(m) != after.get(m)]
    endpoints = {e: (old.endpoints.get(e), new.endpoints.get(e)) for e in sorted({*old.endpoints, *new.endpoints})}
    return ReleaseDifference(
        old, new, changes(registry, moves), {e: pair for e, pair in endpoints.items() if pair[0] != pair[1]}
    )


def by_family(registry: RegistryReader, entries: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Model names by family ("" for none), given model → version."""
    versions = registry.versions(set(entries.values()))
    found: dict[str, list[str]] = {}
    for model, version in sorted(entries.items()):
        found.setdefault(versions[version].manifest.get("family") or "", []).append(model)
    return {family: tuple(models) for family, models in found.items()}


def members_of(registry: RegistryReader, release: Release | None, endpoint: EndpointSpec) -> list[str]:
    """Models that an endpoint can select in a release."""
    if release is None:
        return []
    if not placeholders(endpoint.select):
        return [endpoint.select]
    families = by_family(registry, {model: entry.version for model, entry in release.models.items()})
    return list(families.get(endpoint.select, ()))


def chosen(names: Collection[str], wanted: Sequence[str]) -> list[str]:
    """`wanted` if all are among `names`. Raises UsageError with the nearest name otherwise."""
    for name in wanted:
        if name not in names:
            raise UsageError(f"{name} is not there", hint=did_you_mean(name, names))
    return list(wanted)
