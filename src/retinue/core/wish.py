"""What a plan is made of: the wish (the file, resolved), the actual state (the registry), what the caller asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retinue.core.identity import digest
from retinue.core.plan import Waiting
from retinue.core.portfolio import EndpointSpec, ModelSpec, TableSpec
from retinue.core.state import Definition, Evidence, Hold, Release, SettingsRevision, Snapshot, Version

Json = Any
PENDING = "pending"
"""Stands for an upstream's version that is only known once it is built."""


@dataclass(frozen=True, slots=True)
class WishedModel:
    """One model as the file wishes it, with everything that identifies it.

    `fresh` is the snapshot data (cutoff, sources, tables) a build on today's data would be pinned to; `pinned`
    the data of the live snapshot as this definition reads it, None when there is none or it was rewritten.
    """

    spec: ModelSpec
    definition: str
    body: Mapping[str, Json]
    bundle: str
    gates: str
    fresh: Mapping[str, Json]
    pinned: Mapping[str, Json] | None = None
    rewritten: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """The whole file, resolved. `models` stands in topological order, upstreams first."""

    portfolio: str
    stage: str
    models: Mapping[str, WishedModel]
    endpoints: Mapping[str, EndpointSpec]
    tables: Mapping[str, TableSpec]
    settings: Mapping[str, Json]
    waiting: tuple[Waiting, ...] = ()
    notes: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Actual:
    """What the registry says of this stage. `candidates` are versions by definition hash, newest first."""

    release: Release | None
    versions: Mapping[str, Version]
    definitions: Mapping[str, Definition]
    snapshots: Mapping[str, Snapshot]
    evidence: Mapping[str, Sequence[Evidence]]
    holds: Sequence[Hold]
    settings: SettingsRevision | None
    candidates: Mapping[str, Sequence[Version]]
    elsewhere: frozenset[str]  # ids of versions that other stages serve
    seconds: Mapping[tuple[str, str], float]  # ("build" | "gates", model or family) → seconds so far, on average


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked for beyond the file. `selected` None means everything."""

    selected: frozenset[str] | None = None
    refresh: frozenset[str] = frozenset()
    allow_remove: frozenset[str] = frozenset()
    allow_weaker: frozenset[str] = frozenset()
    retry: frozenset[str] = frozenset()
    rebuild: frozenset[str] = frozenset()


def snapshot_hash(data: Mapping[str, Json], upstreams: Mapping[str, str]) -> str:
    """The digest of a snapshot: its data part and the upstream versions it was built with."""
    return digest({**data, "upstreams": dict(upstreams)})


def endpoint_body(spec: EndpointSpec) -> dict[str, Json]:
    """An endpoint as a release records it."""
    return {"select": spec.select, "fallback": spec.fallback, "fallback_when": list(spec.fallback_when)}
