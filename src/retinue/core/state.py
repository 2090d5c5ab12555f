"""What is recorded: definitions, snapshots, versions, evidence, releases, holds. Values only; `store` keeps them.

Moments are ISO 8601 text in UTC with microseconds (`2026-01-31T12:00:00.000000Z`), so they sort as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Any
Verdict = Literal["pass", "fail", "inconclusive"]
BUILD_SECONDS = "build.seconds"
"""The name under which evidence carries how long a build took: a measurement, so not in the manifest."""
GATES_SECONDS = "gates.seconds"
"""Likewise how long its gates took."""
MEMORY_BYTES = "memory.bytes"
"""Likewise what the version takes in memory when it is loaded to serve."""
MEASUREMENTS = frozenset((BUILD_SECONDS, GATES_SECONDS, MEMORY_BYTES))
"""What evidence carries that is no gate."""
HoldCause = Literal["rollback", "failed gate", "inconclusive", "upstream", "approval", "approved", "rejected"]


@dataclass(frozen=True, slots=True)
class Definition:
    """What a model is. `body` is the resolved declaration with code and lock digests; `bundle` an artifact."""

    hash: str
    model: str
    body: Mapping[str, Json]
    bundle: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a build was pinned to: cutoff, rows and fingerprints per table, upstream versions."""

    hash: str
    body: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable build. `id` is the digest of `manifest`; `sibling` counts deliberate rebuilds of a pair."""

    id: str
    portfolio: str
    model: str
    definition: str
    snapshot: str
    manifest: Mapping[str, Json]
    created: str
    sibling: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gates said of a version with given upstream versions, under given gate settings."""

    version: str
    upstreams: Mapping[str, str]  # model → version id
    gates: str  # digest of the gate settings
    verdict: Verdict
    results: tuple[Mapping[str, Json], ...]
    champion: str | None
    created: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A (model, definition, snapshot) that is not tried again until something of it changes or someone says so."""

    portfolio: str
    stage: str
    model: str
    definition: str
    snapshot: str
    version: str | None
    cause: HoldCause
    detail: str
    gates: str  # digest of the gate settings under which it was held
    created: str
    id: int = 0
    release: int | None = None  # the release in which it was rolled back
    ended: str | None = None
    ended_why: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A model's place in a release."""

    version: str
    protect: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """An immutable map model → version with the endpoints; `groups` are the sets of models that changed as one."""

    portfolio: str
    stage: str
    number: int
    models: Mapping[str, Entry]
    endpoints: Mapping[str, Mapping[str, Json]]
    groups: tuple[tuple[str, ...], ...]
    parent: int | None
    cause: str  # "apply", "rollback", …
    why: str
    who: str
    plan: str | None
    created: str


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One model's change in one release; None means absent before or after."""

    release: int
    model: str
    old: str | None
    new: str | None
    cause: str
    why: str
    who: str
    created: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act: who, when, what, why, from which plan."""

    created: str
    who: str
    act: str
    what: str
    why: str
    plan: str | None


@dataclass(frozen=True, slots=True)
class SettingsRevision:
    """Metadata, policies and rights, versioned on their own line: no rollback of models touches them."""

    revision: int
    body: Mapping[str, Json]
    created: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to change some models. `fence` grows with every lease: a holder with an older one is refused."""

    portfolio: str
    stage: str
    models: tuple[str, ...]
    holder: str
    fence: int
    expires: str


@dataclass(frozen=True, slots=True)
class ApplyRecord:
    """One run of an applier; `status` is running, done, failed or interrupted."""

    id: str
    portfolio: str
    stage: str
    plan: Mapping[str, Json]
    who: str
    status: str
    created: str
    ended: str | None = None
    summary: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Landing:
    """A patch that becomes the next release, if `expected` still holds: compare-and-swap of exactly these models.

    `expected` names the whole affected set (changed and re-gated) with the version each had when planned,
    None for absent. `models` patches entries (None removes), `endpoints` likewise by name. `beside` names what the
    changed models were tested with: compared as `expected` is, but no lease on it is asked for.
    """

    portfolio: str
    stage: str
    expected: Mapping[str, str | None]
    models: Mapping[str, Entry | None]
    endpoints: Mapping[str, Mapping[str, Json] | None]
    groups: tuple[tuple[str, ...], ...]
    cause: str
    why: str
    who: str
    now: str
    plan: str | None = None
    lease: Lease | None = None
    holds: tuple[Hold, ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServedNeed:
    """How a served model feeds from an upstream: its output becomes `column`; `inputs` maps feature → field."""

    model: str
    output: str
    column: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model as a gateway needs it. `signature` is what `retinue_worker.runtime` loads the artifact with."""

    name: str
    version: str
    artifact: str  # SHA-256 of the file that serves
    format: str  # "onnx" runs inline; anything else in a worker of `environment`
    signature: Mapping[str, Json]
    environment: str  # digest of the lock
    needs: tuple[ServedNeed, ...] = ()
    family: str | None = None
    memory: int = 0  # bytes it takes when loaded, as measured at build; 0: not measured
    pinned: bool = False  # loaded before its release serves, never evicted
    concurrency: int = 0  # batches of it that may run at once; 0: as its execution allows


@dataclass(frozen=True, slots=True)
class ServedCache:
    """Answers of an endpoint may be kept so long and so many."""

    seconds: float
    answers: int = 10_000


@dataclass(frozen=True, slots=True)
class ServedJournal:
    """What the journal keeps of an endpoint's rows: facts always; tensors of so large a share of its requests.

    `drop` and `hash` name fields of the request whose values are left out or replaced by a keyed digest.
    """

    tensors: float = 1.0
    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedEndpoint:
    """One public name as a gateway needs it."""

    name: str
    select: str
    fallback: str | None = None
    fallback_when: tuple[str, ...] = ("unknown", "unavailable")
    cache: ServedCache | None = None
    journal: ServedJournal = ServedJournal()


@dataclass(frozen=True, slots=True)
class ReleaseImage:
    """A release compiled for serving: what a release file holds."""

    portfolio: str
    stage: str
    number: int
    models: Mapping[str, ServedModel]
    endpoints: Mapping[str, ServedEndpoint]
    options: str = ""  # digest of the settings it was compiled with; empty: none say anything about serving
