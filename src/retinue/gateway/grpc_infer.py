"""Inference requests of gRPC to the data plane's, and its answers back, in the style of the request: raw or typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retinue.core.contract import Field
from retinue.core.errors import RequestError
from retinue.gateway import oip
from retinue.gateway.calls import Call
from retinue.gateway.grpc_messages import message as kind
from retinue.gateway.oip_answer import model_version, outputs, parameters
from retinue.gateway.oip_json import values_of
from retinue.gateway.oip_request import InferRequest, Wanted, build, contract, elements
from retinue.gateway.oip_types import DATATYPES, FLOATS, Tensor, decode, encode, given, text_of

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def parse(message: Any, fields: Sequence[Field], declared: Sequence[Field]) -> InferRequest:
    """The request for a model with these inputs and outputs; `binary` says that it came raw. Raises RequestError."""
    agreed = contract(fields, declared)
    raw = message.raw_input_contents
    inputs = message.inputs
    if not inputs:
        raise RequestError("`inputs` must have a tensor")
    if raw and len(raw) != len(inputs):
        raise RequestError(f"there are {len(raw)} `raw_input_contents` for {len(inputs)} inputs")
    found = [_raw(entry, data) for entry, data in zip(inputs, raw, strict=True)] if raw else list(map(_typed, inputs))
    table, rows = build(found, agreed)
    request = InferRequest(table, rows, message.id or None, None, binary=bool(raw))
    if not message.parameters and not message.outputs:
        return request
    wanted: list[Wanted] = []
    before: set[str] = set()
    for entry in message.outputs:
        own = plain(entry.parameters)
        own.pop("binary_data", None)  # of HTTP; here the style of the request decides
        wanted.append(oip.one_wanted(entry.name, own, False, agreed, before))
    return oip.wishes(request, plain(message.parameters), tuple(wanted) or None)


def answer(call: Call, request: InferRequest, fields: Sequence[Field]) -> Any:
    """The answer to a call in which no row failed, as a message. Raises InferenceError."""
    message = kind("ModelInferResponse")(
        model_name=call.name,
        model_version=model_version(call),
        id=request.id if request.id is not None else call.id,
    )
    put(message.parameters, parameters(call, request))
    for name, shape, datatype, values, wanted in outputs(call, request, fields):
        entry = message.outputs.add(name=name, datatype=datatype, shape=shape)
        if wanted.content_type is not None:
            entry.parameters["content_type"].string_param = wanted.content_type
        if request.binary:
            message.raw_output_contents.append(bytes(encode(datatype, values)))
        else:
            typed(entry, datatype, values)
    return message


def typed(entry: Any, datatype: str, values: Any) -> None:
    """Values into an output's `contents`."""
    getattr(entry.contents, CONTENTS[datatype]).extend(_plain_values(datatype, values))


def plain(found: Any) -> dict[str, Any]:
    """A map of parameters as Python has it."""
    values: dict[str, Any] = {}
    for name, value in found.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            values[name] = getattr(value, kind)
    return values


def put(into: Any, values: Mapping[str, Any]) -> None:
    """Parameters into a map of them."""
    for name, value in values.items():
        if isinstance(value, bool):
            into[name].bool_param = value
        elif isinstance(value, int):
            into[name].int64_param = value
        else:
            into[name].string_param = value


def _raw(entry: Any, data: bytes) -> Tensor:
    name, shape, datatype = _described(entry)
    if entry.HasField("contents"):
        raise RequestError(f"input {name!r} has `contents` beside `raw_input_contents`")
    return Tensor(name, shape, datatype, decode(name, datatype, memoryview(data), elements(name, shape)))


def _typed(entry: Any) -> Tensor:
    name, shape, datatype = _described(entry)
    field = CONTENTS.get(datatype)
    if field is None:
        raise RequestError(f"input {name!r}: {datatype} comes in `raw_input_contents` only")
    count = elements(name, shape)
    others = [other.name for other, _ in entry.contents.ListFields() if other.name != field]
    if others:
        raise RequestError(f"input {name!r}: {datatype} comes in `{field}`, not in `{others[0]}`")
    values = list(getattr(entry.contents, field))
    if len(values) != count:
        raise RequestError(f"input {name!r} has {len(values)} values, its shape {shape} says {count}")
    if datatype == "BYTES":
        return Tensor(name, shape, datatype, [text_of(name, index, value) for index, value in enumerate(values)])
    if datatype in FLOATS:
        values = list(map(given, values))
    return Tensor(name, shape, datatype, values_of(name, datatype, values))


def _described(entry: Any) -> tuple[str, list[int], str]:
    name, datatype = entry.name, entry.datatype
    if datatype not in DATATYPES:
        raise RequestError(f"input {name!r:.200}: unknown datatype {datatype!r:.80}")
    if "shared_memory_region" in entry.parameters:
        raise RequestError(f"input {name!r:.200}: shared memory is not served; send its data")
    return name, list(entry.shape), datatype


def _plain_values(datatype: str, values: Any) -> list[Any]:
    found = values.tolist() if isinstance(values, np.ndarray) else values
    if datatype == "BYTES":
        return [b"" if value is None else str(value).encode() for value in found]
    gap = float("nan") if datatype.startswith("FP") else 0
    return [gap if value is None else value for value in found]
