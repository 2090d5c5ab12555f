"""A registry in memory for tests and dry runs: the same rules and refusals as the SQL one, kept by one process.

It passes the same contract suite (tests/contracts/registry.py). Values go through JSON as they would in a database.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from retinue.core.access import ClientRecord
from retinue.core.errors import ConflictError
from retinue.core.identity import digest
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
from retinue.store import registry_landing as rules
from retinue.store import registry_rows as rows
from retinue.store.base import Pair
from retinue.store.fake_publications import MemoryPublications

Place = tuple[str, str]
"""(portfolio, stage)"""


@dataclass(slots=True)
class _Stage:
    releases: list[Release] = field(default_factory=list)
    changes: list[HistoryRow] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)  # model → the lease it is under
    holds: list[Hold] = field(default_factory=list)
    fence: int = 0


class MemoryRegistry(MemoryPublications):
    """Implements `store.base.Registry` in memory."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stages: dict[Place, _Stage] = {}
        self._definitions: dict[str, Definition] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._versions: list[Version] = []
        self._evidence: list[Evidence] = []
        self._applies: dict[str, ApplyRecord] = {}
        self._settings: dict[str, list[SettingsRevision]] = {}
        self._audit: list[tuple[str, AuditRow]] = []
        self._clients: dict[tuple[str, str], str] = {}  # (portfolio, name) → body
        super().__init__()
        self._last_hold = 0

    def close(self) -> None:
        """Nothing to close."""

    def _stage(self, portfolio: str, stage: str) -> _Stage:
        return self._stages.setdefault((portfolio, stage), _Stage())

    # Reading

    def stages(self, portfolio: str) -> dict[str, int]:
        """Each stage that has a release, with its current number."""
        with self._lock:
            found = {stage: kept for (owner, stage), kept in self._stages.items() if owner == portfolio}
            return {stage: len(kept.releases) for stage, kept in sorted(found.items()) if kept.releases}

    def current(self, portfolio: str, stage: str) -> Release | None:
        """The release the stage points at."""
        with self._lock:
            found = self._stage(portfolio, stage).releases
            return found[-1] if found else None

    def release(self, portfolio: str, stage: str, number: int) -> Release:
        """That release. Raises StateError when there is none of that number."""
        with self._lock:
            found = self._stage(portfolio, stage).releases
            if not 1 <= number <= len(found):
                raise rules.no_release(portfolio, stage, number)
            return found[number - 1]

    def releases(self, portfolio: str, stage: str, limit: int = 50, *, heads: bool = False) -> list[Release]:
        """The newest first; with `heads`, without their models and endpoints."""
        with self._lock:
            found = self._stage(portfolio, stage).releases[::-1][:limit]
            return [replace(made, models={}, endpoints={}) for made in found] if heads else found

    def release_at(self, portfolio: str, stage: str, moment: str) -> Release | None:
        """The release that was current at that moment: the newest that had landed by then."""
        with self._lock:
            landed = (made for made in reversed(self._stage(portfolio, stage).releases) if made.created <= moment)
            return next(landed, None)

    def versions(self, ids: Collection[str]) -> dict[str, Version]:
        """Versions by id; unknown ids are left out. Built the same in two portfolios: the one registered first."""
        with self._lock:
            return rows.first_by([version for version in self._versions if version.id in ids], "id")

    def versions_of_pairs(self, portfolio: str, pairs: Collection[Pair]) -> dict[Pair, Version]:
        """The version of each (definition, snapshot) that has one: the first registered, or its newest sibling."""
        with self._lock:
            wanted = set(pairs)
            mine = [version for version in self._versions if version.portfolio == portfolio]
            return {_pair(version): version for version in mine if _pair(version) in wanted}

    def versions_of_definitions(self, portfolio: str, definitions: Collection[str]) -> dict[str, list[Version]]:
        """All versions of each definition that has any, newest first."""
        with self._lock:
            found: dict[str, list[Version]] = {}
            for version in sorted(self._versions, key=lambda v: (v.created, v.sibling), reverse=True):
                if version.portfolio == portfolio and version.definition in set(definitions):
                    found.setdefault(version.definition, []).append(version)
            return found

    def versions_of_model(self, portfolio: str, model: str) -> list[Version]:
        """All versions of a model, newest first."""
        with self._lock:
            return [v for v in reversed(self._versions) if (v.portfolio, v.model) == (portfolio, model)]

    def definitions(self, hashes: Collection[str]) -> dict[str, Definition]:
        """Definitions by hash; unknown ones are left out."""
        with self._lock:
            return {key: self._definitions[key] for key in hashes if key in self._definitions}

    def snapshots(self, hashes: Collection[str]) -> dict[str, Snapshot]:
        """Snapshots by hash; unknown ones are left out."""
        with self._lock:
            return {key: self._snapshots[key] for key in hashes if key in self._snapshots}

    def evidence(self, versions: Collection[str]) -> dict[str, list[Evidence]]:
        """All evidence per version id, newest first; versions without any map to an empty list."""
        with self._lock:
            found: dict[str, list[Evidence]] = {version: [] for version in versions}
            for value in reversed(self._evidence):
                if value.version in found:
                    found[value.version].append(value)
            return found

    def holds(self, portfolio: str, stage: str, *, ended: bool = False) -> list[Hold]:
        """Active holds (with `ended`, also those that have ended), newest first."""
        with self._lock:
            found = self._stage(portfolio, stage).holds
            return [hold for hold in reversed(found) if ended or hold.ended is None]

    def history(
        self, portfolio: str, stage: str, model: str | None = None, limit: int = 50, since: int = 0
    ) -> list[HistoryRow]:
        """Changes of one model or of all, newest first, from release `since` on."""
        with self._lock:
            rows = self._stage(portfolio, stage).changes
            found = [row for row in rows if row.release >= since and model in (None, row.model)]
            return sorted(found, key=lambda row: (-row.release, row.model))[:limit]

    def audit(self, portfolio: str, limit: int = 50) -> list[AuditRow]:
        """Acts, newest first."""
        with self._lock:
            return [row for owner, row in reversed(self._audit) if owner == portfolio][:limit]

    def settings(self, portfolio: str) -> SettingsRevision | None:
        """The newest settings revision."""
        with self._lock:
            found = self._settings.get(portfolio)
            return found[-1] if found else None

    evidence_heads = evidence
    settings_head = settings

    def before(self, portfolio: str, stage: str, live: Mapping[str, str]) -> dict[str, str | None]:
        """The version that each model had before the newest change, no rollback, that made it what `live` says."""
        with self._lock:
            rows = sorted(self._stage(portfolio, stage).changes, key=lambda row: row.release)
            return {row.model: row.old for row in rows if row.cause != "rollback" and live.get(row.model) == row.new}

    def mark(self, portfolio: str) -> str:
        """A digest that differs when anything differs that a plan reads of this portfolio."""
        with self._lock:
            places = sorted(place for place in self._stages if place[0] == portfolio)
            stages = [[place, self._stages[place].releases[-1:], self.holds(*place)] for place in places]
            versions = [version for version in self._versions if version.portfolio == portfolio]
            return digest(repr([stages, self._settings.get(portfolio, [])[-1:], versions, self._evidence]))

    def applies(
        self, portfolio: str, stage: str, status: str | None = None, limit: int | None = None
    ) -> list[ApplyRecord]:
        """Runs of the applier, newest first; all of them without `limit`."""
        with self._lock:
            mine = [made for made in self._applies.values() if (made.portfolio, made.stage) == (portfolio, stage)]
            return [made for made in reversed(mine) if status is None or made.status == status][:limit]

    def leases(self, portfolio: str, stage: str, now: str) -> list[Lease]:
        """Leases that have not expired at `now`, in the order they were taken."""
        with self._lock:
            held: dict[int, list[str]] = {}
            taken = self._stage(portfolio, stage).leases
            for model, lease in sorted(taken.items(), key=lambda item: (item[1].fence, item[0])):
                if lease.expires > now:
                    held.setdefault(lease.fence, []).append(model)
            return [replace(taken[models[0]], models=tuple(models)) for models in held.values()]

    # Writing

    def put_definitions(self, definitions: Sequence[Definition]) -> None:
        """Record definitions; those already there are left as they are."""
        kept = [rows.definition_of(rows.definition_row(value)) for value in definitions]
        with self._lock:
            for value in kept:
                self._definitions.setdefault(value.hash, value)

    def put_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Record snapshots; those already there are left as they are."""
        kept = [rows.snapshot_of(rows.snapshot_row(value)) for value in snapshots]
        with self._lock:
            for value in kept:
                self._snapshots.setdefault(value.hash, value)

    def register(self, version: Version, *, sibling: bool = False) -> Version:
        """As `Registry.register`."""
        with self._lock:
            if version.definition not in self._definitions:
                raise rules.not_recorded("definition", version.definition, version)
            if version.snapshot not in self._snapshots:
                raise rules.not_recorded("snapshot", version.snapshot, version)
            mine = [other for other in self._versions if other.portfolio == version.portfolio]
            there = [other for other in mine if _pair(other) == _pair(version)]
            if there and not sibling:
                return there[0]
            for other in mine:
                if other.id == version.id:
                    return rules.same_build(other, version)
            kept = replace(version, sibling=there[-1].sibling + 1 if there else 0)
            self._versions.append(rows.version_of(rows.version_row(kept)))
            return kept

    def add_evidence(self, evidence: Sequence[Evidence]) -> None:
        """As `Registry.add_evidence`."""
        kept = [rows.evidence_of(rows.evidence_row(value)) for value in evidence]
        with self._lock:
            self._check_versions({value.version for value in kept}, self._versions)
            self._evidence += kept

    def acquire(
        self, portfolio: str, stage: str, models: Collection[str], *, holder: str, now: str, expires: str
    ) -> Lease:
        """As `Registry.acquire`."""
        with self._lock:
            kept = self._stage(portfolio, stage)
            wanted = tuple(sorted(set(models)))
            held = {model: kept.leases[model] for model in wanted if model in kept.leases}
            live = {model: lease for model, lease in held.items() if lease.expires > now}
            if live:
                raise rules.lease_held({m: {"holder": x.holder, "expires": x.expires} for m, x in live.items()})
            kept.fence += 1
            lease = Lease(portfolio, stage, wanted, holder, kept.fence, expires)
            kept.leases.update(dict.fromkeys(wanted, lease))
            return lease

    def renew(self, lease: Lease, *, now: str, expires: str) -> Lease:
        """As `Registry.renew`."""
        with self._lock:
            fences = self._fences(lease.portfolio, lease.stage)
            lost = [model for model in lease.models if fences.get(model) != lease.fence]
            if lost:
                raise rules.lease_lost(lease, lost)
            renewed = replace(lease, expires=expires)
            self._stage(lease.portfolio, lease.stage).leases.update(dict.fromkeys(lease.models, renewed))
            return renewed

    def free(self, lease: Lease) -> None:
        """As `Registry.free`."""
        with self._lock:
            kept = self._stage(lease.portfolio, lease.stage)
            kept.leases = {model: other for model, other in kept.leases.items() if other.fence != lease.fence}

    def begin_apply(self, record: ApplyRecord) -> None:
        """As `Registry.begin_apply`."""
        kept = rows.apply_of(rows.apply_row(record))
        with self._lock:
            if record.id in self._applies:
                raise ConflictError(f"apply {record.id} is already recorded")
            self._applies[record.id] = kept

    def end_apply(self, apply_id: str, *, status: str, now: str, summary: Mapping[str, Json]) -> None:
        """As `Registry.end_apply`."""
        with self._lock:
            there = self._applies.get(apply_id)
            if there is None or there.status != "running":
                raise rules.cannot_end(apply_id, there.status if there else None)
            kept = rows.unpack(rows.pack(summary))
            self._applies[apply_id] = replace(there, status=status, ended=now, summary=kept)

    def land(self, landing: Landing) -> Release:
        """As `Registry.land`."""
        with self._lock:
            kept = self._stage(landing.portfolio, landing.stage)
            current = kept.releases[-1] if kept.releases else None
            rules.check_landing(landing, current, self._fences(landing.portfolio, landing.stage))
            release = rules.next_release(landing, current)
            _, body = rows.pack_map(release.models, release.endpoints)
            models, endpoints = rows.unpack_map(body)
            release = replace(release, models=models, endpoints=endpoints)
            changes = rules.version_changes(release, current)
            mine = [version for version in self._versions if version.portfolio == landing.portfolio]
            self._check_versions({new for _, _, new in changes if new}, mine)
            told = (release.cause, release.why, release.who, release.created)
            kept.releases.append(release)
            kept.changes += [HistoryRow(release.number, model, old, new, *told) for model, old, new in changes]
            self.hold(rules.landed_holds(landing, release.number))
            self.record(landing.portfolio, rules.landing_audit(landing, release, len(changes)))
            return release

    def hold(self, holds: Sequence[Hold]) -> None:
        """As `Registry.hold`."""
        with self._lock:
            for hold in holds:
                kept = self._stage(hold.portfolio, hold.stage)
                for index, other in enumerate(kept.holds):
                    if other.ended is None and _held(other) == _held(hold):
                        kept.holds[index] = replace(other, ended=hold.created, ended_why=rules.REPLACED)
                self._last_hold += 1
                kept.holds.append(replace(hold, id=self._last_hold))

    def end_holds(self, ids: Collection[int], *, why: str, who: str, now: str) -> None:
        """As `Registry.end_holds`."""
        with self._lock:
            unknown = {number for number in ids if not 1 <= number <= self._last_hold}
            if unknown:
                raise rules.no_hold(unknown)
            for kept in self._stages.values():
                for index, hold in enumerate(kept.holds):
                    if hold.id in ids and hold.ended is None:
                        kept.holds[index] = replace(hold, ended=now, ended_why=why)
                        self.record(hold.portfolio, rules.unhold_audit(hold, why=why, who=who, now=now))

    def put_settings(
        self, portfolio: str, body: Mapping[str, Json], *, expected: int, why: str, who: str, now: str
    ) -> SettingsRevision:
        """As `Registry.put_settings`."""
        with self._lock:
            line = self._settings.setdefault(portfolio, [])
            if len(line) != expected:
                raise rules.settings_moved(expected, len(line))
            revision = SettingsRevision(expected + 1, rows.unpack(rows.pack(body)), now)
            line.append(revision)
            self.record(portfolio, rules.settings_audit(revision, why=why, who=who))
            return revision

    def clients(self, portfolio: str) -> list[ClientRecord]:
        """All clients with their keys, revoked ones too, by name."""
        with self._lock:
            mine = sorted((name, body) for (owner, name), body in self._clients.items() if owner == portfolio)
            return [rows.client_of({"body": body}) for _, body in mine]

    def put_client(
        self, portfolio: str, client: ClientRecord, *, expected: ClientRecord | None, audit: AuditRow
    ) -> None:
        """As `Registry.put_client`."""
        with self._lock:
            found = self._clients.get((portfolio, client.name))
            if found != (rows.client_body(expected) if expected is not None else None):
                raise rules.client_moved(client.name)
            self._clients[portfolio, client.name] = rows.client_body(client)
            self.record(portfolio, audit)

    def record(self, portfolio: str, row: AuditRow) -> None:
        """Append an audit row."""
        with self._lock:
            self._audit.append((portfolio, row))

    def _fences(self, portfolio: str, stage: str) -> dict[str, int]:
        return {model: lease.fence for model, lease in self._stage(portfolio, stage).leases.items()}

    @staticmethod
    def _check_versions(ids: set[str], known: Iterable[Version]) -> None:
        missing = ids - {version.id for version in known}
        if missing:
            raise rules.unregistered(missing)


def _pair(version: Version) -> Pair:
    return version.definition, version.snapshot


def _held(hold: Hold) -> tuple[str, str, str]:
    return hold.model, hold.definition, hold.snapshot
