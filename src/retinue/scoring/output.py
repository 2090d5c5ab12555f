"""What a scored batch becomes: the columns of the output table, in Arrow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from retinue.core.contract import Field
from retinue.core.errors import DataError, UsageError
from retinue.core.suggest import did_you_mean
from retinue.scoring.release import Wanted
from retinue.scoring.rows import Scored

FACTS = ("release", "model", "version", "fallback", "error")
ROW, ID = "row", "prediction_id"
_TYPES = {"FP64": pa.float64(), "INT64": pa.int64(), "BOOL": pa.bool_(), "BYTES": pa.string()}
_NUMPY: dict[str, Any] = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}
_EXPECTED = {"FP64": "numbers", "INT64": "integers", "BOOL": "true or false", "BYTES": "text"}
_NAMES = pa.dictionary(pa.int32(), pa.string())


@dataclass(slots=True)
class Counts:
    """How many rows each (model, version, by fallback) answered, and the texts of errors with how often they came."""

    rows: int = 0
    errors: int = 0
    models: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)

    def add(self, found: Scored) -> None:
        """Count one batch."""
        self.rows += found.rows
        self.errors += len(found.errors)
        for part in found.parts:
            rows = found.rows if part.rows is None else len(part.rows)
            self.models[part.served.name, part.served.version, part.fallback] += rows
        for text in found.errors.values():
            self.texts[_without_row(text)] += 1
            if len(self.texts) > 1_000:
                self.texts = Counter(dict(self.texts.most_common(100)))


def _without_row(text: str) -> str:
    head, colon, rest = text.partition(": ")
    return rest if colon and head.startswith("row ") else text


def check_columns(name: str, table: str, schema: pa.Schema, wanted: Wanted) -> None:
    """Raise DataError when a column that the name needs is missing, or of a type that no row of it could have."""
    missing = [field.name for field in wanted.needed if field.name not in schema.names]
    if missing:
        first = missing[0]
        more = f" (and {len(missing) - 1} more: {', '.join(missing[1:6])})" if len(missing) > 1 else ""
        raise DataError(
            f"{table} has no column {first!r}, which {name} reads{more}",
            hint=did_you_mean(first, schema.names, limit=20),
        )
    for one in wanted.needed:
        kind = schema.field(one.name).type
        if one.name in wanted.keys and not pa.types.is_nested(kind):
            continue  # a key may be any plain value
        if not _fits(kind, one.dtype):
            raise DataError(
                f"column {one.name!r} of {table} is {kind}; {name} takes {_EXPECTED[one.dtype]} there",
                hint="Correct the table, or score another column under that name through a view.",
            )


def _fits(kind: pa.DataType, dtype: str) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return True
    if dtype == "BYTES":
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
    if dtype == "BOOL":
        return bool(pa.types.is_boolean(kind))
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def passed_through(
    schema: pa.Schema, chosen: Sequence[str], outputs: Sequence[Field], extra: Sequence[str]
) -> list[str]:
    """The input's columns that the output carries. Raises UsageError for unknown ones and for names taken twice."""
    names = list(schema.names) if list(chosen) == ["*"] else list(dict.fromkeys(chosen))
    taken = {*FACTS, *extra, *(field.name for field in outputs)}
    for name in names:
        if name not in schema.names:
            raise UsageError(f"--columns: there is no column {name!r}", hint=did_you_mean(name, schema.names, limit=20))
        if name in taken:
            raise UsageError(
                f"the column {name!r} cannot be passed through: the output has one of that name",
                hint="Leave it out of --columns; `row` tells which row of the input each answer belongs to.",
            )
    return names


def schema_of(outputs: Sequence[Field]) -> list[pa.Field]:
    """The fields of the answers."""
    fields = []
    for one in outputs:
        kind = _TYPES[one.dtype]
        fields.append(pa.field(one.name, pa.list_(kind) if one.width > 1 else kind))
    fields += [pa.field("release", pa.int32()), pa.field("model", _NAMES), pa.field("version", _NAMES)]
    return [*fields, pa.field("fallback", pa.bool_()), pa.field("error", pa.string())]


def answers(found: Scored, outputs: Sequence[Field], release: int) -> list[pa.Array]:
    """The answers of a batch, one array for each field of `schema_of`; null where a row has an error."""
    n = found.rows
    arrays = [_output(found, one) for one in outputs]
    codes = np.full(n, -1, dtype=np.int32)
    second = np.zeros(n, dtype=bool)
    names: list[str] = []
    versions: list[str] = []
    for number, part in enumerate(found.parts):
        place = slice(None) if part.rows is None else part.rows
        codes[place] = number
        second[place] = part.fallback
        names.append(part.served.name)
        versions.append(part.served.version)
    gaps = codes < 0 if found.errors else None
    arrays.append(pa.repeat(pa.scalar(release, pa.int32()), n))
    arrays += [_coded(codes, gaps, values) for values in (names, versions)]
    arrays.append(pa.array(second, mask=gaps))
    errors = pa.nulls(n, pa.string())
    if found.errors:
        texts: list[str | None] = [None] * n
        for row, text in found.errors.items():
            texts[row] = text
        errors = pa.array(texts, pa.string())
    return [*arrays, errors]


def _coded(codes: Any, gaps: Any, values: list[str]) -> pa.Array:
    known = list(dict.fromkeys(values))
    if len(known) != len(values):
        places = np.array([known.index(value) for value in values], dtype=np.int32)
        codes = np.where(codes < 0, -1, places[codes])
    indices = pa.array(codes.astype(np.int32, copy=False), mask=gaps)
    return pa.DictionaryArray.from_arrays(indices, pa.array(known, pa.string()))


def _output(found: Scored, one: Field) -> pa.Array:
    """One output of all rows; null where no part has it."""
    if len(found.parts) == 1 and found.parts[0].rows is None:
        return _array(found.parts[0].outputs[one.name], one, None)
    shape = (found.rows,) if one.width == 1 else (found.rows, one.width)
    values = np.zeros(shape, dtype=_NUMPY[one.dtype])
    gaps = np.ones(found.rows, dtype=bool)
    for part in found.parts:
        made = part.outputs.get(one.name)
        if made is not None and np.shape(made)[1:] == shape[1:]:
            place = slice(None) if part.rows is None else part.rows
            values[place] = made
            gaps[place] = False
    return _array(values, one, gaps if gaps.any() else None)


def _array(values: Any, one: Field, gaps: Any) -> pa.Array:
    kind = _TYPES[one.dtype]
    if one.width == 1:
        return pa.array(values, kind, mask=gaps, from_pandas=False)
    flat = pa.array(np.ascontiguousarray(values).ravel(), kind)
    ends = np.arange(len(values) + 1, dtype=np.int32) * one.width
    return pa.ListArray.from_arrays(pa.array(ends), flat, mask=None if gaps is None else pa.array(gaps))
