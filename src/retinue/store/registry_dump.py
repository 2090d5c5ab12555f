"""Every row of a registry as portable lines, and back: the same text whatever database it came from.

One line a row, in an order that keeps references whole: ["table", {column: value}]; bytes are base64.
Leases are left out: they belong to processes. An apply that is recorded as running is dumped as interrupted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, LargeBinary, Table, delete, func, insert, select, text

from retinue.core.errors import CorruptArtifactError, StateError
from retinue.core.identity import canonical
from retinue.core.state import Version
from retinue.store import registry_rows as rows
from retinue.store import tables as t
from retinue.store.registry_read import SqlReader

_BATCH = 500
_TABLES = tuple(table for table in t.metadata.sorted_tables if table is not t.leases)


class Dump:
    """Reads and writes all rows of an opened SQL registry."""

    def __init__(self, registry: SqlReader) -> None:
        self.registry = registry

    def all_versions(self) -> list[Version]:
        """Every version of every portfolio, the oldest first."""
        query = select(t.versions).order_by(t.versions.c.seq)
        return [rows.version_of(row) for row in self.registry._all(query)]

    def portfolios(self) -> dict[str, list[str]]:
        """Portfolio → its stages, of all that share the database; also those with holds or leases and no release."""
        places: set[tuple[str, str]] = set()
        for table in (t.stages, t.holds, t.leases):
            asked = select(table.c.portfolio, table.c.stage).distinct()
            places.update((row["portfolio"], row["stage"]) for row in self.registry._all(asked))
        found: dict[str, list[str]] = {}
        for portfolio, stage in sorted(places):
            found.setdefault(portfolio, []).append(stage)
        return found

    def published(self) -> set[str]:
        """Digests of the newest publication of every model of every portfolio: what their files wish."""
        c = t.publications.c
        newest = select(func.max(c.seq)).group_by(c.portfolio, c.model)
        return {row["digest"] for row in self.registry._all(select(c.digest).where(c.seq.in_(newest)))}

    def lines(self) -> Iterator[bytes]:
        """All rows as they are at one moment, a line each."""
        with self.registry._reading() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            for table in _TABLES:
                for row in connection.execute(select(table).order_by(*table.primary_key.columns)).mappings():
                    yield canonical([table.name, _plain(table, dict(row))]) + b"\n"

    def is_empty(self) -> bool:
        """Whether nothing is recorded at all."""
        with self.registry._reading() as connection:
            return all(connection.execute(select(table).limit(1)).first() is None for table in _TABLES)

    def load(self, lines: Iterable[bytes], *, replace: bool = False) -> int:
        """Record these rows, in one transaction; how many. With `replace`, what was recorded goes.

        Raises StateError when something is recorded already, CorruptArtifactError for lines that are no rows.
        """
        count = 0
        with self.registry._writing() as connection:
            for table in reversed(t.metadata.sorted_tables if replace else ()):
                connection.execute(delete(table))
            if any(connection.execute(select(table).limit(1)).first() is not None for table in _TABLES):
                raise StateError(
                    f"the state database {self.registry.name} is not empty",
                    hint="Restore into an empty one, or replace all that it holds with --force.",
                )
            for table, batch in _batches(lines):
                connection.execute(insert(table), batch)
                count += len(batch)
            _number_on(connection)
        return count


def _plain(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    if table is t.applies and row["status"] == "running":
        row["status"] = "interrupted"
    return {name: base64.b64encode(v).decode() if isinstance(v, bytes) else v for name, v in row.items()}


def _batches(lines: Iterable[bytes]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Rows of one table after the other, at most so many at once."""
    table: Table | None = None
    batch: list[dict[str, Any]] = []
    for line in lines:
        there, row = _row(line)
        if batch and (there is not table or len(batch) == _BATCH):
            assert table is not None
            yield table, batch
            batch = []
        table = there
        batch.append(row)
    if table is not None and batch:
        yield table, batch


def _row(line: bytes) -> tuple[Table, dict[str, Any]]:
    try:
        name, row = json.loads(line)
        table = next(table for table in _TABLES if table.name == name)
        if set(row) != {column.name for column in table.columns}:
            raise ValueError(f"other columns of {name}")
        for column in table.columns:
            if isinstance(column.type, LargeBinary):
                row[column.name] = base64.b64decode(row[column.name], validate=True)
    except (ValueError, TypeError, StopIteration) as error:
        raise CorruptArtifactError(
            f"the backup's rows do not parse: {error}", hint="Take another backup; this one was not used."
        ) from error
    return table, row


def _number_on(connection: Connection) -> None:
    """Let PostgreSQL's counters go on behind the highest number that came in; SQLite does so by itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in _TABLES:
        if "seq" in table.c:
            highest = connection.execute(select(func.max(table.c.seq))).scalar()
            if highest is not None:
                place = func.pg_get_serial_sequence(table.name, "seq")
                connection.execute(select(func.setval(place, highest)))
