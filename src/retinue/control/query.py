"""SQL over the journal: compacted days and the segments that are not compacted yet, open ones too. Reads only.

The connection sees these rows and nothing else: no file but the journal's, no network, no extension, no setting.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from retinue.control.compact import tables_of
from retinue.control.journal_rows import BATCHES, FACTS, GAPS, REQUESTS, Gathering
from retinue.core.errors import CorruptArtifactError, UnavailableError, UsageError
from retinue.store.journal import CLOSED, Stream, list_segments
from retinue.store.journal_days import Day, day_folder, days, read_day, reading

_SCHEMAS = {"predictions": FACTS, "requests": REQUESTS, "gaps": GAPS, "batches": BATCHES}
_TRIES = 20
_EXPLAIN = re.compile(r"explain(\s+analyze\b|\s*\([^)]*\))?\s*(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Span:
    """Days from `since` to `until`, both included; empty is without bound."""

    since: str = ""
    until: str = ""

    def holds(self, day: str) -> bool:
        """Whether the day is in it."""
        return self.since <= day and (not self.until or day <= self.until)


@dataclass(frozen=True, slots=True)
class Answer:
    """Columns and rows of a query."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def query(folder: Path, sql: str, span: Span = Span()) -> Answer:
    """Run one SELECT over `predictions`, `requests`, `gaps` and `batches`. Raises UsageError for anything else."""
    with reading(folder):
        connection = duckdb.connect(":memory:")
        try:
            files = _views(connection, folder, span)
            _lock(connection, files)
            _check(connection, sql)
            found = connection.execute(sql)
            columns = tuple(column[0] for column in found.description or ())
            return Answer(columns, found.fetchall())
        except duckdb.Error as error:
            text = str(error).strip()
            raise UsageError(text, hint="`retinue query 'describe predictions'` lists the columns.") from error
        finally:
            connection.close()


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise UsageError(f"one statement is run at a time, not {len(statements)}", hint="Pass one SELECT.")
    kind, explained = statements[0].type.name, _EXPLAIN.match(statements[0].query.strip())
    if kind == "EXPLAIN" and explained is not None:  # ANALYZE carries out what it explains: a COPY would write
        kind = ", ".join(inner.type.name for inner in connection.extract_statements(explained[2]))
    if kind != "SELECT":
        raise UsageError("the journal is only read", hint="Pass a SELECT, or DESCRIBE predictions.")


def _lock(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    connection.execute("set TimeZone = 'UTC'")
    connection.execute("set temp_directory = ''")
    connection.execute(f"set allowed_paths = {_list(files)}")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _views(connection: duckdb.DuckDBPyConnection, folder: Path, span: Span) -> list[str]:
    """Make the views; returns the files they read."""
    manifests, live = _snapshot(folder, span)
    every: list[str] = []
    for kind, schema in _SCHEMAS.items():
        files = [
            str(day_folder(folder, day) / file.path)
            for day, manifest in manifests.items()
            for file in manifest.files
            if file.kind == kind
        ]
        every += files
        parts = [f"from read_parquet({_list(files)}, union_by_name = true, hive_partitioning = false)"] if files else []
        for number, table in enumerate([schema.empty_table(), *live[kind]]):
            connection.register(f"{kind}_{number}", table)
            parts.append(f"from {kind}_{number}")
        union = " union all by name ".join(parts)
        if kind == "predictions":
            connection.execute(f"create view all_{kind} as {union}")
            union = f"from all_{kind} select *, id || '-' || row as prediction_id{_outputs(connection)}"
        connection.execute(f"create view {kind} as {union}")
    return every


def _outputs(connection: duckdb.DuckDBPyConnection) -> str:
    """The models' outputs as columns of their own, unless a fact has that name."""
    described = connection.sql("select * from all_predictions limit 0")
    types = dict(zip(described.columns, described.types, strict=True))
    if "outputs" not in types:
        return ""
    names = [name for name, _ in types["outputs"].children]
    taken = {name.lower() for name in types}
    quoted = [(n, n.replace('"', '""')) for n in names]
    return "".join(f', outputs."{text}" as "{text}"' for name, text in quoted if name.lower() not in taken)


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


# ------------------------------------------------------------------------------------------------------------ snapshot
def _snapshot(folder: Path, span: Span) -> tuple[dict[str, Day], dict[str, list[pa.Table]]]:
    """Manifests, and what no manifest holds yet, of one moment: read again when a compaction came between."""
    for _ in range(_TRIES):
        manifests = _manifests(folder, span)
        try:
            live = _live(folder, span, manifests)
        except FileNotFoundError:
            continue
        if _manifests(folder, span) == manifests:
            return manifests, live
    raise UnavailableError("the journal is being compacted without a pause", hint="Run the query again.")


def _manifests(folder: Path, span: Span) -> dict[str, Day]:
    return {day: read_day(folder, day) for day in days(folder) if span.holds(day)}


def _live(folder: Path, span: Span, manifests: dict[str, Day]) -> dict[str, list[pa.Table]]:
    gathering = Gathering()
    for path in list_segments(folder):
        name = path.stem

        def wanted(day: str, name: str = name) -> bool:
            return span.holds(day) and (day not in manifests or name not in manifests[day].segments)

        gathering.only(wanted)
        with contextlib.suppress(CorruptArtifactError):  # compaction puts it aside and says so
            gathering.segment(Stream(_bytes(path), str(path)))
    live: dict[str, list[pa.Table]] = {kind: [] for kind in _SCHEMAS}
    for day in gathering.all_days():
        for kind, _, table in tables_of(gathering, day):
            live[kind].append(table)
    return live


def _bytes(path: Path) -> bytes:
    """A segment's bytes; it may be closed between two looks. Raises FileNotFoundError when it was folded meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return path.with_suffix(CLOSED).read_bytes()
