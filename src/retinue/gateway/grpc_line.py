"""The short way of gRPC: one row and all outputs. The answer's bytes are made once, but for ids and values."""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import nan
from typing import Any, NamedTuple

import orjson

from retinue import telemetry
from retinue.gateway.calls import Call
from retinue.gateway.grpc_infer import put, typed
from retinue.gateway.grpc_messages import message
from retinue.gateway.oip_request import InferRequest
from retinue.gateway.oip_types import encode
from retinue.gateway.quick import Outputs, Quick

_ORDINARY = (None, None, None, None)  # outputs, priority, timeout, wanted


class Template(NamedTuple):
    """The pieces of an answer around its ids and values."""

    head: bytes  # name and version
    after: bytes  # the parameters that are the same every time, and for raw answers the outputs
    outputs: tuple[tuple[str, str, list[int], struct.Struct | None], ...]


def plain(request: InferRequest) -> bool:
    """Whether it is one row that asks for nothing out of the ordinary."""
    return request.rows == 1 and request[3:7] == _ORDINARY and request.content_type is None


def text(field: int, value: bytes) -> bytes:
    """A field of bytes, as protocol buffers have it."""
    return varint(field << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A number, seven bits a byte.

    >>> varint(5), varint(300)
    (b'\\x05', b'\\xac\\x02')
    """
    if value < 128:
        return bytes((value,))
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


class GrpcLines:
    """How the gRPC door answers a request of the short way."""

    def __init__(self, done: Callable[[Call], None]) -> None:
        self._done = done

    def body(self, request: Quick, identity: str, outputs: Outputs) -> bytes:
        """The answer's bytes."""
        asked: InferRequest = request.asked
        key = (request.name, asked.binary)
        template = request.plan.templates.get(key)
        if template is None:
            template = request.plan.templates[key] = _template(request, asked.binary)
        own = identity.encode()
        said = own if asked.id is None else asked.id.encode()
        parts = [template.head, text(3, said), _IDENTITY, own, template.after]
        for name, datatype, shape, packer in template.outputs:
            values = outputs[name][0] if len(shape) > 1 else outputs[name]
            if not asked.binary:
                entry = message("ModelInferResponse.InferOutputTensor")(name=name, datatype=datatype, shape=shape)
                typed(entry, datatype, values)
                parts.append(text(5, entry.SerializeToString()))
                continue
            if packer is None:
                data = bytes(encode(datatype, values))
            else:
                data = packer.pack(*[nan if value is None else value for value in values])
            parts.append(text(6, data))
        return b"".join(parts)

    def long(self, request: Quick) -> Call:
        """The same request as a call of the long way."""
        asked: InferRequest = request.asked
        call = Call(request.release, request.name, 1, self._done, request.exchange, partial=False)
        call.table, call.request = asked.table, asked
        call.route = request.release.routes.get(request.name)
        if call.route is None:
            call.label = telemetry.DIRECT
        return call


_VALUE = text(1, b"prediction_id")
_IDENTITY = b"\x22" + varint(len(_VALUE) + 2 + 2 + 36) + _VALUE + b"\x12\x26\x1a\x24"
"""The parameter `prediction_id` up to its value, a text of 36 bytes."""


def _template(request: Quick, binary: bool) -> Template:
    """What `grpc_infer.answer` would say, cut where the values are."""
    model, release = request.plan.models[0], request.release
    route = release.routes.get(request.name)
    version = model.served.version if route is None else str(release.number)
    said: dict[str, Any] = {"release": release.number}
    if route is not None:
        served = model.served
        entry = {"model": served.name, "version": served.version, "fallback": False}
        said["models"] = orjson.dumps([entry]).decode()
    rest = message("ModelInferResponse")()
    put(rest.parameters, said)
    outputs: list[tuple[str, str, list[int], struct.Struct | None]] = []
    for field in model.outputs:
        shape = [1] if field.width == 1 else [1, field.width]
        if binary:
            rest.outputs.add(name=field.name, datatype=field.dtype, shape=shape)
        outputs.append(
            (field.name, field.dtype, shape, struct.Struct(f"<{field.width}d") if field.dtype == "FP64" else None)
        )
    head = message("ModelInferResponse")(model_name=request.name, model_version=version)
    return Template(head.SerializeToString(), rest.SerializeToString(), tuple(outputs))
