"""Opens the database of a registry: transactions that mean what they say, and a schema that is up to date."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from retinue.core.errors import StateError
from retinue.store.registry_errors import guard
from retinue.store.tables import REVISION

WRITES = "retinue_writes"
"""Execution option of a connection whose transaction will write."""

_MIGRATION_LOCK = 0x7265_7469  # "reti": any number that all Retinues share
_PAUSE = 0.05  # seconds between two tries to switch a new database to WAL


def parse_url(url: str) -> URL:
    """The URL, whose driver is there. Raises StateError otherwise."""
    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except (ArgumentError, ImportError) as error:
        raise StateError(
            f"{url.rsplit('@', maxsplit=1)[-1]!r} is not the URL of a database Retinue can use: {error}",
            hint='Set [state] database in retinue.toml, for example "sqlite:////var/lib/retinue/state.db".',
        ) from error
    return parsed


def display(url: URL) -> str:
    """The database as told to people: the file, or the URL without its password."""
    return url.database or "in memory" if url.get_backend_name() == "sqlite" else url.render_as_string()


def open_engine(url: URL, patience: float) -> Engine:
    """An engine on `url` whose schema is this Retinue's; waits `patience` seconds for locks.

    Raises StateUnavailableError when the database cannot be used and StateError when it is newer or not Retinue's.
    """
    local = url.get_backend_name() == "sqlite"
    engine = _sqlite(url, patience) if local else create_engine(url, pool_pre_ping=True)
    try:
        with guard(display(url), patience):
            _migrate(engine, display(url))
    except BaseException:
        engine.dispose()
        raise
    return engine


def _sqlite(url: URL, patience: float) -> Engine:
    if url.database and not url.database.startswith(("file:", ":memory:")):
        # A folder that cannot be made is told by SQLite itself as "cannot be opened", with the file's name.
        folder = Path(url.database).parent
        if not any(parent.is_file() for parent in (folder, *folder.parents)):
            folder.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        # The driver's own idea of when a transaction begins is switched off: `begin` below says it.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        _write_ahead(connection, patience)
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock at once, or two that have both read would refuse each other later.
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(connection: sqlite3.Connection, patience: float) -> None:
    """Switch to WAL, once for ever, within `patience` seconds.

    SQLite refuses one of two processes that do this on a new file without waiting, so the waiting is done here.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    for attempt in range(int(patience / _PAUSE), -1, -1):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not attempt:
                raise
            time.sleep(_PAUSE)
    connection.execute(f"PRAGMA busy_timeout = {int(patience * 1_000)}")


def _revision(connection: Connection, name: str) -> str | None:
    """The schema's number, None for an empty database. Raises StateError for a database that is not Retinue's."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    found = None
    if "alembic_version" in tables:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found is None or not found.isdigit():
        raise StateError(
            f"{name} holds tables that are not Retinue's",
            hint="Point [state] database in retinue.toml at a database of its own.",
        )
    if int(found) > int(REVISION):
        raise StateError(
            f"{name} was written by a newer Retinue (schema {found}, this one knows up to {REVISION})",
            hint="Upgrade Retinue to the version that the others who use this database have.",
        )
    return str(found)


def _migrate(engine: Engine, name: str) -> None:
    with engine.connect() as connection:
        if _revision(connection, name) == REVISION:
            return
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        if connection.dialect.name == "postgresql":  # SQLite is locked by BEGIN IMMEDIATE already
            connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        if _revision(connection, name) == REVISION:  # another process was faster
            return
        from alembic import command  # late: costs 0.2 s and is needed once in a database's life
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
