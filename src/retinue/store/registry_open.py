"""Opens the database of a registry: transactions that mean what they say, and a schema that is up to date."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from retinue.core.errors import StateError
from retinue.store.registry_errors import guard
from retinue.store.tables import REVISION

WRITES = "retinue_writes"
"""Execution option of a connection whose transaction will write."""

KINDS = ("sqlite", "postgresql")
_SET_DATABASE = (
    'Set [state] database in retinue.toml: "sqlite:////var/lib/retinue/state.db", or '
    '"postgresql://USER@HOST/DATABASE" (the password in PGPASSWORD or ~/.pgpass).'
)
_LOCK = 0x7265_7469  # "reti": any number that all Retinues share
FROZEN = 10  # seconds after which PostgreSQL ends a writing transaction whose process does nothing
_PAUSE = 0.05  # seconds between two tries to switch a new database to WAL


def parse_url(url: str) -> URL:
    """The URL, whose driver is there; PostgreSQL's is psycopg, however it is spelled. Raises StateError otherwise."""
    shown = url.rsplit("@", maxsplit=1)[-1]
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        kind = parsed.get_backend_name()
        if kind in KINDS:
            parsed.get_dialect().import_dbapi()
    except (ArgumentError, ValueError, NoSuchModuleError, ImportError) as error:
        if isinstance(error, ImportError) and url.startswith("postgres"):
            raise StateError(
                f"the driver of PostgreSQL is not installed: {error}", hint='Run `pip install "retinue[postgres]"`.'
            ) from error
        raise StateError(
            f"{shown!r} is not the URL of a database Retinue can use: {error}", hint=_SET_DATABASE
        ) from error
    if kind not in KINDS:
        raise StateError(f"{shown!r}: Retinue keeps no state in a database of kind {kind!r}", hint=_SET_DATABASE)
    return parsed


def display(url: URL) -> str:
    """The database as told to people: the file, or the URL without its password."""
    if url.get_backend_name() == "sqlite":
        return url.database or "in memory"
    shown = url.set(drivername="postgresql").render_as_string()
    return shown if url.host or "host" not in url.query else shown.partition("?")[0] + f" at {url.query['host']}"


def open_engine(url: URL, patience: float, *, upgrade: bool | None = None) -> Engine:
    """An engine on `url` whose schema is this Retinue's; waits `patience` seconds for locks.

    An empty database gets the schema. An older one is upgraded with `upgrade`, refused with False; None upgrades a
    SQLite file, which is nobody else's, and refuses a server's, which another Retinue may be using.
    Raises StateUnavailableError when the database cannot be used; StateError when it is newer, older or not Retinue's.
    """
    local = url.get_backend_name() == "sqlite"
    engine = _sqlite(url, patience) if local else _postgresql(url, patience)
    try:
        with guard(display(url), patience):
            _migrate(engine, display(url), local if upgrade is None else upgrade)
    except BaseException:
        engine.dispose()
        raise
    return engine


def upgrade_database(url: str, patience: float = 30.0) -> tuple[str, str | None, str]:
    """Bring a database's schema up to date: (its name, the schema it had, the one it has); None: it was empty."""
    parsed = parse_url(url)
    before = schema_of(url, patience)
    open_engine(parsed, patience, upgrade=True).dispose()
    return display(parsed), before, REVISION


def schema_of(url: str, patience: float = 30.0) -> str | None:
    """The number of a database's schema, None for an empty database. Raises as `open_engine`."""
    parsed = parse_url(url)
    local = parsed.get_backend_name() == "sqlite"
    engine = _sqlite(parsed, patience) if local else _postgresql(parsed, patience)
    try:
        with guard(display(parsed), patience), engine.connect() as connection:
            return _revision(connection, display(parsed))
    finally:
        engine.dispose()


def _postgresql(url: URL, patience: float) -> Engine:
    """PostgreSQL: as on SQLite one transaction writes at a time, so both keep the same laws without a retry.

    Transactions last milliseconds. One whose process is frozen within it is ended by the server, not waited for.
    """
    wait = max(1, int(patience))
    dead = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    arguments = {"connect_timeout": max(2, wait), "application_name": "retinue", **dead}
    engine = create_engine(
        url, pool_pre_ping=True, connect_args={k: v for k, v in arguments.items() if k not in url.query}
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(WRITES, False):
            connection.exec_driver_sql(
                f"SELECT set_config('lock_timeout', '{int(patience * 1_000) or 1}ms', true), "
                f"set_config('idle_in_transaction_session_timeout', '{FROZEN}s', true), pg_advisory_xact_lock({_LOCK})"
            )

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


def _migrate(engine: Engine, name: str, upgrade: bool) -> None:
    with engine.connect() as connection:
        found = _revision(connection, name)
    if found == REVISION:
        return
    if found is not None and not upgrade:
        raise StateError(
            f"{name} has schema {found}, this Retinue needs {REVISION}",
            hint="Stop what still runs an older Retinue on it, make a backup, then run `retinue db upgrade`.",
        )
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():  # alone
        if _revision(connection, name) == REVISION:  # another process was faster
            return
        from alembic import command  # late: costs 0.2 s and is needed once in a database's life
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
