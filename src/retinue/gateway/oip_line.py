"""The short way of the protocol: one row and all outputs, in JSON. The answer's text is made once, but for values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import orjson

from retinue import telemetry
from retinue.gateway.calls import Call
from retinue.gateway.oip_request import InferRequest, LineTable
from retinue.gateway.quick import Outputs, Quick

_NOTHING_ASKED = tuple(InferRequest(LineTable((), ()), 1, None, None)[3:])


class Template(NamedTuple):
    """The pieces between an answer's values: id, prediction id, then the values of each output."""

    head: bytes
    middle: bytes
    pieces: tuple[tuple[str, bool, bytes], ...]  # output, whether it is a list for each row, the text before it
    end: bytes


def plain(request: InferRequest) -> LineTable | None:
    """The request's row, if it asks for nothing out of the ordinary."""
    table = request.table
    if type(table) is not LineTable or request[3:] != _NOTHING_ASKED:
        return None
    return table


class Lines:
    """How the protocol's door answers a request of the short way."""

    def __init__(self, done: Callable[[Call], None]) -> None:
        self._done = done

    def body(self, request: Quick, identity: str, outputs: Outputs) -> bytes:
        """The answer's body."""
        template = request.plan.templates.get(request.name)
        if template is None:
            template = request.plan.templates[request.name] = _template(request)
        told = request.client_id
        parts = [
            template.head,
            b'"%b"' % identity.encode() if told is None else orjson.dumps(told),
            template.middle,
            identity.encode(),
        ]
        for name, listed, before in template.pieces:
            parts.append(before)
            parts.append(orjson.dumps(outputs[name][0] if listed else outputs[name]))
        parts.append(template.end)
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


def _template(request: Quick) -> Template:
    """What `oip_answer.reply` would say, cut where the values are."""
    model, release = request.plan.models[0], request.release
    route = release.routes.get(request.name)
    version = model.served.version if route is None else str(release.number)
    head = orjson.dumps({"model_name": request.name, "model_version": version})[:-1] + b',"id":'
    middle = b',"parameters":{"release":%d,"prediction_id":"' % release.number
    after = b'"'
    if route is not None:
        served = model.served
        models = orjson.dumps([{"model": served.name, "version": served.version, "fallback": False}]).decode()
        after += b',"models":' + orjson.dumps(models)
    pieces: list[tuple[str, bool, bytes]] = []
    between = after + b'},"outputs":['
    for field in model.outputs:
        shape = [1] if field.width == 1 else [1, field.width]
        entry = orjson.dumps({"name": field.name, "shape": shape, "datatype": field.dtype})
        pieces.append((field.name, field.width > 1, between + entry[:-1] + b',"data":'))
        between = b"},"
    return Template(head, middle, tuple(pieces), b"}]}")
