"""Whether the files of one table fit together: types that clash are an error, columns that some lack are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec

SHOWN = 3


def lacking(spec: TableSpec, files: Sequence[Path], named: Sequence[Path]) -> list[str]:
    """A line for each column that some of the files lack. `named` are the files as the user knows them."""
    shapes = shapes_of(files)
    columns = dict.fromkeys(c for shape in shapes for c in shape)
    found = []
    for column in columns:
        without = [path.name for path, shape in zip(named, shapes, strict=True) if column not in shape]
        if without:
            more = f" and {len(without) - SHOWN} more" if len(without) > SHOWN else ""
            found.append(
                f"table {spec.name}: {', '.join(without[:SHOWN])}{more} has no column {column}: missing in its rows"
            )
    return found


def refuse_clash(spec: TableSpec, files: Sequence[Path], named: Sequence[Path]) -> None:
    """Raise DataError, naming both files, for a column whose types do not go together."""
    seen: dict[str, tuple[str, str]] = {}
    for path, shape in zip(named, shapes_of(files), strict=True):
        for column, kind in shape.items():
            first = seen.setdefault(column, (kind, path.name))
            if first[0] != kind:
                raise DataError(
                    f"table {spec.name}: column {column} is {first[0]} in {first[1]} and {kind} in {path.name}",
                    where=spec.where,
                    hint="Write one of the files anew, or leave it out of the pattern.",
                )


def shapes_of(files: Sequence[Path]) -> list[Mapping[str, str]]:
    """Per Parquet file its columns with their kind. A file that cannot be read has none: reading it tells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[Mapping[str, str]] = []
    for path in files:
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowException):
            found.append({})
            continue
        found.append({field.name: _kind(pa, field.type) for field in schema if not pa.types.is_null(field.type)})
    return found


def _kind(pa: object, kind: object) -> str:
    types = pa.types  # type: ignore[attr-defined]  # the module, imported late
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "a number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind):
        return "text"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "a moment"
    return str(kind)
