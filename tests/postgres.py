"""A real PostgreSQL for tests: one server a session, started when first asked for, and new databases on it."""

from __future__ import annotations

import atexit
import functools
import itertools
import tempfile
import warnings
from typing import Any

import psycopg

_NUMBERS = itertools.count(1)


@functools.cache
def server() -> Any:
    """The server; it listens on a UNIX socket only, and is gone with this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        import pgserver.postgres_server

        made = pgserver.postgres_server.get_server(tempfile.mkdtemp(prefix="retinue-pg-"), cleanup_mode="delete")
    atexit.register(made.cleanup)
    return made


def url(database: str, user: str = "postgres", password: str = "") -> str:
    """The URL of a database of the server."""
    host = str(server().get_uri()).partition("host=")[2]
    return f"postgresql://{user}:{password}@/{database}?host={host}"


def run(statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
    """Run one statement as the server's owner, outside any transaction."""
    with psycopg.connect(url(database), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def new_database(template: str = "template0") -> str:
    """The URL of an empty database, or of a copy of `template`."""
    name = f"t{next(_NUMBERS)}"
    run(f"CREATE DATABASE {name} TEMPLATE {template}")
    return url(name)


@functools.cache
def migrated() -> str:
    """The name of a database with the schema, as a template."""
    from retinue.store.registry import SqlRegistry

    made = new_database()
    SqlRegistry(made).close()
    return made.partition("?")[0].rpartition("/")[2]


def cut(database_url: str) -> int:
    """End every connection to a database, as a network or a failover does; how many there were."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    return len(run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))


def stop() -> None:
    """Stop the server at once, as a crash does. `start` starts it again."""
    made = server()
    from pgserver.postgres_server import pg_ctl  # type: ignore[attr-defined]  # it is not for everybody

    pg_ctl(["-m", "immediate", "-w", "stop"], pgdata=made.pgdata, user=made.system_user)


def start() -> None:
    """Start the server again where it was."""
    server().ensure_postgres_running()
