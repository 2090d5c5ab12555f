"""Tensors in JSON: flat or nested data, checked against shape and data type; many numbers become one array."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from retinue.core.errors import RequestError
from retinue.gateway.oip_request import MAX_DIMENSIONS, Contract, LineTable, elements
from retinue.gateway.oip_types import FLOATS, IN_JSON, INTEGERS, RANGES, Tensor, text_of

SMALL = 32  # values of a tensor up to which lists are faster than arrays
_NUMBERS = frozenset((int, float, type(None)))
_ONE = ([1], [1, 1])


def line(inputs: Sequence[Any], agreed: Contract) -> LineTable | None:
    """The commonest request: one row, one value per input or one packed tensor. None: it needs the closer look."""
    names: list[str] = []
    values: list[Any] = []
    known = agreed.known
    try:
        if len(inputs) == 1 and inputs[0]["shape"] not in _ONE:
            return _packed_line(inputs[0], agreed)
        for entry in inputs:
            name, data, datatype = entry["name"], entry["data"], entry["datatype"]
            if type(data) is not list or entry["shape"] not in _ONE or datatype not in known[name][1]:
                return None
            (value,) = data
            if type(value) is list or "parameters" in entry or datatype not in IN_JSON:
                return None
            if datatype in RANGES and not _in_range(datatype, value):
                return None
            names.append(name)
            values.append(value)
    except (KeyError, TypeError, ValueError):
        return None
    found = tuple(names)
    if found == agreed.names:
        return LineTable(agreed.names, values)
    return LineTable(found, values) if len(set(found)) == len(found) else None


def tensor(index: int, entry: Mapping[str, Any]) -> Tensor:
    """An input whose values are in the JSON, checked against its own shape and data type. Raises RequestError."""
    name, shape, datatype, data = described(index, entry)
    if datatype not in IN_JSON:
        raise RequestError(
            f"input {name!r}: datatype {datatype!r:.80} is not served in JSON; {', '.join(sorted(IN_JSON))} are"
        )
    count = elements(name, shape)
    if not isinstance(data, list):
        raise RequestError(f"input {name!r}: `data` must be an array")
    flat = _flat(data)
    if len(flat) != count:
        raise RequestError(f"input {name!r} has {len(flat)} values, its shape {shape} says {count}")
    parameters = entry.get("parameters")
    if datatype == "BYTES" and isinstance(parameters, dict) and parameters.get("content_type") == "base64":
        flat = [value if value is None else _unwrapped(name, place, value) for place, value in enumerate(flat)]
    return Tensor(name, shape, datatype, values_of(name, datatype, flat))


def described(index: int, entry: Any) -> tuple[str, Any, str, Any]:
    """Name, shape, data type and data of an input; shape and data unchecked. Raises RequestError."""
    if not isinstance(entry, dict):
        raise RequestError(f"inputs[{index}] must be an object")
    name, shape, datatype, data = (entry.get(key) for key in ("name", "shape", "datatype", "data"))
    if not isinstance(name, str):
        raise RequestError(f"inputs[{index}] has no `name`")
    if not isinstance(datatype, str):
        raise RequestError(f"input {name!r} has no `datatype`")
    parameters = entry.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestError(f"input {name!r}: `parameters` must be an object")
    if parameters and "shared_memory_region" in parameters:
        raise RequestError(f"input {name!r}: shared memory is not served; send its data")
    return name, shape, datatype, data


def _packed_line(entry: Mapping[str, Any], agreed: Contract) -> LineTable | None:
    data, width = entry["data"], len(agreed.names)
    if len(data) == 1 and type(data[0]) is list:
        data = data[0]
    datatype = entry["datatype"]
    if entry["shape"] != [1, width] or len(data) != width or width == 1 or not agreed.packable:
        return None
    if datatype not in FLOATS or datatype not in IN_JSON or "parameters" in entry:
        return None
    return LineTable(agreed.names, data) if type(data) is list and _NUMBERS.issuperset(map(type, data)) else None


def values_of(name: str, datatype: str, flat: list[Any]) -> Any:
    """The values as an array when they are many and all of them numbers, or booleans; else as they are."""
    if len(flat) <= SMALL or datatype == "BYTES":
        return _checked(name, datatype, flat)
    kinds = set(map(type, flat))
    if datatype == "BOOL":
        return np.array(flat, dtype=np.bool_) if kinds == {bool} else flat
    if datatype in FLOATS:
        return _floats(flat) if kinds <= _NUMBERS else flat
    if kinds == {int}:
        try:
            return np.array(flat, dtype=INTEGERS[datatype])
        except OverflowError:
            return _checked(name, datatype, flat)
    return _checked(name, datatype, flat)


def _floats(flat: list[Any]) -> Any:
    try:
        return np.array(flat, dtype=np.float64)  # a missing one becomes NaN
    except (OverflowError, ValueError):  # an integer that no double can hold: the closer look names it
        return flat


def _checked(name: str, datatype: str, flat: list[Any]) -> list[Any]:
    if datatype in RANGES:
        for index, value in enumerate(flat):
            if value is not None and not _in_range(datatype, value):
                raise RequestError(f"input {name!r}: value {index} is no {datatype}: {value!r:.60}")
    return flat


def _in_range(datatype: str, value: Any) -> bool:
    low, high = RANGES[datatype]
    return type(value) is int and low <= value <= high


def _flat(data: list[Any]) -> list[Any]:
    for _ in range(MAX_DIMENSIONS):
        kinds = set(map(type, data))
        if list not in kinds:
            return data
        if len(kinds) == 1:
            data = list(chain.from_iterable(data))
        else:
            data = [one for value in data for one in (value if type(value) is list else [value])]
    raise RequestError("`data` is nested too deeply")


def _unwrapped(name: str, index: int, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(f"input {name!r}: element {index} is no base64 text")
    try:
        return text_of(name, index, base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"input {name!r}: element {index} is no base64 text") from error
