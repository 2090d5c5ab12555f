"""One DuckDB connection in which some declared tables exist, pinned and truncated as asked.

Determinism comes before speed: one thread, so that sums of floating numbers are the same every time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec
from retinue.core.suggest import did_you_mean
from retinue.sources.base import ColumnType, Pin
from retinue.sources.tables import identifier, literal
from retinue.sources.views import view_error

_WIDTHS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_INTEGERS = frozenset({*_WIDTHS, *(f"U{width}" for width in _WIDTHS), "BIGNUM"})
_MOMENTS = ("TIMESTAMP", "DATE")
_LINE = re.compile(r"^LINE (\d+): ", re.MULTILINE)

SQL_TYPES: Mapping[ColumnType, str] = {
    "BOOL": "BOOLEAN",
    "INT64": "BIGINT",
    "FP64": "DOUBLE",
    "BYTES": "VARCHAR",
    "TIMESTAMP": "TIMESTAMP",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a session shows: tables in the order they are made, the Parquet files of the base tables, the
    pin, and the moment from which everything is hidden (None: nothing is)."""

    tables: tuple[TableSpec, ...]
    files: Mapping[str, tuple[Path, ...]]
    pin: Pin
    hide_from: str | None = None


class Session:
    """A connection over a Scope; close it. Raises DataError when a table is unreadable or a view's SQL is wrong."""

    def __init__(self, scope: Scope, scratch: Path) -> None:
        import duckdb

        self._failure = duckdb.Error
        self._specs = {spec.name: spec for spec in scope.tables}
        self._types: dict[str, dict[str, ColumnType]] = {}
        self._con: Any = duckdb.connect(
            config={"threads": 1, "autoinstall_known_extensions": False, "autoload_known_extensions": False}
        )
        try:
            self._confine(scope, scratch)
            for spec in scope.tables:
                self._make(spec, scope)
        except BaseException:
            self._con.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._con.close()

    def types(self, table: str) -> dict[str, ColumnType]:
        """Columns of a table in its own order."""
        return self._types[table]

    def need(self, table: str, columns: Sequence[str]) -> dict[str, ColumnType]:
        """The types of these columns. Raises DataError for one that is not there or cannot be used."""
        types = self._types[table]
        for column in columns:
            if column not in types:
                spec = self._specs[table]
                raise DataError(
                    f"table {table} has no column {column}; it has {_few(types)}",
                    where=spec.where,
                    hint=f"{did_you_mean(column, types)} Correct the name where it is used, or add the column.",
                )
            if types[column] == "UNSUPPORTED":
                raise DataError(
                    f"column {column} of table {table} is nested or binary and cannot be used",
                    where=self._specs[table].where,
                    hint="Make plain columns (numbers, text, booleans, moments) of it in a view.",
                )
        return {column: types[column] for column in columns}

    def rows(self, table: str, sql: str, parameters: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query about `table`. Raises DataError when it fails on the data."""
        try:
            found: list[tuple[Any, ...]] = self._con.execute(sql, list(parameters)).fetchall()
        except self._failure as error:
            raise self._told(self._specs[table], error) from error
        return found

    def arrow(self, table: str, sql: str, parameters: Sequence[str] = ()) -> Any:
        """A query about `table` as a pyarrow.Table. Raises DataError when it fails on the data."""
        try:
            return self._con.sql(sql, params=list(parameters)).to_arrow_table()
        except self._failure as error:
            raise self._told(self._specs[table], error) from error

    def _confine(self, scope: Scope, scratch: Path) -> None:
        """From here on the connection reads these files and no others, and cannot be talked out of it."""
        paths = ", ".join(literal(str(p)) for files in scope.files.values() for p in files)
        for statement in (
            "SET TimeZone = 'UTC'",
            f"SET temp_directory = {literal(str(scratch))}",
            f"SET allowed_paths = [{paths}]",
            "SET python_enable_replacements = false",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            self._con.execute(statement)

    def _make(self, spec: TableSpec, scope: Scope) -> None:
        source = self._user_sql(spec) if spec.is_view else _scan(scope.files[spec.name])
        kinds = self._describe(spec, source)
        _check_declared(spec, kinds)
        inner = _select(f"({source})", {c: f"CAST({identifier(c)} AS TIMESTAMP)" for c in _recast(spec, kinds)})
        hidden: dict[str, str] = {}
        conditions = []
        if spec.time is not None:
            time = identifier(spec.time)
            conditions = _bounds(spec, scope)
            if scope.hide_from is not None:
                limit = f"TIMESTAMP {literal(scope.hide_from)}"
                hidden = {
                    column: f"CASE WHEN {time} + to_microseconds({round(seconds * 1e6)}) <= {limit} "
                    f"THEN {identifier(column)} END"
                    for column, seconds in spec.available
                }
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        body = _select(f"({inner})", hidden) + where
        self._run(spec, f"CREATE VIEW {identifier(spec.name)} AS {body}")
        self._types[spec.name] = {column: _wire(kind) for column, kind in kinds.items()}

    def _user_sql(self, spec: TableSpec) -> str:
        """The view's SQL, bound once by itself so that an error points at the user's own line."""
        sql = (spec.sql or "").strip().rstrip(";")
        self._run(spec, f"DESCRIBE {sql}")
        return f"\n{sql}\n"

    def _describe(self, spec: TableSpec, source: str) -> dict[str, str]:
        rows = self._run(spec, f"DESCRIBE {_select(f'({source})', {})}").fetchall()
        return {str(row[0]): str(row[1]) for row in rows}

    def _run(self, spec: TableSpec, sql: str) -> Any:
        try:
            return self._con.execute(sql)
        except self._failure as error:
            raise self._told(spec, error) from error

    def _told(self, spec: TableSpec, error: Exception) -> DataError:
        """DuckDB's error as ours: for a view with the user's line, for a file with its declaration."""
        text = str(error)
        first = " ".join(line.strip() for line in text.split("\nLINE ", maxsplit=1)[0].splitlines() if line.strip())
        if spec.is_view:
            found = _LINE.search(text)
            offset = None
            if found:
                sql = spec.sql or ""
                skipped = sql[: len(sql) - len(sql.lstrip())].count("\n")
                lines = sql.encode().splitlines(keepends=True)
                offset = len(b"".join(lines[: int(found.group(1)) - 1 + skipped]))
            return view_error(spec, first, at=offset, hint="Correct the SQL of the view; it is DuckDB's dialect.")
        return DataError(
            f"table {spec.name}: {spec.path or 'what was kept of it'} cannot be read: {first}",
            where=spec.where,
            hint="The file may be torn or not of its declared format; write it anew, then run `retinue plan` again.",
        )


def _scan(files: Sequence[Path]) -> str:
    names = ", ".join(literal(str(path)) for path in files)
    union = ", union_by_name = true" if len(files) > 1 else ""
    return f"SELECT * FROM read_parquet([{names}]{union})"  # noqa: S608 - paths are quoted by literal()


def _select(source: str, replaced: Mapping[str, str]) -> str:
    if not replaced:
        return f"SELECT * FROM {source}"  # noqa: S608 - made of quoted parts
    parts = ", ".join(f"{expression} AS {identifier(column)}" for column, expression in replaced.items())
    return f"SELECT * REPLACE ({parts}) FROM {source}"  # noqa: S608 - made of quoted parts


def _bounds(spec: TableSpec, scope: Scope) -> list[str]:
    """Which rows of a table with time exist: those that have a moment, up to the pin, before what is hidden.

    Views that give a time are bounded too: what is under them may be files without one.
    """
    time = identifier(spec.time or "")
    conditions = [f"{time} IS NOT NULL"]
    until = scope.pin.until.get(spec.name)
    if until is not None:
        conditions.append(f"{time} <= TIMESTAMP {literal(until)}")
    if scope.hide_from is not None:
        conditions.append(f"{time} < TIMESTAMP {literal(scope.hide_from)}")
    return conditions


def _recast(spec: TableSpec, kinds: Mapping[str, str]) -> list[str]:
    """Columns that become plain TIMESTAMPs: the declared time, and whatever has a zone or another precision."""
    return [
        column
        for column, kind in kinds.items()
        if kind != "TIMESTAMP" and (column == spec.time or kind.startswith("TIMESTAMP"))
    ]


def _check_declared(spec: TableSpec, kinds: Mapping[str, str]) -> None:
    """The columns named in the declaration must be there, and the time must be a moment (or text of one)."""
    named = [c for c in (spec.time, spec.key) if c is not None] + [c for c, _ in spec.available]
    for column in named:
        if column not in kinds:
            raise DataError(
                f"table {spec.name} has no column {column}; it has {_few(kinds)}",
                where=spec.where,
                hint=f"{did_you_mean(column, kinds)} Correct `time`, `key` or `available` of the table.",
            )
    if spec.time is not None and not (kinds[spec.time].startswith(_MOMENTS) or kinds[spec.time] == "VARCHAR"):
        raise DataError(
            f"time column {spec.time} of table {spec.name} is {kinds[spec.time]}, not a moment",
            where=spec.where,
            hint="Make a timestamp of it in a view, for example to_timestamp(seconds) or make_timestamp(…).",
        )
    if spec.available and spec.time is None:
        raise DataError(
            f"table {spec.name} declares `available` but no `time`",
            where=spec.where,
            hint="Add `time:`; availability counts from it.",
        )


def _few(names: Iterable[str], most: int = 30) -> str:
    """Names for a message, cut where a table has very many."""
    every = list(names)
    return ", ".join(every[:most]) + (f", … ({len(every):,} in all)" if len(every) > most else "")


def _wire(kind: str) -> ColumnType:
    """DuckDB's type as ours: widths are widened, nested types kept aside until somebody uses them."""
    if kind.startswith("ENUM"):
        return "BYTES"
    if "[" in kind:
        return "UNSUPPORTED"
    if kind == "BOOLEAN":
        return "BOOL"
    if kind in _INTEGERS:
        return "INT64"
    if kind in {"FLOAT", "DOUBLE"} or kind.startswith("DECIMAL"):
        return "FP64"
    if kind.startswith(_MOMENTS):
        return "TIMESTAMP"
    if kind in {"VARCHAR", "UUID"}:
        return "BYTES"
    return "UNSUPPORTED"
