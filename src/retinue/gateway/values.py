"""Values as they came to values a model takes, strictly: nothing is guessed, every refusal names its row and field.

A field's values are a list (from JSON; None is missing) or an array of numpy (from binary tensors; NaN is missing).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from retinue.core.batching import COLUMNS, MATRIX, ROWS, BatchKey, Column, changed
from retinue.core.contract import Field

_NAN = float("nan")
_INT64 = 2**63
_WORDS = {bool: "a boolean", int: "an integer", float: "a number", str: "text", type(None): "null"}
_NUMBERS = frozenset((float, int))
_EXPECTED = {"FP64": "a number", "INT64": "an integer", "BOOL": "true or false", "BYTES": "text"}
_KINDS: Mapping[str, Any] = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}


class Cleaned(NamedTuple):
    """A column ready to run. `missing` says whether a value is; `problems` maps row → what is wrong with it."""

    values: Column
    missing: bool
    problems: dict[int, str] | None


def clean(values: Column, field: Field) -> Cleaned:
    """Check one column against its field; a missing value stays missing until `arrays`.

    Integers are numbers; a number without a fraction is an integer; booleans are only BOOL, text only BYTES.
    """
    if isinstance(values, np.ndarray):
        return _clean_array(values, field)
    kinds = set(map(type, values))
    missing = type(None) in kinds
    kinds.discard(type(None))
    if (field.nullable or not missing) and _fits(values, kinds, field.dtype):
        return Cleaned(values, missing, None)
    return _one_by_one(values, field)


class RowCleaner:
    """Checks single rows, the most common request: which combinations of types are right is found out once each."""

    __slots__ = ("_fields", "_good", "_integers")

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = tuple(fields)
        self._integers = tuple(index for index, field in enumerate(fields) if field.dtype == "INT64")
        self._good: dict[tuple[type, ...], BatchKey] = {}

    def key(self, values: Sequence[Any]) -> BatchKey | None:
        """The batch key of a row that is right as it is; None for one that needs a closer look."""
        kinds = tuple(map(type, values))
        found = self._good.get(kinds)
        if found is None:
            found = self._look(values, kinds)
        if found is not None and self._integers:
            for index in self._integers:
                value = values[index]
                if value is not None and not -_INT64 <= value < _INT64:
                    return None
        return found

    def _look(self, values: Sequence[Any], kinds: tuple[type, ...]) -> BatchKey | None:
        cleaned = [clean([value], field) for value, field in zip(values, self._fields, strict=True)]
        if any(c.problems or c.values[0] is not value for c, value in zip(cleaned, values, strict=True)):
            return None
        found = (ROWS, changed(self._fields, [c.missing for c in cleaned]))
        if len(self._good) < 1024:
            self._good[kinds] = found
        return found


def clean_matrix(matrix: Any, fields: Sequence[Field]) -> dict[int, str]:
    """What is wrong with the rows of a packed float array [n, k]: row → problem. Empty: it may run as it is."""
    problems: dict[int, str] = {}
    for index, field in enumerate(fields):
        if field.dtype == "FP64" and field.nullable:
            continue
        cleaned = clean(matrix[:, index], field)
        if cleaned.problems:
            problems.update(cleaned.problems)
    return problems


def assemble(form: str, blocks: Sequence[Any]) -> Any:
    """The blocks of several requests, one below the other; all have the same form and columns."""
    if len(blocks) == 1:
        return blocks[0]
    if form == ROWS:
        return [row for block in blocks for row in block]
    if form == MATRIX:
        return np.concatenate(blocks)
    return {name: _joined([block[name] for block in blocks]) for name in blocks[0]}


def columns_of(form: str, block: Any, fields: Sequence[Field]) -> dict[str, Any]:
    """A block as numpy arrays by name: the convention that models are run with."""
    if form == MATRIX:
        return {field.name: matrix_column(block, index, field) for index, field in enumerate(fields)}
    if form == ROWS:
        found: Iterable[tuple[Field, Column]] = zip(fields, map(list, zip(*block, strict=True)), strict=True)
    else:
        found = ((field, block[field.name]) for field in fields)
    return {field.name: array(column, field.dtype) for field, column in found}


def matrix_column(matrix: Any, index: int, field: Field) -> Any:
    """One column of a packed array in the type of its field; it was cleaned, so it fits."""
    column = matrix[:, index]
    if field.dtype in ("INT64", "BOOL") and not np.isnan(column).any():
        return column.astype(_KINDS[field.dtype])
    return column.astype(np.float64)


def array(column: Column, dtype: str) -> Any:
    """A cleaned column as an array: NaN for missing numbers, None for missing text."""
    if isinstance(column, np.ndarray):
        if dtype == "BYTES" or column.dtype == np.float64:
            return column
        return column.astype(_KINDS[dtype] if column.dtype.kind != "f" else np.float64)
    if dtype == "BYTES":
        text = np.empty(len(column), dtype=object)
        text[:] = column
        return text
    if None in column:
        return np.array([_NAN if value is None else value for value in column], dtype=np.float64)
    return np.array(column, dtype=_KINDS[dtype])


def word(value: Any) -> str:
    """What a JSON value is, in words."""
    return _WORDS.get(type(value), "an array" if isinstance(value, list) else "an object")


def _joined(parts: list[Column]) -> Column:
    if all(isinstance(part, list) for part in parts):
        return [value for part in parts for value in part]
    return np.concatenate([part if isinstance(part, np.ndarray) else np.array(part) for part in parts])


def _fits(values: Column, kinds: set[type], dtype: str) -> bool:
    if dtype == "FP64":
        return kinds <= _NUMBERS
    if dtype == "BYTES":
        return kinds <= {str}
    if dtype == "BOOL":
        return kinds <= {bool}
    return kinds <= {int} and all(-_INT64 <= value < _INT64 for value in values if value is not None)


def _clean_array(values: Any, field: Field) -> Cleaned:
    """The same rules for an array; text comes as objects."""
    if values.dtype.kind == "O":
        return clean(values.tolist(), field)
    kind, dtype = values.dtype.kind, field.dtype
    if dtype == "BYTES" or (dtype == "BOOL") != (kind == "b"):
        return clean(values.tolist(), field)
    if kind != "f":
        if kind == "u" and dtype == "INT64" and len(values) and int(values.max()) >= _INT64:
            return _one_by_one(values.tolist(), field)
        if kind == "u" and dtype == "INT64":
            values = values.astype(np.int64)  # beside another request's signed ones it would become a float
        return Cleaned(values, False, None)
    gaps = np.isnan(values)
    missing = bool(gaps.any())
    problems: dict[int, str] = {}
    if missing and not field.nullable:
        problems = {int(row): f"{field.name!r} is missing; it may not be null" for row in np.flatnonzero(gaps)}
    if dtype == "INT64":
        wrong = ~gaps & ((values != np.floor(values)) | (np.abs(values) >= _INT64))
        for row in np.flatnonzero(wrong).tolist():
            problems[row] = f"{field.name!r} must be an integer, not {float(values[row])!r}"
        if not missing and not problems:
            return Cleaned(values.astype(np.int64), False, None)
    return Cleaned(values, missing, problems or None)


def _one_by_one(values: Column, field: Field) -> Cleaned:
    out: list[Any] = []
    problems: dict[int, str] = {}
    for row, value in enumerate(values):
        if value is None:
            out.append(None)
            if not field.nullable:
                problems[row] = f"{field.name!r} is missing; it may not be null"
        elif _fits([value], {type(value)}, field.dtype):
            out.append(value)
        elif field.dtype == "INT64" and type(value) is float and value.is_integer() and abs(value) < _INT64:
            out.append(int(value))
        else:
            out.append(None)
            shown = repr(value) if isinstance(value, str | int | float) else ""
            expected = "within 64 bits" if field.dtype == "INT64" and type(value) is int else _EXPECTED[field.dtype]
            problems[row] = f"{field.name!r} must be {expected}, not {word(value)} {shown[:60]}".rstrip()
    return Cleaned(out, None in out, problems or None)


def key_of(form: str, fields: Sequence[Field], missing: Iterable[bool]) -> BatchKey:
    """The batch key of a block."""
    return form, changed(fields, missing)


__all__ = [
    "COLUMNS", "MATRIX", "ROWS", "Cleaned", "Column", "RowCleaner", "array", "assemble", "clean", "clean_matrix",
    "columns_of", "key_of", "word",
]  # fmt: skip
