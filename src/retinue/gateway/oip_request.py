"""Tensors of a request, however they came, to the rows of a table: what all doors of the protocol share.

One tensor [n, k] of numbers stays one array; separate inputs are one column each. Nothing is guessed: unknown inputs,
wrong types and shapes that do not fit are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from retinue.core.contract import Field
from retinue.core.errors import RequestError
from retinue.gateway.oip_types import TAKES, Tensor, given

MAX_DIMENSIONS = 8  # of a tensor that is read at all; the product of more could be a number of any length
MAX_KNOWN = 20_000  # contracts that are kept taken apart


class Contract:
    """What a request may bring and ask for, taken apart once per model and release."""

    __slots__ = ("fields", "known", "names", "outputs", "packable", "places", "whole")

    def __init__(self, fields: Sequence[Field], outputs: Sequence[Field]) -> None:
        self.fields = fields
        self.outputs = outputs
        self.names = tuple(field.name for field in fields)
        self.places = {name: index for index, name in enumerate(self.names)}
        self.known = {field.name: (field, TAKES[field.dtype]) for field in fields}
        self.packable = all(field.dtype in ("FP64", "INT64") for field in fields)
        self.whole = all(field.dtype == "FP64" for field in fields)


_contracts: dict[int, Contract] = {}


def contract(fields: Sequence[Field], outputs: Sequence[Field]) -> Contract:
    """The contract of these very sequences; found by identity, because they are the release's own."""
    found = _contracts.get(id(fields))
    if found is None or found.fields is not fields or found.outputs is not outputs:
        if len(_contracts) >= MAX_KNOWN:
            _contracts.clear()
        found = _contracts[id(fields)] = Contract(fields, outputs)
    return found


class ColumnTable:
    """A request's rows as columns, lists or arrays; None where an input was not sent."""

    __slots__ = ("_columns", "_rows", "matrix", "names")

    def __init__(self, columns: Mapping[str, Any], rows: int) -> None:
        self._columns = columns
        self._rows = rows
        self.matrix: Any = None
        self.names: Sequence[str] = ()

    def column(self, name: str, rows: Sequence[int]) -> Any:
        """The values of one input in these rows; None where it is missing."""
        values = self._columns.get(name)
        if values is None:
            return [None] * len(rows)
        if len(rows) == self._rows:
            return values
        return values[np.asarray(rows)] if isinstance(values, np.ndarray) else [values[row] for row in rows]

    def content(self) -> Mapping[str, Any]:
        """Everything that was sent, by name."""
        return {name: values for name, values in self._columns.items() if values is not None}

    def values(self, names: Sequence[str], row: int) -> list[Any]:
        """Several inputs of one row, as Python values."""
        columns = [self._columns.get(name) for name in names]
        return [None if column is None else _item(column, row) for column in columns]


class LineTable:
    """A request of one row, the commonest: its values in the order of `names`, without a list or array per input."""

    __slots__ = ("_line", "matrix", "names")

    def __init__(self, names: Sequence[str], line: Sequence[Any]) -> None:
        self.names: Sequence[str] = names
        self._line = line
        self.matrix: Any = None

    def column(self, name: str, rows: Sequence[int]) -> list[Any]:
        """The value of one input, as a column of one."""
        return list(self.values((name,), 0)) * len(rows)

    def content(self) -> Mapping[str, Any]:
        """Everything that was sent, by name."""
        return {name: [value] for name, value in zip(self.names, self._line, strict=True)}

    def values(self, names: Sequence[str], row: int) -> Sequence[Any]:
        """Several inputs; None where one was not sent."""
        if names == self.names:
            return self._line
        found = dict(zip(self.names, self._line, strict=True))
        return [found.get(name) for name in names]


class PackedTable:
    """A request's rows as they came: one array [n, k], its columns in the order of `names`; NaN is missing.

    `matrix` is that array when it holds floats: whole numbers may be meant for inputs that are integers.
    """

    __slots__ = ("_array", "_places", "matrix", "names")

    def __init__(self, array: Any, names: Sequence[str], places: Mapping[str, int]) -> None:
        self._array = array
        self._places = places
        self.names: Sequence[str] = names
        self.matrix: Any = array if array.dtype.kind == "f" else None

    def column(self, name: str, rows: Sequence[int]) -> Any:
        """The values of one input in these rows."""
        place = self._places.get(name)
        if place is None:
            return [None] * len(rows)
        column = self._array[:, place]
        return column if len(rows) == len(column) else column[np.asarray(rows)]

    def content(self) -> Mapping[str, Any]:
        """Everything that was sent, by name."""
        return {name: self._array[:, place] for name, place in self._places.items()}

    def values(self, names: Sequence[str], row: int) -> list[Any]:
        """Several inputs of one row, as Python values."""
        line: list[Any] = list(map(given, self._array[row].tolist()))
        if names == self.names:
            return line
        places = [self._places.get(name) for name in names]
        return [None if place is None else line[place] for place in places]


RequestTable = ColumnTable | LineTable | PackedTable


class Wanted(NamedTuple):
    """One requested output."""

    name: str
    binary: bool = False
    classes: int = 0  # of the classification extension; 0: the values themselves
    content_type: str | None = None  # said back, for clients that decode by it


class InferRequest(NamedTuple):
    """A parsed inference request. `outputs` None means all, in the contract's order.

    `priority`: 0 urgent, 1 normal, 2 patient, None when the client did not say. `timeout`: seconds, None likewise.
    """

    table: RequestTable
    rows: int
    id: str | None
    outputs: tuple[str, ...] | None
    priority: int | None = None
    timeout: float | None = None
    wanted: tuple[Wanted, ...] | None = None
    binary: bool = False  # of the outputs that do not say
    content_type: str | None = None


def build(tensors: Sequence[Tensor], agreed: Contract) -> tuple[RequestTable, int]:
    """Table and number of rows. Raises RequestError."""
    table: RequestTable
    first = tensors[0]
    if len(tensors) == 1 and len(first.shape) == 2 and (first.shape[1] != 1 or first.name not in agreed.known):
        table, rows = _packed(first, agreed), first.shape[0]
    else:
        columns, rows = _separate(tensors, agreed)
        table = ColumnTable(columns, rows)
    if rows == 0:
        raise RequestError("the inputs have no rows")
    return table, rows


def elements(name: str, shape: Any) -> int:
    """How many elements a shape has. Raises RequestError for what is no shape."""
    if not isinstance(shape, list) or not shape or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise RequestError(f"input {name!r}: `shape` must be an array of sizes")
    if len(shape) > MAX_DIMENSIONS:
        raise RequestError(f"input {name!r}: `shape` has {len(shape)} dimensions; [n] or [n, k] is served")
    count = 1
    for size in shape:
        count *= size
    return count


def schedule(parameters: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Priority (1 is the protocol's highest, 0 its default) and timeout (microseconds there, seconds here).

    Raises RequestError.
    """
    priority, timeout = parameters.get("priority"), parameters.get("timeout")
    for name, value in (("priority", priority), ("timeout", timeout)):
        if value is not None and (type(value) is not int or not 0 <= value < 2**64):
            raise RequestError(f"parameter `{name}` must be an integer from 0, not {value!r:.60}")
    return (min(priority, 3) - 1 if priority else None), (timeout / 1e6 if timeout else None)


def _packed(tensor: Tensor, agreed: Contract) -> ColumnTable | PackedTable:
    """One numeric tensor [n, k]: its columns are the model's inputs in the order of the metadata."""
    rows, width = tensor.shape
    if not agreed.packable:
        raise RequestError(
            f"input {tensor.name!r} is packed, but not all inputs are numbers; send one input per feature"
        )
    if width != len(agreed.fields):
        raise RequestError(f"input {tensor.name!r} has {width} columns, the model has {len(agreed.fields)} inputs")
    if tensor.datatype not in TAKES["FP64"]:
        raise RequestError(
            f"input {tensor.name!r} has datatype {tensor.datatype}; {agreed.names[0]!r} takes {agreed.fields[0].dtype}"
        )
    values = tensor.values
    if isinstance(values, np.ndarray):
        if agreed.whole and values.dtype.kind != "f":
            values = values.astype(np.float64)
        return PackedTable(values.reshape(rows, width), agreed.names, agreed.places)
    return ColumnTable({name: values[index::width] for index, name in enumerate(agreed.names)}, rows)


def _separate(tensors: Sequence[Tensor], agreed: Contract) -> tuple[dict[str, Any], int]:
    columns: dict[str, Any] = {}
    rows = tensors[0].shape[0]
    for name, shape, datatype, values in tensors:
        found = agreed.known.get(name)
        if found is None:
            raise RequestError(f"unknown input {name!r}; there are {', '.join(map(repr, agreed.names))}")
        if name in columns:
            raise RequestError(f"input {name!r} is given twice")
        if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
            raise RequestError(f"input {name!r} must have shape [n] or [n, 1], not {list(shape)}")
        if shape[0] != rows:
            raise RequestError(f"input {name!r} has {shape[0]} rows, {tensors[0].name!r} has {rows}")
        if datatype not in found[1]:
            raise RequestError(f"input {name!r} has datatype {datatype}; {name!r} takes {found[0].dtype}")
        columns[name] = values
    return columns, rows


def _item(column: Any, row: int) -> Any:
    return given(column[row].item()) if isinstance(column, np.ndarray) else column[row]
