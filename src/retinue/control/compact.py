"""Compaction: closed segments become Parquet files by day and model, and then they go. Safe to kill anywhere.

Everything that outlives the process is a numbered effect, in this order. A day changes in one step, the move of its
manifest, which names the new files and the segments they hold; a segment goes when each of its days names it. Killed
between any two effects, a repeat finds what is named and does the rest.
"""

from __future__ import annotations

import enum
import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retinue.control.journal_rows import Gathering, signature_name, unite
from retinue.core.errors import CorruptArtifactError
from retinue.store.journal import DAMAGED, Stream, list_segments
from retinue.store.journal_days import (
    Day,
    DayFile,
    changing,
    day_folder,
    days,
    garbage,
    read_day,
    remove_day,
    removing,
    sync_folder,
    write_day,
)
from retinue.store.journal_write import close_orphans

BATCH = 8 * 1024**2  # bytes of segments that are folded together
OWN = 2_000  # rows of a model in one fold from which on it has files of its own
MERGE = 8 * 1024**2  # bytes up to which a file is rewritten with more rows instead of getting a sibling


class Effect(enum.IntEnum):
    """The durable effects of compaction, erasure and retention, in order."""

    ORPHANS_CLOSED = 1
    FILES_WRITTEN = 2
    MANIFEST_MOVED = 3
    SEGMENT_REMOVED = 4
    FILES_REMOVED = 5
    DAY_REMOVED = 6


OnEffect = Callable[[Effect], None]


def ignore(effect: Effect) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one run did. `damaged`: segments of which a part could not be read; they are kept beside the others."""

    segments: int = 0
    requests: int = 0
    rows: int = 0
    damaged: tuple[str, ...] = ()
    removed_days: tuple[str, ...] = ()


def compact(folder: Path, on_effect: OnEffect = ignore, patience: float = 0.0) -> Compacted:
    """Fold every closed segment of a stage's journal. Raises LeaseHeldError, OSError (a full disk: nothing is lost)."""
    done = Compacted()
    with changing(folder, patience):
        if close_orphans(folder):
            on_effect(Effect.ORPHANS_CLOSED)
        clean(folder, on_effect)
        batch: list[Path] = []
        size = 0
        for path in list_segments(folder, closed=True):
            batch.append(path)
            size += path.stat().st_size
            if size >= BATCH:
                done = _more(done, _fold(folder, batch, on_effect))
                batch, size = [], 0
        if batch:
            done = _more(done, _fold(folder, batch, on_effect))
        clean(folder, on_effect)
    return done


def clean(folder: Path, on_effect: OnEffect = ignore, patience: float = 0.0) -> bool:
    """Remove files that no manifest names, unless somebody reads; whether none is left."""
    left = garbage(folder)
    if left:
        with removing(folder, patience) as held:
            if not held:
                return False
            for path in left:
                path.unlink(missing_ok=True)
            on_effect(Effect.FILES_REMOVED)
    return True


def retain(folder: Path, now: float, keep_days: int, keep_bytes: int, on_effect: OnEffect = ignore) -> tuple[str, ...]:
    """Remove days over `keep_days` old, then the oldest while all take more than `keep_bytes`; 0 is without bound.

    `now` in seconds since 1970. Today always stays. Returns the days that went.
    """
    gone: list[str] = []
    with changing(folder), removing(folder) as held:
        if not held:
            return ()
        today = time.strftime("%Y-%m-%d", time.gmtime(now))
        oldest = time.strftime("%Y-%m-%d", time.gmtime(now - keep_days * 86400)) if keep_days else ""
        sizes = {day: sum(file.bytes for file in read_day(folder, day).files) for day in days(folder)}
        for day, size in list(sizes.items()):
            if day >= today or not (day < oldest or (keep_bytes and sum(sizes.values()) > keep_bytes)):
                continue
            remove_day(folder, day)
            on_effect(Effect.DAY_REMOVED)
            gone.append(day)
            sizes[day] -= size
    return tuple(gone)


# --------------------------------------------------------------------------------------------------------------- fold
def _more(one: Compacted, other: Compacted) -> Compacted:
    return replace(
        one,
        segments=one.segments + other.segments,
        requests=one.requests + other.requests,
        rows=one.rows + other.rows,
        damaged=one.damaged + other.damaged,
    )


def _fold(folder: Path, segments: Sequence[Path], on_effect: OnEffect) -> Compacted:
    held = {day: read_day(folder, day) for day in days(folder)}
    gathering = Gathering()
    damaged: list[str] = []
    unreadable: list[Path] = []
    names: dict[str, set[str]] = {}  # by day: the segments that have rows of it
    for path in segments:
        gathering.only(lambda day, name=path.stem: day not in held or name not in held[day].segments)  # type: ignore[misc]
        try:
            stream = Stream(path.read_bytes(), str(path))
            gathering.segment(stream)
        except CorruptArtifactError:
            unreadable.append(path)
            continue
        if stream.left and not stream.torn:
            damaged.append(path.stem)
        for day in gathering.seen:
            names.setdefault(day, set()).add(path.stem)
        del stream  # it holds the segment's bytes
    requests = rows = 0
    for day in gathering.all_days():
        tables = tables_of(gathering, day)
        manifest = _day(folder, day, held.get(day, Day()), tables)
        on_effect(Effect.FILES_WRITTEN)
        alive = {path.stem for path in list_segments(folder)}
        kept = (manifest.segments | frozenset(names[day])) & alive
        write_day(folder, day, Day(manifest.files, frozenset(kept)))
        on_effect(Effect.MANIFEST_MOVED)
        requests += sum(table.num_rows for kind, _, table in tables if kind == "requests")
        rows += sum(table.num_rows for kind, _, table in tables if kind == "predictions")
    for path in segments:
        if path in unreadable or path.stem in damaged:
            path.rename(path.with_suffix(DAMAGED))
        else:
            path.unlink()
        on_effect(Effect.SEGMENT_REMOVED)
    return Compacted(len(segments), requests, rows, tuple([*damaged, *(path.stem for path in unreadable)]))


def tables_of(gathering: Gathering, day: str) -> list[tuple[str, str, pa.Table]]:
    """What was gathered of a day: (kind, name of the schema, rows)."""
    found = [("requests", "requests", gathering.requests(day)), ("gaps", "gaps", gathering.gaps(day))]
    found.append(("batches", "batches", gathering.batches(day)))
    groups = gathering.days.get(day, {})
    found += [("predictions", signature_name(s), gathered.table()) for s, gathered in groups.items()]
    return [entry for entry in found if entry[2].num_rows]


def _day(folder: Path, day: str, before: Day, tables: Sequence[tuple[str, str, pa.Table]]) -> Day:
    """Write the day's new files; the manifest that will name them."""
    place = day_folder(folder, day)
    place.mkdir(parents=True, exist_ok=True)
    files = list(before.files)
    for kind, schema, table in tables:
        own = {file.model for file in before.files if file.schema == schema}
        parts = _by_model(table, own) if kind == "predictions" else [(None, table)]
        for model, part in parts:
            alike = (f for f in files if (f.kind, f.schema, f.model) == (kind, schema, model) and f.bytes < MERGE)
            small = next(alike, None)
            if small is None:
                files.append(write_file(place, kind, schema, model, part))
            else:
                files.remove(small)
                files.append(write_file(place, kind, schema, model, unite([_read(place / small.path), part])))
    for parent in {(place / file.path).parent for file in files}:
        sync_folder(parent)
    return Day(tuple(files), before.segments)


def _read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:  # not `read_table`, which would read columns out of the path
        return file.read()


def _by_model(table: pa.Table, own: set[str | None]) -> Iterable[tuple[str | None, pa.Table]]:
    """A table for each model that has many rows or files already; the others together, sorted by model."""
    names = table.column("model")
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(names.combine_chunks()).to_pylist()}
    large = sorted(name for name, count in counts.items() if name is not None and (count >= OWN or name in own))
    for name in large:
        yield name, table.filter(pc.equal(names, name))
    if len(large) < len(counts):
        rest = table
        if large:
            rest = table.filter(pc.invert(pc.fill_null(pc.is_in(names, pa.array(large, pa.string())), False)))
        order = pc.sort_indices(
            rest.select(["model", "time"]), sort_keys=[("model", "ascending"), ("time", "ascending")]
        )
        yield None, rest.take(order)


def write_file(place: Path, kind: str, schema: str, model: str | None, table: pa.Table) -> DayFile:
    """Write one durable Parquet file under a name of its own; nobody sees it until a manifest names it."""
    under = kind if kind != "predictions" else "models" if model is None else f"model={quote(model, safe='')}"
    if len(under) > 200:  # longer than a folder's name may be
        under = f"model={uuid.uuid5(uuid.NAMESPACE_OID, under)}"
    path = place / under / f"{schema}-{uuid.uuid4().hex[:16]}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, compression="zstd", row_group_size=131_072)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return DayFile(f"{under}/{path.name}", kind, schema, model, table.num_rows, path.stat().st_size)
