"""What is scored: Parquet files (CSV is converted once), their row groups, and how they are cut into partitions."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retinue.core.errors import DataError, Location, UsageError
from retinue.core.identity import digest
from retinue.core.portfolio import TableSpec
from retinue.core.suggest import did_you_mean
from retinue.sources.tables import CSV_MEMBERS, parquet_files

BATCH = 65_536  # rows that are read, scored and written at once
DEFAULT_ROWS = 1_000_000  # of a partition, rounded up to whole row groups
MOST = 10_000  # partitions of one run
_ENDINGS = (".parquet", ".pq", *(f"{e}{z}" for e in CSV_MEMBERS for z in ("", ".gz")), ".zip")


@dataclass(frozen=True, slots=True)
class Group:
    """One row group: where it is, its rows, and the number of its first row in the whole input."""

    file: int
    index: int
    rows: int
    first: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of a row group."""

    group: Group
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Partition:
    """What becomes one output file. `value`: only rows whose partition column has it (`by` is that column)."""

    number: int
    path: str  # within the output folder
    pieces: tuple[Piece, ...]
    by: str | None = None
    value: Any = None


@dataclass(frozen=True, slots=True)
class Table:
    """An input: its files, columns, row groups, and the digest of what it is made of."""

    name: str
    files: tuple[Path, ...]
    schema: pa.Schema
    groups: tuple[Group, ...]
    identity: str

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(group.rows for group in self.groups)


def files_for(text: str, root: Path) -> tuple[Path, ...]:
    """The files that a path, a pattern or a folder names; empty when it names nothing. Raises DataError."""
    if "://" in text:
        raise UsageError(f"{text} is not a local path", hint="Declare it under `data:` and score the table's name.")
    full = root / text
    if full.is_file():
        return (full,)
    if full.is_dir():
        found = sorted(path for path in full.rglob("*") if path.is_file() and _counts(path.relative_to(full)))
        if not found:
            raise DataError(f"the folder {text} holds no Parquet or CSV file", hint="Name one that does, or a file.")
        return tuple(found)
    if any(sign in text for sign in "*?["):
        found = sorted(Path(path) for path in glob.glob(str(full), recursive=True) if Path(path).is_file())
        if not found:
            raise DataError(f"no file matches {text}", hint=f"Check the pattern; it is taken relative to {root}.")
        return tuple(found)
    return ()


def not_found(text: str, tables: Iterable[str]) -> UsageError:
    """The error for an input that is neither a file nor a declared table."""
    hint = f"{did_you_mean(text, tables)} Name a file, a folder, a pattern, or a table of the portfolio's `data`."
    return UsageError(f"there is no file and no table {text!r}", hint=hint)


def open_files(name: str, files: Sequence[Path], cache: Path) -> Table:
    """The table in these files. Raises DataError naming the file that is torn, empty or unlike the others."""
    found: list[Path] = []
    identity: list[Any] = []
    for file in files:
        stat = file.stat()
        identity.append([str(file.resolve()), stat.st_size, stat.st_mtime_ns])
        spec = TableSpec(file.name, Location(str(file)), path=str(file.absolute()))
        found += parquet_files(spec, Path("/"), cache, time.time())
    return open_parquet(name, found, digest(identity))


def open_parquet(name: str, files: Sequence[Path], identity: str) -> Table:
    """The table in these Parquet files, known by `identity`. Raises DataError."""
    groups: list[Group] = []
    schemas: list[pa.Schema] = []
    first = 0
    for number, file in enumerate(files):
        with opened(file) as parquet:
            schemas.append(parquet.schema_arrow.remove_metadata())
            for index in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(index).num_rows
                if rows:
                    groups.append(Group(number, index, rows, first))
                first += rows
    if first == 0:
        raise DataError(f"{name} has no rows", hint="There is nothing to score; check that the table was filled.")
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"the files of {name} have columns of different types: {error}", hint="Make their types agree."
        ) from error
    return Table(name, tuple(files), schema, tuple(groups), identity)


def opened(file: Path) -> pq.ParquetFile:
    """The file, opened. Raises DataError when it is no whole Parquet file."""
    try:
        return pq.ParquetFile(file, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"not a whole Parquet file: {str(error).splitlines()[0]}",
            where=str(file),
            hint="It was cut off or is of another format: write it again.",
        ) from error


# --------------------------------------------------------------------------------------------------------- partitions
def by_rows(table: Table, rows: int | None) -> list[Partition]:
    """Partitions of so many rows each; None: whole row groups until there are about a million rows."""
    cuts = list(_slices(table, rows) if rows is not None else _whole(table))
    if len(cuts) > MOST:
        raise UsageError(
            f"{table.rows} rows are {len(cuts)} partitions, more than {MOST}", hint="Take more rows for a partition."
        )
    return [Partition(number, f"part-{number:05d}.parquet", tuple(pieces)) for number, pieces in enumerate(cuts)]


def _whole(table: Table) -> Iterator[list[Piece]]:
    pieces: list[Piece] = []
    for group in table.groups:
        if group.rows > 2 * DEFAULT_ROWS:
            if pieces:
                yield pieces
                pieces = []
            yield [Piece(group, 0, group.rows)]
            continue
        pieces.append(Piece(group, 0, group.rows))
        if sum(piece.stop for piece in pieces) >= DEFAULT_ROWS:
            yield pieces
            pieces = []
    if pieces:
        yield pieces


def _slices(table: Table, rows: int) -> Iterator[list[Piece]]:
    pieces: list[Piece] = []
    room = rows
    for group in table.groups:
        start = 0
        while start < group.rows:
            stop = min(group.rows, start + room)
            pieces.append(Piece(group, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield pieces
                pieces, room = [], rows
    if pieces:
        yield pieces


def by_column(table: Table, column: str) -> list[Partition]:
    """One partition for each value of a column; each reads the row groups in which its value is.

    Raises UsageError for a column that is not there, or with too many values.
    """
    if column not in table.schema.names:
        raise UsageError(
            f"{table.name} has no column {column!r} to partition by", hint=did_you_mean(column, table.schema.names)
        )
    where: dict[Any, list[Piece]] = {}
    for group in table.groups:
        with opened(table.files[group.file]) as parquet:
            values = _read(parquet, group, [column]).column(0)
        for value in pc.unique(values).to_pylist():
            where.setdefault(value, []).append(Piece(group, 0, group.rows))
        if len(where) > MOST:
            raise UsageError(
                f"{column!r} has more than {MOST} values: too many partitions",
                hint="Partition by a column with fewer values, or by a number of rows.",
            )
    order = sorted(where, key=lambda value: (value is None, str(value)))
    return [
        Partition(number, f"{_folder(column, value)}/part.parquet", tuple(where[value]), column, value)
        for number, value in enumerate(order)
    ]


def _folder(column: str, value: Any) -> str:
    text = "__HIVE_DEFAULT_PARTITION__" if value is None else quote(str(value), safe=" ")
    return f"{quote(column, safe=' ')}={text}"


def batches(table: Table, partition: Partition, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, Any]]:
    """The partition's rows in order, with their numbers in the whole input. Raises DataError."""
    for piece in partition.pieces:
        group = piece.group
        with opened(table.files[group.file]) as parquet:
            here = [name for name in columns if name in parquet.schema_arrow.names]
            at = 0
            for batch in _batches(parquet, group, here):
                start, stop = max(piece.start - at, 0), min(piece.stop - at, batch.num_rows)
                numbers = np.arange(group.first + at, group.first + at + batch.num_rows)
                at += batch.num_rows
                if start < stop:
                    yield from _chosen(batch.slice(start, stop - start), numbers[start:stop], partition)
                if at >= piece.stop:
                    break


def _chosen(batch: pa.RecordBatch, numbers: Any, partition: Partition) -> Iterator[tuple[pa.RecordBatch, Any]]:
    if partition.by is None:
        yield batch, numbers
        return
    column = batch.column(batch.schema.get_field_index(partition.by))
    value = pa.scalar(partition.value, type=column.type)
    mask = pc.is_null(column) if partition.value is None else pc.fill_null(pc.equal(column, value), False)
    kept = batch.filter(mask)
    if kept.num_rows:
        yield kept, numbers[mask.to_numpy(zero_copy_only=False)]


def _batches(parquet: pq.ParquetFile, group: Group, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from parquet.iter_batches(BATCH, row_groups=[group.index], columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"row group {group.index} cannot be read: {str(error).splitlines()[0]}",
            hint="The file is damaged: write it again.",
        ) from error


def _read(parquet: pq.ParquetFile, group: Group, columns: Sequence[str]) -> pa.Table:
    return pa.Table.from_batches(list(_batches(parquet, group, columns)))


def _counts(path: Path) -> bool:
    hidden = any(part.startswith(("_", ".")) for part in path.parts)
    return not hidden and path.name.lower().endswith(_ENDINGS)


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    first, second = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return first == second or first in second.parents or second in first.parents
