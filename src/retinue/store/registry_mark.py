"""A mark of what a registry records of a portfolio: as long as it is the same, a plan reads the same.

Rows are only ever appended, but for holds, which end, and stages, which point on. So counts, newest rows, the rows
of holds and those of stages tell two states apart. Imports no SQLAlchemy: a plan without changes asks nothing else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from retinue.core.identity import digest

REVISION = "0003"
"""The schema this Retinue speaks: the number of the newest file in migrations/versions."""

QUERIES = (
    "select s.stage, s.number, r.map, r.created from stages s left join releases r on r.portfolio = s.portfolio"
    " and r.stage = s.stage and r.number = s.number where s.portfolio = :portfolio",
    "select seq, stage, model, definition, snapshot, version, cause, detail, gates, created, release from holds"
    " where portfolio = :portfolio and ended is null",
    "select revision, created from settings where portfolio = :portfolio order by revision desc limit 1",
    "select count(*) from versions where portfolio = :portfolio",
    "select seq, id, created from versions where portfolio = :portfolio order by seq desc limit 1",
    "select count(*) from evidence where :portfolio = :portfolio",
    "select seq, version, upstreams, gates, verdict, created from evidence where :portfolio = :portfolio"
    " order by seq desc limit 1",
)
"""Asked within one transaction; the number of models does not change theirs."""

Ask = Callable[[str], Iterable[Sequence[Any]]]


def mark_of(ask: Ask) -> str:
    """The mark from the answers to `QUERIES`, whose rows come in any order."""
    return digest([sorted(([*row] for row in ask(query)), key=repr) for query in QUERIES])


def file_of(url: str) -> Path | None:
    """The file of a plain `sqlite:///path`; None for any other database."""
    path = url.removeprefix("sqlite:///")
    return Path(path) if path != url and path and not any(sign in path for sign in "?:%") else None


def mark_of_file(path: Path, portfolio: str) -> str | None:
    """The mark of a SQLite database; None when it is not there, is none of this schema, or cannot be read now."""
    if not path.is_file():
        return None
    address = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as database:
            database.execute("begin")
            if database.execute("select version_num from alembic_version").fetchall() != [(REVISION,)]:
                return None
            return mark_of(lambda query: database.execute(query, {"portfolio": portfolio}).fetchall())
    except sqlite3.Error:
        return None  # whoever opens the registry is told why
