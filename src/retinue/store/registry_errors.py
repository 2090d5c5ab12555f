"""What a database's refusal means, in one place: whose fault it is and the next step."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from retinue.core.errors import ConflictError, RetinueError, StateUnavailableError

_SQLITE: tuple[tuple[tuple[int, ...], str, str], ...] = (
    (
        (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        "the state database {name} stayed locked by another process for {patience:g} s",
        "Let the other command end (`retinue status` names a running apply), then run the same command again.",
    ),
    (
        (sqlite3.SQLITE_FULL,),
        "the disk that holds the state database {name} is full; nothing of this step was recorded",
        "Free space on that disk, then run the same command again: it continues where it was.",
    ),
    (
        (sqlite3.SQLITE_CANTOPEN,),
        "the state database {name} cannot be opened",
        "Check that the folder exists and that you may write to it, or set [state] database in retinue.toml.",
    ),
    (
        (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
        "the state database {name} is read-only",
        "Make the file and its folder writable for this user, then run the same command again.",
    ),
    (
        (sqlite3.SQLITE_NOTADB,),
        "{name} is not a state database",
        "Point [state] database in retinue.toml at the right file, or restore it from a backup.",
    ),
    (
        (sqlite3.SQLITE_CORRUPT,),
        "the state database {name} is damaged",
        "Restore it from a backup; until then the gateways keep serving the last release.",
    ),
    (
        (sqlite3.SQLITE_IOERR,),
        "the disk under the state database {name} failed or is full",
        "Check the disk (free space, mount, quota), then run the same command again.",
    ),
)

# The same refusals by SQLSTATE class or code, for databases that have those.
_SQLSTATE: tuple[tuple[str, int], ...] = (
    ("53100", sqlite3.SQLITE_FULL),
    ("55P03", sqlite3.SQLITE_BUSY),
    ("57014", sqlite3.SQLITE_BUSY),
    ("25006", sqlite3.SQLITE_READONLY),
    ("42501", sqlite3.SQLITE_READONLY),
    ("XX001", sqlite3.SQLITE_CORRUPT),
    ("58", sqlite3.SQLITE_IOERR),
)
# PostgreSQL's refusals to let us in come without a code: (part of the text, message, hint).
_TEXTS: tuple[tuple[str, str, str], ...] = (
    (
        "password authentication failed",
        "the state database {name} refuses the user's password",
        "Correct PGPASSWORD, ~/.pgpass or [state] database in retinue.toml (RETINUE_DATABASE).",
    ),
    (
        "no password supplied",
        "the state database {name} asks for a password",
        "Set PGPASSWORD or write it into ~/.pgpass.",
    ),
    (
        "role ",
        "the state database {name} knows no such user",
        "Correct the user in [state] database, or have it made: CREATE ROLE … LOGIN.",
    ),
    (
        "database ",
        "the state database {name} does not exist",
        "Have it made (CREATE DATABASE …), or correct its name in [state] database of retinue.toml.",
    ),
    (
        "too many",
        "the state database {name} takes no more connections",
        "Wait or raise the server's max_connections, then run the same command again.",
    ),
    (
        "failed to resolve host",
        "the state database {name} is on a host that is not known",
        "Correct the host in [state] database of retinue.toml.",
    ),
)
_UNREACHABLE = (
    "the server of the state database {name} is not reachable",
    "Start it or correct host and port in [state] database; meanwhile the gateways keep serving the last release.",
)
_LOST = (
    "the connection to the state database {name} was lost",
    "Run the same command again: it finds what was recorded and continues there.",
)
_SERIALIZATION = ("40001", "40P01")


def _code(error: BaseException) -> int | None:
    """The primary SQLite result code, or the one that means the same elsewhere."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF  # extended codes carry the primary one in the low byte
    state = str(getattr(error, "sqlstate", None) or "")
    return next((meaning for prefix, meaning in _SQLSTATE if state.startswith(prefix)), None)


def translate(error: Exception, *, name: str, patience: float) -> RetinueError:
    """The error to raise for a database's `error`; `name` is the database as told to people, `patience` in seconds."""
    cause = getattr(error, "orig", None) or error
    if isinstance(error, (IntegrityError, sqlite3.IntegrityError)) or (
        getattr(cause, "sqlstate", None) in _SERIALIZATION
    ):
        return ConflictError(
            f"another process recorded the same thing first ({cause})",
            hint="Run `retinue plan` again, then the same command: it goes on from what is recorded now.",
        )
    code = _code(cause)
    for codes, message, hint in _SQLITE:
        if code in codes:
            return StateUnavailableError(message.format(name=name, patience=patience), hint=hint)
    told = _told(str(cause), bool(getattr(error, "connection_invalidated", False)), str(_state(cause)))
    if told is None:
        return StateUnavailableError(f"the state database {name} does not answer: {cause}")
    return StateUnavailableError(f"{told[0].format(name=name)} ({str(cause).splitlines()[0]})", hint=told[1])


def _state(cause: BaseException) -> str | None:
    return getattr(cause, "sqlstate", None)


def _told(text: str, lost: bool, state: str) -> tuple[str, str] | None:
    """(message, hint) for a PostgreSQL that does not let us in, or went away."""
    if "FATAL" in text or "failed to resolve" in text or "no password" in text:
        for part, message, hint in _TEXTS:
            if part in text:
                return message, hint
    if lost or state.startswith(("57P", "08", "25P03")) or "connection is closed" in text:
        return _LOST
    return (
        _UNREACHABLE
        if "connection to server" in text or "connection failed" in text or "timeout expired" in text
        else None
    )


@contextmanager
def guard(name: str, patience: float) -> Iterator[None]:
    """Every database error that leaves this block has become one of core/errors.py."""
    try:
        yield
    except (DBAPIError, sqlite3.Error, PoolTimeout) as error:
        raise translate(error, name=name, patience=patience) from error
