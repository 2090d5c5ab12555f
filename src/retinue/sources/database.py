"""Rows of a database query, read through SQLAlchemy in batches into one Parquet file. Nothing is ever written there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retinue.core.connections import Connection
from retinue.core.declaration import normal_sql
from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec
from retinue.sources.away import AwayError
from retinue.sources.base import Json
from retinue.sources.batches import write_batches

BATCH = 20_000  # rows
TIMEOUT = 10  # seconds to connect
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_EXTRAS = {"psycopg": "retinue[postgres]"}
_READS = ("select ", "with ", "values ", "table ", "from ", "( ")


class DatabaseOrigin:
    """A `query` through a named connection; its `version` query is the cheap question."""

    def __init__(self, spec: TableSpec, connection: Connection, root: Path, query: str | None = None) -> None:
        self.spec, self.connection, self.root = spec, connection, root
        self.query = (query or spec.query or "").strip().rstrip(";")

    def identity(self) -> Json:
        """The connection's name and the query's text."""
        return ["query", self.connection.name, normal_sql(self.query)]

    def version(self) -> str | None:
        """The answer of the `version` query; for an SQLite file its stamp; else None."""
        if self.spec.version is None:
            return self._stamp()
        with self._connected() as connection:
            row = self._run(connection, self.spec.version, "version").fetchone()
        if row is None or row[0] is None:
            return "empty"
        if len(row) != 1:
            raise DataError(
                f"table {self.spec.name}: the version query gives {len(row)} columns",
                where=self.spec.where,
                hint="Let it select one value, for example max(updated_at).",
            )
        return str(row[0])

    def fetch(self, folder: Path, version: str | None) -> None:
        """Run the query and write `0.parquet`."""
        with self._connected() as connection:
            result = self._run(connection, self.query, "query")
            names = list(result.keys())
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise DataError(
                    f"table {self.spec.name}: the query gives column {twice[0]} more than once",
                    where=self.spec.where,
                    hint="Name columns apart with AS.",
                )
            kinds = _declared(result.cursor.description if result.cursor is not None else ())
            write_batches(self.spec, names, kinds, self._rows(result), folder)

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _rows(self, result: Any) -> Iterator[Sequence[Sequence[Any]]]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            while batch := result.fetchmany(BATCH):
                yield batch
        except SQLAlchemyError as error:
            raise self._told(error, "query") from None

    def _stamp(self) -> str | None:
        """SQLite only: the file and its log, as they stand."""
        url = self._url()
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            return None
        path = self.root / url.database
        parts = []
        for file in (path, path.with_name(path.name + "-wal")):
            try:
                stat = file.stat()
            except OSError:
                if file == path:
                    raise self._away(f"there is no database file {url.database}") from None
                continue
            parts.append(f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}")
        return "file:" + ",".join(parts)

    def _url(self) -> Any:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        text = self.connection.get("url", os.environ)
        for short, full in _DRIVERS.items():
            text = re.sub(rf"^{short}://", f"{full}://", text)
        try:
            return make_url(text)
        except (ArgumentError, ValueError):
            raise DataError(
                f"connection {self.connection.name}: its `url` is no database URL",
                where=self.connection.where,
                hint="Write it like postgresql+psycopg://user:${PASSWORD}@host/name or sqlite:///file.db.",
            ) from None

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """A connection in a transaction that can only read and is never committed."""
        import sqlalchemy as sa
        from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

        for text in (self.query, self.spec.version):
            if text is not None and not normal_sql(text + " ").startswith(_READS):
                raise DataError(
                    f"table {self.spec.name}: {text.split()[0] if text.split() else 'nothing'}… is not a SELECT",
                    where=self.spec.where,
                    hint="A source is only read: write one SELECT (or WITH … SELECT).",
                )
        url = self._url()
        options: dict[str, Any] = {}
        if url.get_backend_name() == "sqlite":
            path = (self.root / (url.database or "")).absolute()
            if not path.is_file():
                raise self._away(f"there is no database file {url.database}")
            url = sa.URL.create(url.drivername, database=f"file:{path}", query={"mode": "ro", "uri": "true"})
        elif url.get_backend_name() == "postgresql":
            options["connect_args"] = {"connect_timeout": int(str(url.query.get("connect_timeout", TIMEOUT)))}
        try:
            engine = sa.create_engine(url, poolclass=sa.NullPool, **options)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            name = getattr(error, "name", None)
            hint = f"Install {_EXTRAS.get(str(name), 'the driver')} beside Retinue, or name another driver in the URL."
            raise DataError(
                f"connection {self.connection.name}: the driver of {url.drivername} is not installed",
                where=self.connection.where,
                hint=hint,
            ) from None
        try:
            connection = engine.connect()
        except SQLAlchemyError as error:
            engine.dispose()
            raise self._told(error, "connection") from None
        try:
            if url.get_backend_name() == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            yield connection
        finally:
            connection.invalidate()  # closed without COMMIT: what was open is undone
            connection.close()
            engine.dispose()

    def _run(self, connection: Any, sql: str, what: str) -> Any:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            options = {"stream_results": what == "query", "no_parameters": True}
            return connection.execution_options(**options).exec_driver_sql(sql)
        except SQLAlchemyError as error:
            raise self._told(error, what) from None

    def _told(self, error: Exception, what: str) -> DataError:
        """A database's error in words, without the URL or a password."""
        origin = getattr(error, "orig", None) or error
        lines = [line.strip() for line in str(origin).splitlines() if line.strip()]
        text = self.connection.scrub(" ".join(lines[:3]), os.environ)
        if what == "connection" or getattr(error, "connection_invalidated", False):
            return self._away(text)
        return DataError(
            f"table {self.spec.name}: the {what} query fails: {text}",
            where=self.spec.where,
            hint=f"Correct `{what}`; it is run as written through connection {self.connection.name}, which only reads.",
        )

    def _away(self, text: str) -> AwayError:
        return AwayError(
            f"table {self.spec.name}: connection {self.connection.name} cannot be opened: {text}",
            where=self.spec.where,
            hint=f"Check that the server runs, and `url` of [connections.{self.connection.name}].",
        )


_OIDS: Mapping[int, str] = {
    16: "bool",
    20: "int64",
    21: "int64",
    23: "int64",
    26: "int64",
    700: "float64",
    701: "float64",
    1700: "float64",
    1082: "date32",
    1114: "timestamp",
    1184: "timestamptz",
    17: "binary",
}
"""PostgreSQL's types by number; everything else is text."""


def _declared(description: Any) -> dict[str, str]:
    """Column types that the database itself declares; SQLite's declares none."""
    found = {}
    for column in description or ():
        code = column[1]
        if isinstance(code, int):
            found[str(column[0])] = _OIDS.get(code, "text")
    return found
