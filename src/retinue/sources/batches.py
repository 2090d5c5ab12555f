"""Batches of rows of any driver, written as one Parquet file whose types fit all of them. Memory: one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec


def _arrow(kind: str) -> Any:
    """An Arrow type by our name for it."""
    import pyarrow as pa

    special = {"timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC"), "text": pa.string()}
    return special[kind] if kind in special else pa.type_for_alias(kind)


def write_batches(
    spec: TableSpec,
    names: Sequence[str],
    kinds: Mapping[str, str],
    batches: Iterable[Sequence[Sequence[Any]]],
    folder: Path,
) -> None:
    """Write `folder/0.parquet`. `kinds` are the types that are known beforehand; others are found in the values.

    Raises DataError for a column that mixes types that do not go together.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[Path] = []
    schemas: list[Any] = []
    for rows in batches:
        part = folder.parent / f"part-{len(parts)}.arrow"
        table = _table(spec, names, kinds, rows)
        with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        parts.append(part)
        schemas.append(table.schema)
    schema = _unified(spec, names, kinds, schemas)
    with pq.ParquetWriter(folder / "0.parquet", schema) as out:
        for part in parts:
            with pa.memory_map(str(part)) as source:
                out.write_table(pa.ipc.open_file(source).read_all().cast(schema))
            part.unlink()


def _table(spec: TableSpec, names: Sequence[str], kinds: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> Any:
    import pyarrow as pa

    columns = []
    for place, name in enumerate(names):
        values = [plain(row[place]) for row in rows]
        kind = kinds.get(name)
        if kind == "text":
            values = [v if v is None or isinstance(v, str) else str(v) for v in values]
        try:
            columns.append(pa.array(values, _arrow(kind)) if kind else _guessed(values))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            found = sorted({type(v).__name__ for v in values if v is not None})
            raise DataError(
                f"table {spec.name}: column {name} of the query holds {' and '.join(found)}: {error}",
                where=spec.where,
                hint=f"Let the query give one type, for example CAST({name} AS …).",
            ) from error
    return pa.table(columns, names=list(names))


def _guessed(values: list[Any]) -> Any:
    import pyarrow as pa

    if any(isinstance(v, float) for v in values):
        values = [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
    return pa.array(values)


def _unified(spec: TableSpec, names: Sequence[str], kinds: Mapping[str, str], schemas: Sequence[Any]) -> Any:
    import pyarrow as pa

    try:
        found = pa.unify_schemas(schemas, promote_options="permissive") if schemas else None
    except pa.ArrowException as error:
        raise DataError(
            f"table {spec.name}: the query gives a column different types in different rows: {error}",
            where=spec.where,
            hint="Let the query give one type, for example CAST(column AS …).",
        ) from error
    fields = []
    for name in names:
        kind = found.field(name).type if found is not None else _arrow(kinds.get(name, "text"))
        fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.schema(fields)


def plain(value: Any) -> Any:
    """A driver's value as Arrow takes it: decimals as numbers, what Arrow does not know as text."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list | dict | tuple | set):
        return str(value)
    return value
