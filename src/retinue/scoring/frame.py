"""`predict(df)`: a data frame in, the same kind of frame out: Arrow, pandas (with its index) or polars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from retinue.core.errors import DataError, UsageError
from retinue.scoring.models import Models
from retinue.scoring.output import answers, check_columns, schema_of
from retinue.scoring.release import ScoringRelease
from retinue.scoring.rows import RowScorer
from retinue.scoring.tables import BATCH


class Predictor:
    """One endpoint or model of one release. Use as a context manager, or `close` it: it may hold worker processes."""

    def __init__(self, release: ScoringRelease, models: Models, name: str) -> None:
        """Raises UnknownModelError, UnavailableError."""
        self.name = name
        self.release = release.number
        self._release = release
        self._models = models
        self._wanted = release.wanted(name)
        self._scorer = RowScorer(release, models, name)

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End worker processes and close the release file."""
        self._models.close()
        self._release.close()

    def predict(self, frame: Any) -> Any:
        """The answers, one row per row: outputs, release, model, version, fallback, error (null where all is well).

        `frame` is a pyarrow Table or RecordBatch, a pandas or a polars DataFrame; the same kind comes back, pandas
        with its index. Raises DataError for a missing or mistyped column, UsageError for another kind of object.
        """
        kind = type(frame).__module__.partition(".")[0]
        if isinstance(frame, pa.RecordBatch):
            return self._arrow(pa.Table.from_batches([frame])).combine_chunks().to_batches()[0]
        if isinstance(frame, pa.Table):
            return self._arrow(frame)
        if kind == "pandas" and hasattr(frame, "columns"):
            found = self._arrow(_of_pandas(frame, [field.name for field in self._fields()])).to_pandas()
            found.index = frame.index
            return found
        if kind == "polars" and hasattr(frame, "to_arrow"):
            import polars

            return polars.from_arrow(self._arrow(frame.to_arrow()))
        raise UsageError(
            f"predict takes a pyarrow Table, a pandas or a polars DataFrame, not {type(frame).__name__}",
            hint="A single row is a frame of one row.",
        )

    def _fields(self) -> list[Any]:
        return [*self._wanted.needed, *self._wanted.optional]

    def _arrow(self, table: pa.Table) -> pa.Table:
        check_columns(self.name, "the frame", table.schema, self._wanted)
        table = table.select([field.name for field in self._fields() if field.name in table.schema.names])
        schema = pa.schema(schema_of(self._wanted.outputs))
        made = []
        start = 0
        for batch in table.combine_chunks().to_batches(max_chunksize=BATCH):
            found = self._scorer.score(batch, np.arange(start, start + batch.num_rows))
            start += batch.num_rows
            arrays = answers(found, self._wanted.outputs, self.release)
            made.append(pa.table(dict(zip(schema.names, arrays, strict=True)), schema=schema))
        return pa.concat_tables(made).unify_dictionaries() if made else schema.empty_table()


def _of_pandas(frame: Any, names: list[str]) -> pa.Table:
    there = [name for name in names if name in frame.columns]
    doubled = [name for name in there if list(frame.columns).count(name) > 1]
    if doubled:
        raise DataError(f"the frame has two columns {doubled[0]!r}", hint="Drop or rename one.")
    if len(there) < len(names):
        there = [str(name) for name in frame.columns if isinstance(name, str)]  # for the error's did-you-mean
        names = [name for name in names if name in there]
        shape = {name: pa.array([], pa.null()) for name in there if name not in names}
        if not names:
            return pa.table(shape)
    try:
        table = pa.Table.from_pandas(frame[[name for name in names if name in frame.columns]], preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(
            f"a column of the frame mixes types: {' '.join(str(one) for one in error.args)}",
            hint="Give each column one type.",
        ) from error
    for name in there:
        if name not in table.schema.names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table
