"""The Open Inference Protocol V2 in JSON: requests to columns, parts to answers, metadata.

Endpoint names are model names too; their version is the release's number. Unknown keys are ignored, unknown inputs
and outputs are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import orjson

from retinue.core.contract import Field
from retinue.core.errors import InferenceError, RequestError
from retinue.gateway.dataplane import Call, Part
from retinue.gateway.values import Column

VERSION = version("retinue")
MAX_DIMENSIONS = 8  # of a tensor that is read at all; the product of more could be a number of any length

_RANGES = {f"{sign}INT{bits}": ((0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
           for sign in ("", "U") for bits in (8, 16, 32, 64)}  # fmt: skip
_INTEGERS = frozenset(_RANGES)
_FLOATS = frozenset(("FP32", "FP64"))
_TAKES = {"FP64": _FLOATS | _INTEGERS, "INT64": _INTEGERS, "BOOL": frozenset(("BOOL",)), "BYTES": frozenset(("BYTES",))}
_KNOWN = _FLOATS | _INTEGERS | {"BOOL", "BYTES"}


class ColumnTable:
    """A request's columns."""

    __slots__ = ("_columns", "_rows")

    def __init__(self, columns: dict[str, Column], rows: int) -> None:
        self._columns = columns
        self._rows = rows

    def column(self, name: str, rows: Sequence[int]) -> Column:
        """The values of one input in these rows; None where it is missing."""
        values = self._columns.get(name)
        if values is None:
            return [None] * len(rows)
        return values if len(rows) == self._rows else [values[row] for row in rows]

    def values(self, names: Sequence[str], row: int) -> Column:
        """Several inputs of one row."""
        columns = [self._columns.get(name) for name in names]
        return [None if column is None else column[row] for column in columns]


class InferRequest(NamedTuple):
    """A parsed inference request. `outputs` None means all."""

    table: ColumnTable
    rows: int
    id: str | None
    outputs: tuple[str, ...] | None


class Tensor(NamedTuple):
    """One input as it came, its data flat."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


def parse(body: bytes, fields: Sequence[Field], outputs: Sequence[Field]) -> InferRequest:
    """The request in `body` for a model with these inputs and outputs. Raises RequestError."""
    document = read_object(body)
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError("`id` must be text")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError("`inputs` must be a non-empty array of tensors")
    tensors = [_tensor(index, entry) for index, entry in enumerate(inputs)]
    known = {field.name: field for field in fields}
    first = tensors[0]
    if len(tensors) == 1 and len(first.shape) == 2 and (first.shape[1] != 1 or first.name not in known):
        columns, rows = _packed(first, fields), first.shape[0]
    else:
        columns, rows = _separate(tensors, known)
    if rows == 0:
        raise RequestError("the inputs have no rows")
    return InferRequest(ColumnTable(columns, rows), rows, request_id, _wanted(document.get("outputs"), outputs))


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises RequestError (NaN, infinities and invalid UTF-8 are no JSON)."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}" if body else "the body is empty") from error
    if not isinstance(document, dict):
        raise RequestError("the body must be a JSON object")
    return document


def answer(call: Call, request: InferRequest, outputs: Sequence[Field]) -> bytes:
    """The answer to a call in which no row failed. Raises InferenceError when its models' outputs differ."""
    release = call.release
    wanted = [f for f in outputs if request.outputs is None or f.name in request.outputs]
    if request.outputs is not None:
        wanted.sort(key=lambda f: request.outputs.index(f.name) if request.outputs else 0)
    parameters: dict[str, Any] = {
        "release": release.number,
        "prediction_ids": orjson.dumps([f"{call.id}-{row}" for row in range(call.rows)]).decode(),
    }
    if call.route is not None:
        parameters["models"] = orjson.dumps(models_per_row(call)).decode()
    document = {
        "model_name": call.name,
        "model_version": str(release.number) if call.route else call.parts[0].model.served.version,
        "id": request.id if request.id is not None else call.id,
        "parameters": parameters,
        "outputs": [
            {
                "name": field.name,
                "shape": [call.rows] if field.width == 1 else [call.rows, field.width],
                "datatype": field.dtype,
                "data": _gather(call, field),
            }
            for field in wanted
        ],
    }
    return orjson.dumps(document)


def models_per_row(call: Call) -> list[dict[str, Any] | None]:
    """For each row the model and version that answered and whether as fallback; None where the row failed."""
    rows: list[dict[str, Any] | None] = [None] * call.rows
    for part in call.parts:
        entry = {
            "model": part.model.served.name,
            "version": part.model.served.version,
            "fallback": part.fallback,
        }
        for row in part.rows:
            rows[row] = entry
    return rows


def tensors(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Fields as the protocol's metadata says them; the number of rows is variable."""
    return [{"name": f.name, "datatype": f.dtype, "shape": [-1] if f.width == 1 else [-1, f.width]} for f in fields]


def _tensor(index: int, entry: Any) -> Tensor:
    if not isinstance(entry, dict):
        raise RequestError(f"inputs[{index}] must be an object")
    name, shape, datatype, data = (entry.get(key) for key in ("name", "shape", "datatype", "data"))
    if not isinstance(name, str):
        raise RequestError(f"inputs[{index}] has no `name`")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise RequestError(f"input {name!r}: `shape` must be an array of sizes")
    if len(shape) > MAX_DIMENSIONS:
        raise RequestError(f"input {name!r}: `shape` has {len(shape)} dimensions; [n] or [n, k] is served")
    if not isinstance(datatype, str) or datatype not in _KNOWN:
        raise RequestError(
            f"input {name!r}: datatype {datatype!r:.80} is not served in JSON; {', '.join(sorted(_KNOWN))} are"
        )
    if not isinstance(data, list):
        raise RequestError(f"input {name!r}: `data` must be an array")
    flat = _flat(data)
    count = 1
    for size in shape:
        count *= size
    if len(flat) != count:
        raise RequestError(f"input {name!r} has {len(flat)} values, its shape {shape} says {count}")
    _check_range(name, datatype, flat)
    return Tensor(name, shape, datatype, flat)


def _flat(data: list[Any]) -> list[Any]:
    for _ in range(8):
        if not any(type(value) is list for value in data):
            return data
        flat: list[Any] = []
        for value in data:
            if type(value) is list:
                flat += value
            else:
                flat.append(value)
        data = flat
    raise RequestError("`data` is nested too deeply")


def _check_range(name: str, datatype: str, flat: list[Any]) -> None:
    if datatype not in _RANGES:
        return
    low, high = _RANGES[datatype]
    for index, value in enumerate(flat):
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise RequestError(f"input {name!r}: value {index} is no {datatype}: {value!r:.60}")


def _check_type(tensor: Tensor, field: Field) -> None:
    if tensor.datatype not in _TAKES[field.dtype]:
        raise RequestError(f"input {tensor.name!r} has datatype {tensor.datatype}; {field.name!r} takes {field.dtype}")


def _packed(tensor: Tensor, fields: Sequence[Field]) -> dict[str, Column]:
    """One numeric tensor [n, k]: its columns are the model's inputs in the order of the metadata."""
    width = tensor.shape[1]
    if any(field.dtype not in ("FP64", "INT64") for field in fields):
        raise RequestError(
            f"input {tensor.name!r} is packed, but not all inputs are numbers; send one input per feature"
        )
    if width != len(fields):
        raise RequestError(f"input {tensor.name!r} has {width} columns, the model has {len(fields)} inputs")
    for field in fields:
        if not (field.dtype == "INT64" and tensor.datatype in _FLOATS):  # whole numbers may come as floats here
            _check_type(tensor, field)
    return {field.name: tensor.data[index::width] for index, field in enumerate(fields)}


def _separate(tensors: Sequence[Tensor], known: dict[str, Field]) -> tuple[dict[str, Column], int]:
    columns: dict[str, Column] = {}
    rows = tensors[0].shape[0]
    for tensor in tensors:
        field = known.get(tensor.name)
        if field is None:
            raise RequestError(f"unknown input {tensor.name!r}; there are {', '.join(map(repr, known))}")
        if tensor.name in columns:
            raise RequestError(f"input {tensor.name!r} is given twice")
        if len(tensor.shape) > 2 or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
            raise RequestError(f"input {tensor.name!r} must have shape [n] or [n, 1], not {tensor.shape}")
        if tensor.shape[0] != rows:
            raise RequestError(f"input {tensor.name!r} has {tensor.shape[0]} rows, {tensors[0].name!r} has {rows}")
        _check_type(tensor, field)
        columns[tensor.name] = tensor.data
    return columns, rows


def _wanted(entries: Any, outputs: Sequence[Field]) -> tuple[str, ...] | None:
    if entries is None or entries == []:
        return None
    if not isinstance(entries, list):
        raise RequestError("`outputs` must be an array")
    known = [field.name for field in outputs]
    wanted: list[str] = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in known:
            raise RequestError(f"unknown output {name!r}; there are {', '.join(map(repr, known))}")
        if name in wanted:
            raise RequestError(f"output {name!r} is requested twice")
        wanted.append(str(name))
    return tuple(wanted)


def _gather(call: Call, field: Field) -> list[Any]:
    """One output over all rows, row-major and flat, in the order of the request."""
    parts: list[Part] = call.parts
    for part in parts:
        if field.name not in part.outputs:
            raise InferenceError(f"{part.model.served.name!r} has no output {field.name!r}, which other rows have")
    rows: list[Any] = [None] * call.rows if len(parts) > 1 else parts[0].outputs[field.name]
    if len(parts) > 1:
        for part in parts:
            for row, value in zip(part.rows, part.outputs[field.name], strict=True):
                rows[row] = value
    return rows if field.width == 1 else [value for row in rows for value in row]
