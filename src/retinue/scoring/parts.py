"""One partition: its rows read, scored and written batch by batch into one Parquet file that appears whole."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retinue.core.errors import DataError
from retinue.scoring import output
from retinue.scoring.journal import Facts
from retinue.scoring.ledger import Done, Effect, on_disk
from retinue.scoring.release import Wanted
from retinue.scoring.rows import RowScorer
from retinue.scoring.tables import Partition, Table, batches
from retinue.store.journal_days import sync_folder

GROUP = 262_144  # rows of a row group that is written
OnEffect = Callable[[Effect, str], None]


class Stopped(Exception):
    """This partition was given up because the run ends."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who stops a partition, who is told how many rows, errors and partitions more are done, and of effects."""

    stop: threading.Event
    tell: Callable[[int, int, int], None]
    on_effect: OnEffect


@dataclass(frozen=True, slots=True)
class PartWriter:
    """Writes partitions of one run; may be used from several threads."""

    table: Table
    out: Path
    passed: Sequence[str]
    wanted: Wanted
    release: int
    watch: Watch

    def write(self, part: Partition, scorer: RowScorer, facts: Facts | None) -> Done:
        """Score a partition and move its file into place.

        Raises DataError for input that cannot be read, StateUnavailableError for the disk, Stopped.
        """
        began = time.perf_counter()
        counts = output.Counts()
        target = self.out / part.path
        temporary = target.with_name(f".part-{part.number:05d}-{os.getpid()}")
        try:
            with on_disk(self.out):
                target.parent.mkdir(parents=True, exist_ok=True)
                for left in target.parent.glob(f".part-{part.number:05d}-*"):  # of a killed run
                    left.unlink(missing_ok=True)
                self._fill(part, temporary, scorer, counts, facts)
                _sync(temporary)
                self.watch.on_effect(Effect.PART_WRITTEN, part.path)
                temporary.replace(target)
                sync_folder(target.parent)
                sync_folder(self.out)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.watch.on_effect(Effect.PART_MOVED, part.path)
        models = [[m, v, rows, fallback] for (m, v, fallback), rows in sorted(counts.models.items())]
        texts = [[text, count] for text, count in counts.texts.most_common(10)]
        return Done(part.number, part.path, counts.rows, counts.errors, time.perf_counter() - began, models, texts)

    def _fill(self, part: Partition, path: Path, scorer: RowScorer, counts: output.Counts, facts: Facts | None) -> None:
        schema = self._schema(facts is not None)
        columns = self._columns(part)
        waiting: list[pa.RecordBatch] = []
        rows = 0
        with pq.ParquetWriter(path, schema, **_options(schema)) as writer:
            for batch, numbers in batches(self.table, part, columns):
                if self.watch.stop.is_set():
                    raise Stopped
                arrived, began = time.time_ns(), time.perf_counter()
                found = scorer.score(batch, numbers)
                counts.add(found)
                arrays = [self._carried(batch, name, schema) for name in self.passed]
                arrays.append(pa.array(numbers))
                if facts is not None:
                    identity = facts.add(found, arrived, time.perf_counter() - began)
                    places = pa.array(range(found.rows), pa.int32()).cast(pa.string())
                    arrays.append(pc.binary_join_element_wise(identity, places, "-"))
                arrays += output.answers(found, self.wanted.outputs, self.release)
                waiting.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
                rows += found.rows
                if rows >= GROUP:
                    writer.write_table(_table(waiting, schema), row_group_size=rows)
                    waiting, rows = [], 0
                self.watch.tell(found.rows, len(found.errors), 0)
            if waiting:
                writer.write_table(_table(waiting, schema), row_group_size=rows)

    def _schema(self, ids: bool) -> pa.Schema:
        fields = [self.table.schema.field(name) for name in self.passed]
        fields.append(pa.field(output.ROW, pa.int64()))
        fields += [pa.field(output.ID, pa.string())] if ids else []
        return pa.schema([*fields, *output.schema_of(self.wanted.outputs)])

    def _columns(self, part: Partition) -> list[str]:
        wanted = [field.name for field in (*self.wanted.needed, *self.wanted.optional)]
        names = dict.fromkeys([*wanted, *self.passed, *([part.by] if part.by else [])])
        return [name for name in self.table.schema.names if name in names]

    def _carried(self, batch: pa.RecordBatch, name: str, schema: pa.Schema) -> pa.Array:
        """A column that is passed through, in the type it has in the whole input."""
        kind = schema.field(name).type
        index = batch.schema.get_field_index(name)
        if index < 0:
            return pa.nulls(batch.num_rows, kind)
        column = batch.column(index)
        if column.type == kind:
            return column
        try:
            return column.cast(kind)
        except pa.ArrowException as error:
            raise DataError(
                f"column {name!r} cannot be passed through as {kind}: {error}", hint="Leave it out of --columns."
            ) from error


def _table(waiting: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(waiting, schema=schema).unify_dictionaries()


def _options(schema: pa.Schema) -> dict[str, object]:
    """Dictionaries only for what repeats: looking for them among predictions costs more than it saves."""
    repeats = [
        field.name
        for field in schema
        if pa.types.is_string(field.type) or pa.types.is_dictionary(field.type) or pa.types.is_int32(field.type)
    ]
    plain = [name for name in repeats if name != output.ID]
    return {"compression": "snappy", "use_dictionary": plain, "write_statistics": True}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
