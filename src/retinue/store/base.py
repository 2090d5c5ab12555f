"""What a registry and an artifact store must do; concrete ones are wired by `compose` alone.

Every writing method is one transaction: it happened whole or not at all. All of them raise
`StateUnavailableError` when the database is locked past its patience, lost, or the disk is full.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from retinue.core.access import ClientRecord
from retinue.core.publication import Publication
from retinue.core.state import (
    ApplyRecord,
    AuditRow,
    Definition,
    Evidence,
    HistoryRow,
    Hold,
    Json,
    Landing,
    Lease,
    Release,
    SettingsRevision,
    Snapshot,
    Version,
)

Pair = tuple[str, str]
"""(definition hash, snapshot hash)"""


class RegistryReader(Protocol):
    """The half of a registry that only reads; planning and telling hold no more than this."""

    def mark(self, portfolio: str) -> str:
        """A digest that differs when anything differs that a plan reads of this portfolio, in few small queries."""

    def stages(self, portfolio: str) -> dict[str, int]:
        """Each stage that has a release, with its current number."""

    def current(self, portfolio: str, stage: str) -> Release | None:
        """The release the stage points at."""

    def release(self, portfolio: str, stage: str, number: int) -> Release:
        """That release. Raises StateError when there is none of that number."""

    def releases(self, portfolio: str, stage: str, limit: int = 50, *, heads: bool = False) -> list[Release]:
        """The newest first; with `heads`, without their models and endpoints."""

    def release_at(self, portfolio: str, stage: str, moment: str) -> Release | None:
        """The release that was current at that moment."""

    def versions(self, ids: Collection[str]) -> dict[str, Version]:
        """Versions by id, in a constant number of queries; unknown ids are left out."""

    def versions_of_pairs(self, portfolio: str, pairs: Collection[Pair]) -> dict[Pair, Version]:
        """The version registered first for each (definition, snapshot) that has one (newest sibling wins)."""

    def versions_of_definitions(self, portfolio: str, definitions: Collection[str]) -> dict[str, list[Version]]:
        """All versions of each definition that has any, newest first."""

    def versions_of_model(self, portfolio: str, model: str) -> list[Version]:
        """All versions of a model, newest first."""

    def definitions(self, hashes: Collection[str]) -> dict[str, Definition]:
        """Definitions by hash; unknown ones are left out."""

    def snapshots(self, hashes: Collection[str]) -> dict[str, Snapshot]:
        """Snapshots by hash; unknown ones are left out."""

    def evidence(self, versions: Collection[str]) -> dict[str, list[Evidence]]:
        """All evidence per version id, newest first; versions without any map to an empty list."""

    def evidence_heads(self, versions: Collection[str]) -> dict[str, list[Evidence]]:
        """As `evidence`, in one query and perhaps without the results of what passed."""

    def holds(self, portfolio: str, stage: str, *, ended: bool = False) -> list[Hold]:
        """Active holds (with `ended`, also those that have ended), newest first."""

    def history(
        self, portfolio: str, stage: str, model: str | None = None, limit: int = 50, since: int = 0
    ) -> list[HistoryRow]:
        """Changes of one model or of all, newest first, from release `since` on."""

    def audit(self, portfolio: str, limit: int = 50) -> list[AuditRow]:
        """Acts, newest first."""

    def settings(self, portfolio: str) -> SettingsRevision | None:
        """The newest settings revision."""

    def settings_head(self, portfolio: str) -> SettingsRevision | None:
        """As `settings`; its body may be parsed only when it is looked into."""

    def applies(
        self, portfolio: str, stage: str, status: str | None = None, limit: int | None = None
    ) -> list[ApplyRecord]:
        """Runs of the applier, newest first; all of them without `limit`."""

    def before(self, portfolio: str, stage: str, live: Mapping[str, str]) -> dict[str, str | None]:
        """The version that each model had before the newest change, no rollback, that made it what `live` says.

        None for a model that was new then; models without such a change are left out.
        """

    def leases(self, portfolio: str, stage: str, now: str) -> list[Lease]:
        """Leases that have not expired at `now`."""

    def clients(self, portfolio: str) -> list[ClientRecord]:
        """All clients with their keys, revoked ones too, by name."""

    def published(self, portfolio: str) -> dict[str, Publication]:
        """The newest publication of each model that has any, in one query."""

    def publications(self, portfolio: str, model: str, limit: int = 50) -> list[Publication]:
        """What was published for a model, newest first."""


class Registry(RegistryReader, Protocol):
    """The whole registry."""

    def put_definitions(self, definitions: Sequence[Definition]) -> None:
        """Record definitions; those already there are left as they are."""

    def put_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Record snapshots; those already there are left as they are."""

    def register(self, version: Version, *, sibling: bool = False) -> Version:
        """Record a version; the first of a (portfolio, definition, snapshot) wins and is returned.

        With `sibling`, a deliberate rebuild is recorded beside it under the next sibling number.
        """

    def add_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Append gate evidence."""

    def acquire(
        self, portfolio: str, stage: str, models: Collection[str], *, holder: str, now: str, expires: str
    ) -> Lease:
        """Take the lease on all of `models`, or none. Raises LeaseHeldError naming the holder.

        Leases of the same `holder` prefix are not shared: each call is its own lease with its own fence.
        """

    def renew(self, lease: Lease, *, now: str, expires: str) -> Lease:
        """Extend a lease. Raises ConflictError when it was lost meanwhile."""

    def free(self, lease: Lease) -> None:
        """Give a lease back; harmless when it is already lost."""

    def begin_apply(self, record: ApplyRecord) -> None:
        """Record that an apply runs."""

    def end_apply(self, apply_id: str, *, status: str, now: str, summary: Mapping[str, Json]) -> None:
        """Record how an apply ended."""

    def land(self, landing: Landing) -> Release:
        """Make the next release from the patch, point the stage at it, write history, holds and audit, all in one.

        Raises ConflictError (naming the models) when `expected` no longer holds or the lease's fence is stale.
        """

    def hold(self, holds: Sequence[Hold]) -> None:
        """Record holds outside a landing; an active hold on the same (model, definition, snapshot) is replaced."""

    def end_holds(self, ids: Collection[int], *, why: str, who: str, now: str) -> None:
        """End holds, with an audit row each."""

    def put_settings(
        self, portfolio: str, body: Mapping[str, Json], *, expected: int, why: str, who: str, now: str
    ) -> SettingsRevision:
        """Write the next settings revision if `expected` (0 for none) is still the newest, else ConflictError."""

    def record(self, portfolio: str, row: AuditRow) -> None:
        """Append an audit row."""

    def put_client(
        self, portfolio: str, client: ClientRecord, *, expected: ClientRecord | None, audit: AuditRow
    ) -> None:
        """Record a client if it still is `expected` (None: there is none), with the act, else ConflictError."""

    def publish(self, portfolio: str, publication: Publication, *, audit: AuditRow) -> bool:
        """Record a publication with the act; False, and nothing, if the model's newest one says the same."""


class Artifacts(Protocol):
    """Bytes by their SHA-256. What was put is never changed."""

    def put(self, data: bytes) -> str:
        """Store bytes, return their digest; storing them again is free. Raises StateUnavailableError."""

    def put_file(self, path: Path) -> str:
        """Store a file's bytes, return their digest."""

    def get(self, digest: str) -> bytes:
        """The bytes, verified. Raises CorruptArtifactError when they are gone or differ."""

    def local(self, digest: str) -> Path:
        """A verified local file with these bytes (fetched if the store is remote). Raises CorruptArtifactError."""

    def has(self, digest: str) -> bool:
        """Whether something is stored under that digest (not verified)."""
