"""The registry in a SQL database: every writing method is one transaction.

Rows are only added. What is updated in place: a stage's pointer and fence, leases, an apply's end, a hold's end.
Moments are passed in; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from retinue.core.access import ClientRecord
from retinue.core.publication import Publication
from retinue.core.state import (
    ApplyRecord,
    AuditRow,
    Definition,
    Evidence,
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
from retinue.store import tables as t
from retinue.store.registry_read import SqlReader, read_current


class SqlRegistry(SqlReader):
    """Implements `store.base.Registry` on any database of SQLAlchemy's that SQLite or PostgreSQL SQL suits.

    `url` is SQLAlchemy's, `patience` the seconds to wait for a locked database. Opening creates or upgrades the
    schema. Raises StateUnavailableError when it cannot be opened, StateError when it is newer or not Retinue's.
    """

    def put_definitions(self, definitions: Sequence[Definition]) -> None:
        """Record definitions; those already there are left as they are."""
        with self._writing() as connection:
            _add_missing(connection, t.definitions, [rows.definition_row(value) for value in definitions])

    def put_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Record snapshots; those already there are left as they are."""
        with self._writing() as connection:
            _add_missing(connection, t.snapshots, [rows.snapshot_row(value) for value in snapshots])

    def register(self, version: Version, *, sibling: bool = False) -> Version:
        """Record a version; the first of a (portfolio, definition, snapshot) wins and is returned.

        With `sibling`, a deliberate rebuild is recorded beside it under the next sibling number; one whose manifest
        is already recorded is returned as it is. Raises StateError when definition or snapshot are not recorded.
        """
        v = t.versions.c
        with self._writing() as connection:
            for table, key in ((t.definitions, version.definition), (t.snapshots, version.snapshot)):
                if connection.execute(select(table.c.hash).where(table.c.hash == key)).first() is None:
                    raise rules.not_recorded(table.name[:-1], key, version)
            query = select(t.versions).where(
                v.portfolio == version.portfolio, v.definition == version.definition, v.snapshot == version.snapshot
            )
            there = [rows.version_of(dict(row)) for row in connection.execute(query.order_by(v.sibling)).mappings()]
            if there and not sibling:
                return there[0]
            same = select(t.versions).where(v.portfolio == version.portfolio, v.id == version.id)
            twin = connection.execute(same).mappings().first()
            if twin:
                return rules.same_build(rows.version_of(dict(twin)), version)
            added = replace(version, sibling=there[-1].sibling + 1 if there else 0)
            connection.execute(insert(t.versions), rows.version_row(added))
            return added

    def add_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Append gate evidence. Raises StateError for a version that is not registered."""
        with self._writing() as connection:
            _check_versions(connection, {value.version for value in evidence})
            if evidence:
                connection.execute(insert(t.evidence), [rows.evidence_row(value) for value in evidence])

    def acquire(
        self, portfolio: str, stage: str, models: Collection[str], *, holder: str, now: str, expires: str
    ) -> Lease:
        """Take the lease on all of `models`, or none. Raises LeaseHeldError naming the holder."""
        wanted = tuple(sorted(set(models)))
        with self._writing() as connection:
            fence = _lock_stage(connection, portfolio, stage) + 1
            there = _leases_on(connection, portfolio, stage, wanted)
            held = {row["model"]: row for row in there if row["expires"] > now}
            if held:
                raise rules.lease_held(held)
            _drop_leases(connection, portfolio, stage, wanted)
            _update_stage(connection, portfolio, stage, {"fence": fence})
            lease = Lease(portfolio, stage, wanted, holder, fence, expires)
            if wanted:
                connection.execute(insert(t.leases), _lease_rows(lease))
            return lease

    def renew(self, lease: Lease, *, now: str, expires: str) -> Lease:
        """Extend a lease, also an expired one that nobody took over. Raises ConflictError when it was lost."""
        with self._writing() as connection:
            _lock_stage(connection, lease.portfolio, lease.stage)
            fences = _fences(connection, lease.portfolio, lease.stage, lease.models)
            lost = [model for model in lease.models if fences.get(model) != lease.fence]
            if lost:
                raise rules.lease_lost(lease, lost)
            renewed = update(t.leases).where(_of_lease(lease)).values(expires=expires)
            connection.execute(renewed)
            return replace(lease, expires=expires)

    def free(self, lease: Lease) -> None:
        """Give a lease back; harmless when it is already lost."""
        with self._writing() as connection:
            connection.execute(delete(t.leases).where(_of_lease(lease)))

    def begin_apply(self, record: ApplyRecord) -> None:
        """Record that an apply runs. Raises ConflictError when one of that id is recorded."""
        with self._writing() as connection:
            connection.execute(insert(t.applies), rows.apply_row(record))

    def end_apply(self, apply_id: str, *, status: str, now: str, summary: Mapping[str, Json]) -> None:
        """Record how an apply ended. Raises StateError for an unknown one, ConflictError when it has ended."""
        with self._writing() as connection:
            running = and_(t.applies.c.id == apply_id, t.applies.c.status == "running")
            ended = update(t.applies).where(running).values(status=status, ended=now, summary=rows.pack(summary))
            if connection.execute(ended).rowcount:
                return
            old = connection.execute(select(t.applies.c.status).where(t.applies.c.id == apply_id)).scalar()
            raise rules.cannot_end(apply_id, old)

    def land(self, landing: Landing) -> Release:
        """Make the next release from the patch, point the stage at it, write history, holds and audit, all in one.

        Without a lease only `expected` is compared: an urgent rollback goes ahead of a running apply, whose own
        landing on those models then conflicts. Raises ConflictError (naming the models) when `expected` no longer
        holds or the lease's fence is stale; StateError when nothing would change, a version is not registered, or
        a removed model is still an endpoint's plain `select` or `fallback`.
        """
        portfolio, stage = landing.portfolio, landing.stage
        with self._writing() as connection:
            _lock_stage(connection, portfolio, stage)
            current = read_current(connection, portfolio, stage)
            fences = _fences(connection, portfolio, stage, landing.expected) if landing.lease else {}
            rules.check_landing(landing, current, fences)
            release = rules.next_release(landing, current)
            changes = rules.version_changes(release, current)
            _check_versions(connection, {new for _, _, new in changes if new}, portfolio)
            _write_release(connection, release, changes)
            _write_holds(connection, rules.landed_holds(landing, release.number))
            audit = rules.landing_audit(landing, release, len(changes))
            connection.execute(insert(t.audit), rows.audit_row(portfolio, audit))
            return release

    def hold(self, holds: Sequence[Hold]) -> None:
        """Record holds outside a landing; an active hold on the same (model, definition, snapshot) is replaced."""
        with self._writing() as connection:
            _write_holds(connection, holds)

    def end_holds(self, ids: Collection[int], *, why: str, who: str, now: str) -> None:
        """End holds, with an audit row each; ended ones stay as they are. Raises StateError for unknown ids."""
        with self._writing() as connection:
            found: list[Hold] = []
            for chunk in rows.chunks(ids):
                query = select(t.holds).where(t.holds.c.seq.in_(chunk)).order_by(t.holds.c.seq)
                found += [rows.hold_of(dict(row)) for row in connection.execute(query).mappings()]
            unknown = set(ids) - {hold.id for hold in found}
            if unknown:
                raise rules.no_hold(unknown)
            for hold in found:
                if hold.ended is None:
                    ended = update(t.holds).where(t.holds.c.seq == hold.id).values(ended=now, ended_why=why)
                    connection.execute(ended)
                    row = rows.audit_row(hold.portfolio, rules.unhold_audit(hold, why=why, who=who, now=now))
                    connection.execute(insert(t.audit), row)

    def put_settings(
        self, portfolio: str, body: Mapping[str, Json], *, expected: int, why: str, who: str, now: str
    ) -> SettingsRevision:
        """Write the next settings revision if `expected` (0 for none) is still the newest, else ConflictError."""
        with self._writing() as connection:
            newest = select(t.settings.c.revision).where(t.settings.c.portfolio == portfolio)
            actual = connection.execute(newest.order_by(t.settings.c.revision.desc()).limit(1)).scalar() or 0
            if actual != expected:
                raise rules.settings_moved(expected, actual)
            packed = rows.pack(body)
            row = {"portfolio": portfolio, "revision": expected + 1, "body": packed}
            connection.execute(insert(t.settings), {**row, "why": why, "who": who, "created": now})
            revision = SettingsRevision(expected + 1, rows.unpack(packed), now)
            audit = rules.settings_audit(revision, why=why, who=who)
            connection.execute(insert(t.audit), rows.audit_row(portfolio, audit))
            return revision

    def record(self, portfolio: str, row: AuditRow) -> None:
        """Append an audit row."""
        with self._writing() as connection:
            connection.execute(insert(t.audit), rows.audit_row(portfolio, row))

    def put_client(
        self, portfolio: str, client: ClientRecord, *, expected: ClientRecord | None, audit: AuditRow
    ) -> None:
        """Record a client if it still is `expected` (None: there is none), with the act, else ConflictError."""
        here = and_(t.clients.c.portfolio == portfolio, t.clients.c.name == client.name)
        with self._writing() as connection:
            # The row is locked until the transaction ends (SQLite locks the database anyway).
            found = connection.execute(select(t.clients.c.body).where(here).with_for_update()).scalar()
            if found != (rows.client_body(expected) if expected is not None else None):
                raise rules.client_moved(client.name)
            body = rows.client_body(client)
            if found is None:
                connection.execute(insert(t.clients), {"portfolio": portfolio, "name": client.name, "body": body})
            else:
                connection.execute(update(t.clients).where(here).values(body=body))
            connection.execute(insert(t.audit), rows.audit_row(portfolio, audit))

    def publish(self, portfolio: str, publication: Publication, *, audit: AuditRow) -> bool:
        """Record a publication with the act; False, and nothing, if the model's newest one says the same."""
        c = t.publications.c
        newest = select(t.publications).where(c.portfolio == portfolio, c.model == publication.model)
        with self._writing() as connection:
            row = connection.execute(newest.order_by(c.seq.desc()).limit(1)).mappings().first()
            if row is not None and rows.publication_of(dict(row)).says() == publication.says():
                return False
            connection.execute(insert(t.publications), rows.publication_row(portfolio, publication))
            connection.execute(insert(t.audit), rows.audit_row(portfolio, audit))
            return True


def _add_missing(connection: Connection, table: Table, values: list[dict[str, Any]]) -> None:
    """Insert rows whose primary key is not there yet."""
    if not values:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(table).on_conflict_do_nothing(), values)
    else:
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), values)


def _check_versions(connection: Connection, ids: set[str], portfolio: str | None = None) -> None:
    known: set[str] = set()
    for chunk in rows.chunks(sorted(ids)):
        query = select(t.versions.c.id).where(t.versions.c.id.in_(chunk))
        if portfolio is not None:
            query = query.where(t.versions.c.portfolio == portfolio)
        known.update(connection.execute(query).scalars())
    if ids - known:
        raise rules.unregistered(ids - known)


def _lock_stage(connection: Connection, portfolio: str, stage: str) -> int:
    """The stage's fence, with its row locked until the transaction ends (SQLite locks the database anyway)."""
    _add_missing(connection, t.stages, [{"portfolio": portfolio, "stage": stage, "number": None, "fence": 0}])
    row = select(t.stages.c.fence).where(t.stages.c.portfolio == portfolio, t.stages.c.stage == stage)
    return int(connection.execute(row.with_for_update()).scalar_one())


def _update_stage(connection: Connection, portfolio: str, stage: str, values: Mapping[str, int]) -> None:
    here = and_(t.stages.c.portfolio == portfolio, t.stages.c.stage == stage)
    connection.execute(update(t.stages).where(here).values(**values))


def _leases_on(connection: Connection, portfolio: str, stage: str, models: Collection[str]) -> list[rows.Row]:
    c = t.leases.c
    query = select(t.leases).where(c.portfolio == portfolio, c.stage == stage)
    return [
        dict(row)
        for chunk in rows.chunks(models)
        for row in connection.execute(query.where(c.model.in_(chunk))).mappings()
    ]


def _drop_leases(connection: Connection, portfolio: str, stage: str, models: Collection[str]) -> None:
    c = t.leases.c
    for chunk in rows.chunks(models):
        here = and_(c.portfolio == portfolio, c.stage == stage, c.model.in_(chunk))
        connection.execute(delete(t.leases).where(here))


def _fences(connection: Connection, portfolio: str, stage: str, models: Collection[str]) -> dict[str, int]:
    return {row["model"]: row["fence"] for row in _leases_on(connection, portfolio, stage, models)}


def _of_lease(lease: Lease) -> Any:
    c = t.leases.c
    return and_(c.portfolio == lease.portfolio, c.stage == lease.stage, c.fence == lease.fence)


def _lease_rows(lease: Lease) -> list[dict[str, Any]]:
    common = {"portfolio": lease.portfolio, "stage": lease.stage, "holder": lease.holder}
    return [{**common, "model": model, "fence": lease.fence, "expires": lease.expires} for model in lease.models]


def _write_release(
    connection: Connection, release: Release, changes: Sequence[tuple[str, str | None, str | None]]
) -> None:
    digest, body = rows.pack_map(release.models, release.endpoints)
    _add_missing(connection, t.release_maps, [{"digest": digest, "body": body}])
    connection.execute(insert(t.releases), rows.release_row(release, digest))
    place = {"portfolio": release.portfolio, "stage": release.stage}
    if changes:
        values = [{**place, "release": release.number, "model": m, "old": old, "new": new} for m, old, new in changes]
        connection.execute(insert(t.changes), values)
    _update_stage(connection, release.portfolio, release.stage, {"number": release.number})


def _write_holds(connection: Connection, holds: Sequence[Hold]) -> None:
    c = t.holds.c
    for hold in holds:
        same = and_(
            c.portfolio == hold.portfolio,
            c.stage == hold.stage,
            c.model == hold.model,
            c.definition == hold.definition,
            c.snapshot == hold.snapshot,
            c.ended.is_(None),
        )
        connection.execute(update(t.holds).where(same).values(ended=hold.created, ended_why=rules.REPLACED))
        connection.execute(insert(t.holds), rows.hold_row(hold))
