"""The half of the SQL registry that only reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, text, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal

from retinue.core.access import ClientRecord
from retinue.core.publication import Publication
from retinue.core.state import (
    ApplyRecord,
    AuditRow,
    Definition,
    Evidence,
    HistoryRow,
    Hold,
    Lease,
    Release,
    SettingsRevision,
    Snapshot,
    Version,
)
from retinue.store import registry_landing as rules
from retinue.store import registry_rows as rows
from retinue.store import tables as t
from retinue.store.base import Pair
from retinue.store.registry_errors import guard
from retinue.store.registry_heads import LateJson, read_before, read_evidence
from retinue.store.registry_mark import mark_of
from retinue.store.registry_open import WRITES, display, open_engine, parse_url


class bytewise(ColumnElement[str]):
    """Orders text by its bytes in every database: PostgreSQL would use the language of its own setting."""

    inherit_cache = True
    _traverse_internals = (("column", InternalTraversal.dp_clauseelement),)  # type: ignore[assignment]  # as named there

    def __init__(self, column: ColumnElement[str]) -> None:
        self.column = column


@compiles(bytewise)
def _as_it_is(element: bytewise, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.column, **options))


@compiles(bytewise, "postgresql")
def _collated(element: bytewise, compiler: Any, **options: Any) -> str:
    return f'{compiler.process(element.column, **options)} COLLATE "C"'


def current_number(portfolio: str, stage: str) -> Select[Any]:
    """The number the stage points at, as a subquery."""
    return select(t.stages.c.number).where(t.stages.c.portfolio == portfolio, t.stages.c.stage == stage)


def release_select(portfolio: str, stage: str) -> Select[Any]:
    """Releases of a stage with their maps."""
    return (
        select(t.releases, t.release_maps.c.body)
        .join(t.release_maps, t.release_maps.c.digest == t.releases.c.map)
        .where(t.releases.c.portfolio == portfolio, t.releases.c.stage == stage)
    )


def read_current(connection: Connection, portfolio: str, stage: str) -> Release | None:
    """The release the stage points at: one query, one parse."""
    number = current_number(portfolio, stage).scalar_subquery()
    query = release_select(portfolio, stage).where(t.releases.c.number == number)
    row = connection.execute(query).mappings().first()
    return rows.release_of(dict(row)) if row else None


class SqlReader:
    """Implements `store.base.RegistryReader`. `patience`: seconds to wait for a locked database."""

    def __init__(self, url: str, *, patience: float = 30.0) -> None:
        parsed = parse_url(url)
        self.name = display(parsed)
        self.patience = patience
        self.engine = open_engine(parsed, patience)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with guard(self.name, self.patience), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            guard(self.name, self.patience),
            self.engine.connect().execution_options(**{WRITES: True}) as connection,
            connection.begin(),
        ):
            yield connection

    def _all(self, query: Select[Any]) -> list[rows.Row]:
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _by_chunks(self, query: Select[Any], column: ColumnElement[Any], values: Collection[Any]) -> list[rows.Row]:
        """Rows whose `column` is among the values; all chunks are read in one transaction."""
        with self._reading() as connection:
            return [
                dict(row)
                for chunk in rows.chunks(values)
                for row in connection.execute(query.where(column.in_(chunk))).mappings()
            ]

    def mark(self, portfolio: str) -> str:
        """A digest that differs when anything differs that a plan reads of this portfolio."""
        with self._reading() as connection:
            return mark_of(lambda query: connection.execute(text(query), {"portfolio": portfolio}).all())

    def stages(self, portfolio: str) -> dict[str, int]:
        """Each stage that has a release, with its current number."""
        query = select(t.stages).where(t.stages.c.portfolio == portfolio, t.stages.c.number.is_not(None))
        return {row["stage"]: row["number"] for row in self._all(query.order_by(bytewise(t.stages.c.stage)))}

    def current(self, portfolio: str, stage: str) -> Release | None:
        """The release the stage points at."""
        with self._reading() as connection:
            return read_current(connection, portfolio, stage)

    def release(self, portfolio: str, stage: str, number: int) -> Release:
        """That release. Raises StateError when there is none of that number."""
        found = self._all(release_select(portfolio, stage).where(t.releases.c.number == number))
        if not found:
            raise rules.no_release(portfolio, stage, number)
        return rows.release_of(found[0])

    def releases(self, portfolio: str, stage: str, limit: int = 50, *, heads: bool = False) -> list[Release]:
        """The newest first; with `heads`, without their models and endpoints."""
        r = t.releases.c
        bare = select(t.releases).where(r.portfolio == portfolio, r.stage == stage)
        query = (bare if heads else release_select(portfolio, stage)).order_by(r.number.desc()).limit(limit)
        return [rows.release_of(row) for row in self._all(query)]

    def release_at(self, portfolio: str, stage: str, moment: str) -> Release | None:
        """The release that was current at that moment: the newest that had landed by then."""
        query = release_select(portfolio, stage).where(t.releases.c.created <= moment)
        found = self._all(query.order_by(t.releases.c.number.desc()).limit(1))
        return rows.release_of(found[0]) if found else None

    def versions(self, ids: Collection[str]) -> dict[str, Version]:
        """Versions by id; unknown ids are left out. Built the same in two portfolios: the one registered first."""
        found = self._by_chunks(select(t.versions).order_by(t.versions.c.seq), t.versions.c.id, ids)
        return rows.first_by([rows.version_of(row) for row in found], "id")

    def versions_of_pairs(self, portfolio: str, pairs: Collection[Pair]) -> dict[Pair, Version]:
        """The version of each (definition, snapshot) that has one: the first registered, or its newest sibling."""
        query = select(t.versions).where(t.versions.c.portfolio == portfolio).order_by(t.versions.c.sibling)
        pair = tuple_(t.versions.c.definition, t.versions.c.snapshot)
        found = map(rows.version_of, self._by_chunks(query, pair, pairs))
        return {(version.definition, version.snapshot): version for version in found}  # later siblings overwrite

    def versions_of_definitions(self, portfolio: str, definitions: Collection[str]) -> dict[str, list[Version]]:
        """All versions of each definition that has any, newest first."""
        query = select(t.versions).where(t.versions.c.portfolio == portfolio)
        query = query.order_by(t.versions.c.created.desc(), t.versions.c.sibling.desc())
        found: dict[str, list[Version]] = {}
        for version in map(rows.version_of, self._by_chunks(query, t.versions.c.definition, definitions)):
            found.setdefault(version.definition, []).append(version)
        return found

    def versions_of_model(self, portfolio: str, model: str) -> list[Version]:
        """All versions of a model, newest first."""
        query = select(t.versions).where(t.versions.c.portfolio == portfolio, t.versions.c.model == model)
        return [rows.version_of(row) for row in self._all(query.order_by(t.versions.c.seq.desc()))]

    def definitions(self, hashes: Collection[str]) -> dict[str, Definition]:
        """Definitions by hash; unknown ones are left out."""
        found = self._by_chunks(select(t.definitions), t.definitions.c.hash, hashes)
        return {row["hash"]: rows.definition_of(row) for row in found}

    def snapshots(self, hashes: Collection[str]) -> dict[str, Snapshot]:
        """Snapshots by hash; unknown ones are left out."""
        found = self._by_chunks(select(t.snapshots), t.snapshots.c.hash, hashes)
        return {row["hash"]: rows.snapshot_of(row) for row in found}

    def evidence(self, versions: Collection[str]) -> dict[str, list[Evidence]]:
        """All evidence per version id, newest first; versions without any map to an empty list."""
        found: dict[str, list[Evidence]] = {version: [] for version in versions}
        query = select(t.evidence).order_by(t.evidence.c.seq.desc())
        for row in self._by_chunks(query, t.evidence.c.version, versions):
            found[row["version"]].append(rows.evidence_of(row))
        return found

    def evidence_heads(self, versions: Collection[str]) -> dict[str, list[Evidence]]:
        """As `evidence`, in one query, without the results of what passed."""
        with self._reading() as connection:
            return read_evidence(connection, versions)

    def holds(self, portfolio: str, stage: str, *, ended: bool = False) -> list[Hold]:
        """Active holds (with `ended`, also those that have ended), newest first."""
        query = select(t.holds).where(t.holds.c.portfolio == portfolio, t.holds.c.stage == stage)
        if not ended:
            query = query.where(t.holds.c.ended.is_(None))
        return [rows.hold_of(row) for row in self._all(query.order_by(t.holds.c.seq.desc()))]

    def history(
        self, portfolio: str, stage: str, model: str | None = None, limit: int = 50, since: int = 0
    ) -> list[HistoryRow]:
        """Changes of one model or of all, newest first, from release `since` on."""
        r, c = t.releases.c, t.changes.c
        same = and_(r.portfolio == c.portfolio, r.stage == c.stage, r.number == c.release)
        query = select(t.changes, r.cause, r.why, r.who, r.created).join(t.releases, same)
        query = query.where(c.portfolio == portfolio, c.stage == stage, c.release >= since)
        if model is not None:
            query = query.where(c.model == model)
        query = query.order_by(c.release.desc(), bytewise(c.model)).limit(limit)
        return [rows.history_of(row) for row in self._all(query)]

    def before(self, portfolio: str, stage: str, live: Mapping[str, str]) -> dict[str, str | None]:
        """The version that each model had before the newest change, no rollback, that made it what `live` says."""
        with self._reading() as connection:
            return read_before(connection, (portfolio, stage), live)

    def audit(self, portfolio: str, limit: int = 50) -> list[AuditRow]:
        """Acts, newest first."""
        query = select(t.audit).where(t.audit.c.portfolio == portfolio).order_by(t.audit.c.seq.desc()).limit(limit)
        return [rows.audit_of(row) for row in self._all(query)]

    def settings(self, portfolio: str) -> SettingsRevision | None:
        """The newest settings revision."""
        query = select(t.settings).where(t.settings.c.portfolio == portfolio)
        found = self._all(query.order_by(t.settings.c.revision.desc()).limit(1))
        return rows.settings_of(found[0]) if found else None

    def settings_head(self, portfolio: str) -> SettingsRevision | None:
        """As `settings`; its body is parsed when it is first looked into."""
        query = select(t.settings).where(t.settings.c.portfolio == portfolio)
        found = self._all(query.order_by(t.settings.c.revision.desc()).limit(1))
        if not found:
            return None
        return SettingsRevision(found[0]["revision"], LateJson(found[0]["body"]), found[0]["created"])

    def applies(
        self, portfolio: str, stage: str, status: str | None = None, limit: int | None = None
    ) -> list[ApplyRecord]:
        """Runs of the applier, newest first; all of them without `limit`."""
        query = select(t.applies).where(t.applies.c.portfolio == portfolio, t.applies.c.stage == stage)
        if status is not None:
            query = query.where(t.applies.c.status == status)
        return [rows.apply_of(row) for row in self._all(query.order_by(t.applies.c.seq.desc()).limit(limit))]

    def leases(self, portfolio: str, stage: str, now: str) -> list[Lease]:
        """Leases that have not expired at `now`, in the order they were taken."""
        c = t.leases.c
        query = select(t.leases).where(c.portfolio == portfolio, c.stage == stage, c.expires > now)
        held: dict[int, list[rows.Row]] = {}
        for row in self._all(query.order_by(c.fence, bytewise(c.model))):
            held.setdefault(row["fence"], []).append(row)
        return [
            Lease(
                portfolio=portfolio,
                stage=stage,
                models=tuple(row["model"] for row in group),
                holder=group[0]["holder"],
                fence=fence,
                expires=group[0]["expires"],
            )
            for fence, group in held.items()
        ]

    def clients(self, portfolio: str) -> list[ClientRecord]:
        """All clients with their keys, revoked ones too, by name."""
        query = select(t.clients).where(t.clients.c.portfolio == portfolio).order_by(bytewise(t.clients.c.name))
        return [rows.client_of(row) for row in self._all(query)]

    def published(self, portfolio: str) -> dict[str, Publication]:
        """The newest publication of each model that has any."""
        c = t.publications.c
        newest = select(func.max(c.seq)).where(c.portfolio == portfolio).group_by(c.model)
        query = select(t.publications).where(c.seq.in_(newest)).order_by(bytewise(c.model))
        return {row["model"]: rows.publication_of(row) for row in self._all(query)}

    def publications(self, portfolio: str, model: str, limit: int = 50) -> list[Publication]:
        """What was published for a model, newest first."""
        c = t.publications.c
        query = select(t.publications).where(c.portfolio == portfolio, c.model == model)
        return [rows.publication_of(row) for row in self._all(query.order_by(c.seq.desc()).limit(limit))]
