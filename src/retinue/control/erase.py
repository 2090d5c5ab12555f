"""Erasure: the rows of a person leave the journal, with every node call that was made for them.

What is not compacted yet is compacted first (gateways close their open segments when told), then the files that hold
matching rows are written anew without them. A day changes in one step; a repeat finishes what a kill left.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retinue.control.compact import Effect, OnEffect, clean, compact, ignore, write_file
from retinue.core.errors import CorruptArtifactError, StateError, UsageError
from retinue.store.journal import DAMAGED, read_header, segments_of
from retinue.store.journal_days import Day, DayFile, changing, day_folder, days, read_day, sync_folder, write_day
from retinue.store.journal_key import digest_of
from retinue.store.journal_write import close_orphans

PATIENCE = 60.0  # seconds
_FACTS = ("id", "client", "client_id", "model", "version")
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows of `endpoint` (any, if None) in which every field has this value; `key` finds those that are hashed."""

    endpoint: str | None
    where: Mapping[str, str]
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """What went: rows of requests, requests of which nothing is left, files written anew."""

    rows: int
    requests: int
    files: int
    days: int
    damaged: tuple[str, ...]  # segments that cannot be read: whether they hold such rows is not known


def erase(folder: Path, wanted: Wanted, on_effect: OnEffect = ignore, patience: float = PATIENCE) -> Erased:
    """Erase matching rows from a stage's journal.

    Raises UsageError for a condition that says nothing, StateError when a gateway does not close its segment or
    files are read for longer than `patience` seconds, LeaseHeldError while another process compacts.
    """
    if not wanted.where or not all(wanted.where.values()):
        raise UsageError("say whose rows: a field and its value", hint="Add --where FIELD=VALUE.")
    close_open(folder, patience)
    compact(folder, on_effect, patience)
    rows = requests = files = touched = 0
    with changing(folder, patience):
        for day in days(folder):
            found = _day(folder, day, wanted, on_effect)
            rows, requests, files = rows + found[0], requests + found[1], files + found[2]
            touched += found[0] > 0
        if not clean(folder, on_effect, patience):
            raise StateError(
                "the rows are erased, but their old files are still being read",
                hint="Run the same command again when no `retinue query` runs: it removes them.",
            )
    damaged = tuple(sorted(path.name for path in segments_of(folder).glob("*" + DAMAGED)))
    return Erased(rows, requests, files, touched, damaged)


def close_open(folder: Path, patience: float) -> None:
    """Have every gateway close its open segment. Raises StateError when one does not within `patience` seconds."""
    alive: list[Path] = []
    told: list[Path] = []
    close_orphans(folder, alive.append)
    for path in alive:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, CorruptArtifactError):
            with path.open("rb") as file:
                header, begin = read_header(file.read(65_536), str(path))
            if path.stat().st_size <= begin:
                continue  # it holds nothing yet
            told.append(path)
            try:
                os.kill(header.gateway, signal.SIGUSR1)
            except PermissionError as error:
                raise StateError(
                    f"gateway {header.gateway} runs as another user and cannot be told to close its segment",
                    hint="Run this command as the user who runs `retinue serve`.",
                ) from error
    ends = time.monotonic() + patience
    while any(path.exists() for path in told):
        if time.monotonic() > ends:
            raise StateError(
                f"a gateway has not closed its open segment within {patience:g} s; nothing was erased",
                hint="See whether it hangs with `retinue status`, then run the command again.",
            )
        time.sleep(0.02)
        close_orphans(folder)


def _day(folder: Path, day: str, wanted: Wanted, on_effect: OnEffect) -> tuple[int, int, int]:
    """Erase from one day: rows, whole requests, files written anew."""
    place = day_folder(folder, day)
    manifest = read_day(folder, day)
    predictions = [file for file in manifest.files if file.kind == "predictions"]
    keys = {key for file in predictions for key in _matching(_table(place, file), wanted)}
    quoted = _quoted(wanted.where.values())
    if not keys and not any(_quotes(place, file, quoted) for file in manifest.files if file.kind != "gaps"):
        return 0, 0, 0
    counts = Counter(identity for identity, _ in keys)
    files: list[DayFile] = []
    gone = written = 0
    for file in manifest.files:
        if file.kind == "gaps":
            files.append(file)
            continue
        table = _table(place, file)
        keep = table.filter(_others(table, keys) if file.kind == "predictions" else _not_whole(table, counts))
        if file.kind == "requests":
            gone += table.num_rows - keep.num_rows
            keep = _without_errors(keep, counts)
        keep = _unquoted(keep, quoted)
        if keep.equals(table):
            files.append(file)
            continue
        written += 1
        if keep.num_rows:
            files.append(write_file(place, file.kind, file.schema, file.model, keep))
    for parent in {(place / file.path).parent for file in files}:
        sync_folder(parent)
    on_effect(Effect.FILES_WRITTEN)
    write_day(folder, day, Day(tuple(files), manifest.segments))
    on_effect(Effect.MANIFEST_MOVED)
    return len(keys), gone, written


def _table(place: Path, file: DayFile) -> pa.Table:
    with pq.ParquetFile(place / file.path) as opened:
        return opened.read()


def _matching(table: pa.Table, wanted: Wanted) -> Iterator[Key]:
    """(id, row) of rows that are meant."""
    mask = (
        pa.array([True] * table.num_rows) if wanted.endpoint is None else pc.equal(table["endpoint"], wanted.endpoint)
    )
    for field, value in wanted.where.items():
        column = _column(table, field)
        if column is None:
            return
        mask = pc.and_(mask, _equal(column, value, wanted.key))
    found = table.select(["id", "row"]).filter(pc.fill_null(mask, False))
    yield from zip(found["id"].to_pylist(), found["row"].to_pylist(), strict=True)


def _column(table: pa.Table, field: str) -> pa.ChunkedArray | None:
    """A fact or an input of that name."""
    kind = table.schema.field("inputs").type if "inputs" in table.schema.names else pa.struct([])
    names = [part.name for part in kind]
    if field in names:
        return pc.struct_field(table["inputs"], [names.index(field)])
    return table[field] if field in _FACTS else None


def _equal(column: pa.ChunkedArray, value: str, key: bytes | None) -> pa.ChunkedArray:
    """Where the column has the value, as text, as a number, or as its digest."""
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        try:
            return pc.equal(pc.cast(column, pa.float64()), float(value))
        except ValueError:
            return pa.chunked_array([pa.array([False] * len(column))])
    if pa.types.is_boolean(column.type):
        return pc.equal(pc.cast(column, pa.string()), value.lower())
    if not pa.types.is_string(column.type):
        return pa.chunked_array([pa.array([False] * len(column))])
    texts = [value] if key is None else [value, digest_of(key, value)]
    with contextlib.suppress(ValueError):
        texts.append(str(float(value)))  # a number that stands as text, because elsewhere it is hashed
    return pc.is_in(column, pa.array(texts, pa.string()))


def _others(table: pa.Table, keys: set[Key]) -> pa.Array:
    pairs = zip(table["id"].to_pylist(), table["row"].to_pylist(), strict=True)
    return pa.array([pair not in keys for pair in pairs], pa.bool_())


def _not_whole(table: pa.Table, counts: Mapping[str, int]) -> pa.Array:
    pairs = zip(table["id"].to_pylist(), table["rows"].to_pylist(), strict=True)
    return pa.array(
        [counts.get(identity, 0) < rows or not counts.get(identity) for identity, rows in pairs], pa.bool_()
    )


def _quoted(values: Iterable[str]) -> str:
    """A pattern for texts of errors that quote one of the values: a row that failed has no inputs to find it by."""
    shown = [re.escape(repr(value)[:60]) for value in values]
    return "|".join([*shown, *(rf"\b{re.escape(value)}\b" for value in values)])


def _texts(table: pa.Table) -> tuple[str, pa.Array]:
    """The column of errors, and for each row their texts as one."""
    if "errors" not in table.schema.names:
        return "error", pc.fill_null(table["error"], "")
    every = [" ".join(one["error"] or "" for one in errors or ()) for errors in table["errors"].to_pylist()]
    return "errors", pa.array(every, pa.string())


def _quotes(place: Path, file: DayFile, quoted: str) -> bool:
    _, texts = _texts(_table(place, file))
    return bool(pc.any(pc.match_substring_regex(texts, quoted)).as_py())


def _unquoted(table: pa.Table, quoted: str) -> pa.Table:
    """Without the texts of errors that quote a value."""
    name, texts = _texts(table)
    hit = pc.match_substring_regex(texts, quoted)
    if not pc.any(hit).as_py():
        return table
    field = table.schema.field(name)
    return table.set_column(
        table.schema.get_field_index(name), field, pc.if_else(hit, pa.scalar(None, field.type), table[name])
    )


def _without_errors(table: pa.Table, counts: Mapping[str, int]) -> pa.Table:
    """Requests without the texts of errors where a row of theirs was erased: such a text may quote a value."""
    ids: Sequence[str] = table["id"].to_pylist()
    hit = pa.array([identity in counts for identity in ids], pa.bool_())
    if not pc.any(hit).as_py():
        return table
    index = table.schema.get_field_index("errors")
    cleared = pc.if_else(hit, pa.scalar(None, table.schema.field("errors").type), table["errors"])
    return table.set_column(index, table.schema.field("errors"), cleared)
