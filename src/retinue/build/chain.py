"""Columns that come from upstream models: out-of-fold on training rows, the upstream's own answers on holdout rows.

On training rows an upstream's value comes from a fold model: the upstream's definition trained only on what was
known before that row's block. So a downstream learns from values as good as those it will meet in production, and
an upstream that memorises its training rows gains nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from retinue.build.columns import Table, attach, to_columns, upstream_rows
from retinue.build.compile import choose
from retinue.build.dataset import DataSet, split, training
from retinue.build.folds import Fold, HashFold, folds, hash_folds, in_fold
from retinue.build.workshop import Workshop
from retinue.core.errors import DataError
from retinue.core.identity import digest, digest_bytes
from retinue.core.portfolio import ModelSpec, Need
from retinue.core.state import Version
from retinue.sources.base import Pin

Json = Any
Array = np.ndarray[Any, Any]
Beside = Mapping[str, Version]
"""Every upstream, direct or not, with the version that is read."""


def spec_of(version: Version) -> ModelSpec:
    """The declaration a version was built from."""
    spec: ModelSpec = msgspec.convert(version.manifest["spec"], ModelSpec)
    return spec


def request_of(spec: ModelSpec, beside: Beside) -> tuple[str, ...]:
    """The fields a model reads from a request: its own features, and those of its upstreams through the mappings."""
    columns = {need.column for need in spec.needs}
    return tuple(sorted({f for f in spec.features if f not in columns} | set(mapped_fields(spec, beside))))


def mapped_fields(spec: ModelSpec, beside: Beside) -> tuple[str, ...]:
    """The fields that only a model's upstreams read, by their names in its own table."""
    names: set[str] = set()
    for need in spec.needs:
        mapping = dict(need.inputs)
        names |= {mapping.get(n, n) for n in request_of(spec_of(beside[need.model]), beside)}
    return tuple(sorted(names))


@dataclass(frozen=True, slots=True)
class FoldModel:
    """An upstream as it would have been before a fold: an artifact by digest, and how it is loaded."""

    artifact: str
    format: str
    signature: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows on their way up the chain: what the model at hand reads, and the columns that choose a row's fold."""

    table: Table
    clock: Table
    time: str | None
    by: str | None

    def only(self, mask: Array) -> _Rows:
        return _Rows(self.table.filter(mask), self.clock.filter(mask), self.time, self.by)


class Chain:
    """Answers for upstream columns within one apply. Thread-safe; fold models are trained once and kept."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._datasets: dict[str, DataSet] = {}
        self._models: dict[str, FoldModel] = {}
        self._folds: dict[str, tuple[Fold, ...] | tuple[HashFold, ...]] = {}

    def complete(self, table: Table, needs: Sequence[Need], beside: Beside) -> Table:
        """`table` with a column per need, answered by the versions `beside`: for holdout rows."""
        for need in needs:
            version = beside[need.model]
            spec = spec_of(version)
            rows = self.complete(upstream_rows(need, request_of(spec, beside), table), spec.needs, beside)
            outputs = self.workshop.answers(version, to_columns(rows, spec.features))
            table = attach(table, need.column, outputs[need.output])
        return table

    def out_of_fold(self, data: DataSet, rows: Table, spec: ModelSpec, beside: Beside, cutoff: str | None) -> Table:
        """Training rows with a column per need, out of fold. Rows that no fold answers for are dropped.

        With time these are the rows of the first block, before which no upstream could have been trained.
        """
        if not spec.needs:
            return rows
        by = None if data.time is not None else (spec.holdout.by or data.key)
        clock = rows.select([c for c in (data.time, by) if c is not None])
        job = _Rows(rows, clock, data.time, by)
        keep = np.ones(rows.num_rows, dtype=bool)
        for need in spec.needs:
            values, answered = self._values(job, need, beside, cutoff)
            keep &= answered
            rows = attach(rows, need.column, values)
        if not keep.any():
            raise DataError(
                f"{spec.name}: none of its {rows.num_rows:,} training rows has an out-of-fold value of its upstreams",
                where=spec.where,
                hint="Its rows all come before the upstream's first fold: widen the data or move the cutoff.",
            )
        return rows if keep.all() else rows.filter(keep)

    def _values(self, job: _Rows, need: Need, beside: Beside, cutoff: str | None) -> tuple[Array, Array]:
        """(the need's values per row, missing where no fold answers; which rows are answered)."""
        version = beside[need.model]
        spec = spec_of(version)
        if spec.artifact is not None:  # made elsewhere, once: there are no folds of it
            whole = self.complete(upstream_rows(need, request_of(spec, beside), job.table), spec.needs, beside)
            outputs = self.workshop.answers(version, to_columns(whole, spec.features))
            return outputs[need.output], np.ones(job.table.num_rows, dtype=bool)
        inner = _Rows(upstream_rows(need, request_of(spec, beside), job.table), job.clock, job.time, job.by)
        values = np.full(job.table.num_rows, np.nan)
        answered = np.zeros(job.table.num_rows, dtype=bool)
        for fold in self._folds_of(version, beside, job, cutoff):
            chosen = in_fold(job.clock, fold, job.time)
            if not chosen.any():
                continue
            part = inner.only(chosen)
            table, known = part.table, np.ones(part.table.num_rows, dtype=bool)
            for deeper in spec.needs:
                deep, deep_answered = self._values(part, deeper, beside, cutoff)
                table, known = attach(table, deeper.column, deep), known & deep_answered
            model = self._fold_model(version, beside, fold)
            body = {"digest": model.artifact, "format": model.format, "signature": model.signature}
            outputs = self.workshop.answers(version, to_columns(table, spec.features), body)
            given = outputs[need.output]
            if given.dtype == object and values.dtype != object:  # a label may be text
                values = np.full(job.table.num_rows, None, dtype=object)
            values[chosen] = given
            answered[chosen] = known
        return values, answered

    def _folds_of(
        self, version: Version, beside: Beside, job: _Rows, cutoff: str | None
    ) -> tuple[Fold, ...] | tuple[HashFold, ...]:
        if job.time is None:
            assert job.by is not None, "a table without time has a column to hold out by"
            return hash_folds(job.by)
        key = digest([version.id, cutoff])
        with self.workshop.lock(f"folds {key}"):
            if key not in self._folds:
                data = self._dataset(version, beside)
                if data.time is None or cutoff is None:
                    raise DataError(
                        f"{version.model} is needed by a model with time, but its own table has none",
                        hint=f"Declare `time` for the first table of {version.model}.",
                    )
                self._folds[key] = folds(data.train[data.primary].column(data.time), cutoff)
            return self._folds[key]

    def _dataset(self, version: Version, beside: Beside) -> DataSet:
        with self.workshop.lock(f"dataset {version.id}"):
            if version.id not in self._datasets:
                spec, body = spec_of(version), self.workshop.snapshot(version.snapshot)
                pin = Pin.from_json(body["sources"])
                extra = mapped_fields(spec, beside)
                self._datasets[version.id] = split(self.workshop.tables, spec, pin, body["cutoff"], extra)
            return self._datasets[version.id]

    def _fold_model(self, version: Version, beside: Beside, fold: Fold | HashFold) -> FoldModel:
        """The fold's model: made in this apply, cached by an earlier one on the very same rows, or trained now."""
        key = digest([version.id, msgspec.to_builtins(fold)])
        with self.workshop.lock(f"fold {key}"):
            if key not in self._models:
                spec, body = spec_of(version), self.workshop.snapshot(version.snapshot)
                data = self._dataset(version, beside)
                pin = Pin.from_json(body["sources"])
                tables = training(self.workshop.tables, spec, pin, body["cutoff"], fold, mapped_fields(spec, beside))
                before = fold.train_before if isinstance(fold, Fold) else body["cutoff"]
                tables[data.primary] = self.out_of_fold(data, tables[data.primary], spec, beside, before)
                self._models[key] = self._trained(version, spec, tables)
            return self._models[key]

    def _trained(self, version: Version, spec: ModelSpec, tables: Mapping[str, Table]) -> FoldModel:
        content = {name: _content(table) for name, table in tables.items()}
        path = self.workshop.settings.cache / "folds" / f"{digest([version.definition, content])}.json"
        known = _read(path)
        if known is not None and self.workshop.artifacts.has(known.artifact):
            return known
        result = self.workshop.train(spec, version.definition, tables)
        # Every member of a family asks every fold: a proved conversion answers in this process, for nothing.
        sample = to_columns(tables[spec.data[0].table], spec.features)
        served = choose(result, sample, self.workshop.trainers)
        model = FoldModel(self.workshop.artifacts.put_file(served.artifact), served.format, dict(served.signature))
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{threading.get_ident()}")
        scratch.write_bytes(msgspec.json.encode(model))
        scratch.replace(path)
        return model


def _content(table: Table) -> str:
    """The digest of a table's rows."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return digest_bytes(memoryview(sink.getvalue()))


def _read(path: Path) -> FoldModel | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=FoldModel)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None  # a torn cache file is no cache file
