"""JSON values to typed columns, strictly: nothing is guessed, every refusal names its row and field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from retinue.core.batching import BatchKey, batch_key
from retinue.core.contract import Field

Column = list[Any]
_NAN = float("nan")
_INT64 = 2**63
_WORDS = {bool: "a boolean", int: "an integer", float: "a number", str: "text", type(None): "null"}
_NUMBERS = frozenset((float, int))
_EXPECTED = {"FP64": "a number", "INT64": "an integer", "BOOL": "true or false", "BYTES": "text"}


class Cleaned(NamedTuple):
    """A column ready to merge. `missing` says whether a value is; `problems` maps row → what is wrong with it."""

    values: Column
    missing: bool
    problems: dict[int, str] | None


def clean(values: Column, field: Field) -> Cleaned:
    """Check one column of JSON values against its field; None is missing and stays None until `arrays`.

    Integers are numbers; a number without a fraction is an integer; booleans are only BOOL, text only BYTES.
    """
    kinds = set(map(type, values))
    missing = type(None) in kinds
    kinds.discard(type(None))
    if (field.nullable or not missing) and _fits(values, kinds, field.dtype):
        return Cleaned(values, missing, None)
    return _one_by_one(values, field)


class RowCleaner:
    """Checks single rows, the most common request: which combinations of types are right is found out once each."""

    __slots__ = ("_fields", "_good", "_integers", "names")

    def __init__(self, names: Sequence[str], fields: Sequence[Field]) -> None:
        self.names = tuple(names)  # of the request's fields, in the order of `fields`
        self._fields = tuple(fields)
        self._integers = tuple(index for index, field in enumerate(fields) if field.dtype == "INT64")
        self._good: dict[tuple[type, ...], BatchKey] = {}

    def key(self, values: Column) -> BatchKey | None:
        """The batch key of a row that is right as it is; None for one that needs a closer look."""
        kinds = tuple(map(type, values))
        found = self._good.get(kinds)
        if found is None:
            cleaned = [clean([value], field) for value, field in zip(values, self._fields, strict=True)]
            if any(c.problems or c.values[0] is not value for c, value in zip(cleaned, values, strict=True)):
                return None
            found = batch_key(self._fields, [c.missing for c in cleaned])
            if len(self._good) < 1024:
                self._good[kinds] = found
        for index in self._integers:
            value = values[index]
            if value is not None and not -_INT64 <= value < _INT64:
                return None
        return found


def arrays(columns: Sequence[Column], fields: Sequence[Field]) -> dict[str, Any]:
    """Cleaned columns as numpy arrays, by name: the convention that models are run with."""
    return {field.name: _array(column, field.dtype) for field, column in zip(fields, columns, strict=True)}


def word(value: Any) -> str:
    """What a JSON value is, in words."""
    return _WORDS.get(type(value), "an array" if isinstance(value, list) else "an object")


def _fits(values: Column, kinds: set[type], dtype: str) -> bool:
    if dtype == "FP64":
        return kinds <= _NUMBERS
    if dtype == "BYTES":
        return kinds <= {str}
    if dtype == "BOOL":
        return kinds <= {bool}
    return kinds <= {int} and all(-_INT64 <= value < _INT64 for value in values if value is not None)


def _one_by_one(values: Column, field: Field) -> Cleaned:
    out: Column = []
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


def _array(column: Column, dtype: str) -> Any:
    if dtype == "BYTES":
        array = np.empty(len(column), dtype=object)
        array[:] = column
        return array
    if None in column:
        return np.array([_NAN if value is None else value for value in column], dtype=np.float64)
    return np.array(column, dtype={"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}[dtype])
