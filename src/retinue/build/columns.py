"""Between Arrow tables and the batches that models run on: one numpy array per column.

FP64 is float64 with NaN for missing; INT64 is int64, BOOL is bool, both float64 with NaN if some are missing;
BYTES is an object array of str with None for missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinue.core.contract import NUMERIC, ColumnProfile, DType, Field
from retinue.core.errors import DataError
from retinue.core.portfolio import ModelSpec, Need
from retinue.core.suggest import did_you_mean

Array = NDArray[Any]
Columns = dict[str, Array]
Table = Any
"""A pyarrow.Table; Arrow is imported only where one is made."""

MAX_CATEGORIES = 200


def dtype_of(kind: Any) -> DType:
    """The wire type of an Arrow type. Raises DataError for what no request can carry (moments, nested values)."""
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return "BOOL"
    if pa.types.is_integer(kind):
        return "INT64"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "FP64"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "BYTES"
    raise DataError(
        f"a column of type {kind} cannot be a model's input",
        hint="Make numbers or text of it in a view, for example hour(sched_dep) or epoch(sched_dep).",
    )


def input_fields(table: Table, names: Sequence[str]) -> tuple[Field, ...]:
    """The contract's inputs for these columns, in order. Raises DataError for a missing or unusable column."""
    return tuple(Field(name, dtype_of(_column(table, name).type)) for name in names)


def to_columns(table: Table, names: Sequence[str]) -> Columns:
    """These columns as a batch; moments as text, lists of one width k as [n, k]. Raises DataError for unknown names."""
    return {name: _array(_column(table, name)) for name in names}


def from_columns(columns: Mapping[str, Array], types: Mapping[str, DType] | None = None) -> Table:
    """A batch as a table: NaN and None become null. `types` names the wire type where the array cannot tell it
    (an INT64 or BOOL column that came as float64 because some are missing)."""
    import pyarrow as pa

    arrow = {"BOOL": pa.bool_(), "INT64": pa.int64(), "FP64": pa.float64(), "BYTES": pa.string()}
    made = {}
    for name, values in columns.items():
        column = _arrow(np.asarray(values))
        wanted = (types or {}).get(name)
        made[name] = column.cast(arrow[wanted]) if wanted is not None else column
    return pa.table(made)


def attach(table: Table, column: str, values: Array) -> Table:
    """The table with `values` [n] as column `column`, replaced if it is there. Raises ValueError for another n."""
    if len(values) != table.num_rows:
        raise ValueError(f"{len(values)} values for {table.num_rows} rows of column {column}")
    data = _arrow(np.asarray(values))
    at = table.schema.get_field_index(column)
    return table.append_column(column, data) if at < 0 else table.set_column(at, column, data)


def upstream_rows(need: Need, upstream_features: Sequence[str], table: Table) -> Table:
    """The upstream's inputs for the rows of a downstream's table: each feature from the column it is mapped to.

    A feature that is not mapped is taken from the column of its own name. Raises DataError when there is none.
    """
    import pyarrow as pa

    mapped = dict(need.inputs)
    return pa.table({f: _column(table, mapped.get(f, f), f"input {f} of {need.model}") for f in upstream_features})


def target_values(table: Table, spec: ModelSpec) -> Array:
    """The target [n]: float64 for numbers; otherwise labels as bool, int64, float64 or str objects.

    Of a forecast [n, horizon], the targets of the steps.
    """
    if spec.task == "forecast":
        steps = to_columns(table, spec.forecast.steps(spec.target))
        return np.column_stack([values.astype(np.float64) for values in steps.values()])
    values = to_columns(table, [spec.target])[spec.target]
    return values.astype(np.float64) if spec.task in NUMERIC else values


def profile(table: Table, inputs: Sequence[str]) -> list[ColumnProfile]:
    """What these columns hold: share of missing, bounds of numbers, categories of text if at most 200."""
    import pyarrow.compute as pc

    found = []
    for name in inputs:
        column = _column(table, name)
        dtype = dtype_of(column.type)
        if dtype == "FP64":
            column = pc.if_else(pc.is_finite(column.cast("float64")), column.cast("float64"), None)
        missing = column.null_count / len(column) if len(column) else 0.0
        if dtype == "BYTES":
            distinct = pc.unique(column).drop_null()
            kept = tuple(sorted(distinct.to_pylist())) if len(distinct) <= MAX_CATEGORIES else None
            found.append(ColumnProfile(name, missing, categories=kept))
        else:
            bounds = pc.min_max(column.cast("int64") if dtype == "BOOL" else column)
            low, high = bounds["min"].as_py(), bounds["max"].as_py()
            found.append(
                ColumnProfile(name, missing, None if low is None else float(low), None if high is None else float(high))
            )
    return found


def _column(table: Table, name: str, what: str | None = None) -> Any:
    if name not in table.column_names:
        raise DataError(
            f"there is no column {name}" + (f" for {what}" if what else ""),
            hint=f"{did_you_mean(name, table.column_names)} Correct `features` or the `inputs` of `needs`.",
        )
    return table.column(name)


def _array(column: Any) -> Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_timestamp(kind):
        column = pc.strftime(column, format="%Y-%m-%d %H:%M:%S")
        kind = column.type
    if pa.types.is_fixed_size_list(kind):
        flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        return np.asarray(flat.flatten().to_numpy(zero_copy_only=False), dtype=np.float64).reshape(
            len(column), kind.list_size
        )
    dtype = dtype_of(kind)
    if dtype == "BYTES":
        return np.array(column.to_pylist(), dtype=object)
    if dtype == "FP64" or column.null_count:
        return np.asarray(column.cast("float64").to_numpy(), dtype=np.float64)
    return np.asarray(column.to_numpy(), dtype=np.int64 if dtype == "INT64" else np.bool_)


def _arrow(values: Array) -> Any:
    import pyarrow as pa

    if values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float64).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    if values.dtype.kind == "f":
        return pa.array(values.astype(np.float64), from_pandas=True)
    if values.dtype.kind in "iu":
        return pa.array(values.astype(np.int64))
    if values.dtype.kind == "b":
        return pa.array(values)
    return pa.array([None if v is None or v != v else str(v) for v in values], pa.string())  # noqa: PLR0124 - NaN
