"""Answers of the protocol: what each requested output holds, as JSON, as bytes behind JSON, or for gRPC."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from retinue.core.contract import Field
from retinue.core.errors import InferenceError
from retinue.gateway.calls import Call, Part
from retinue.gateway.coding import LARGE, coding_of, deflate
from retinue.gateway.http import Exchange
from retinue.gateway.oip_binary import HEADER
from retinue.gateway.oip_request import InferRequest, Wanted
from retinue.gateway.oip_types import encode

JSON = b"application/json"
OCTETS = b"application/octet-stream"


class Output(NamedTuple):
    """One output over all rows: `values` flat and row-major, a list or an array."""

    name: str
    shape: list[int]
    datatype: str
    values: Any
    wanted: Wanted


class Reply(NamedTuple):
    """What goes back over HTTP; `headers` as `Exchange.reply` takes them."""

    body: bytes | list[bytes | memoryview]
    headers: bytes
    content_type: bytes


def reply(call: Call, request: InferRequest, fields: Sequence[Field]) -> Reply:
    """The answer to a call in which no row failed. Raises InferenceError when its models' outputs differ."""
    head: dict[str, Any] = {
        "model_name": call.name,
        "model_version": model_version(call),
        "id": request.id if request.id is not None else call.id,
        "parameters": parameters(call, request),
    }
    tails: list[bytes | memoryview] = []
    described: list[dict[str, Any]] = []
    for name, shape, datatype, values, wanted in outputs(call, request, fields):
        entry: dict[str, Any] = {"name": name, "shape": shape, "datatype": datatype}
        if wanted.content_type is not None:
            entry["parameters"] = {"content_type": wanted.content_type}
        if wanted.binary:
            data = encode(datatype, values)
            tails.append(data)
            entry.setdefault("parameters", {})["binary_data_size"] = len(data)
        else:
            entry["data"] = _plain(values)
        described.append(entry)
    head["outputs"] = described
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tails:
        return Reply(text, b"", JSON)
    return Reply([text, *tails], b"\r\n%b: %d" % (HEADER, len(text)), OCTETS)


def send(exchange: Exchange, found: Reply, headers: bytes) -> None:
    """Answer with it, compressed on another thread when it is large and the client takes that."""
    body, own, content_type = found
    headers = own + headers
    coding = coding_of(exchange.head.accept) if exchange.head.accept else None
    parts = [body] if isinstance(body, bytes) else body
    if coding is None or sum(map(len, parts)) < LARGE:
        exchange.reply(200, body, headers, content_type)
        return
    work = asyncio.get_running_loop().run_in_executor(None, deflate, parts, coding)
    headers += b"\r\ncontent-encoding: " + coding
    work.add_done_callback(lambda done: exchange.reply(200, done.result(), headers, content_type))


def outputs(call: Call, request: InferRequest, fields: Sequence[Field]) -> list[Output]:
    """The requested outputs in the order in which they were asked for."""
    if request.wanted is None:
        return [_output(call, field, Wanted(field.name, request.binary)) for field in fields]
    named = {field.name: field for field in fields}
    return [_output(call, named[wanted.name], wanted) for wanted in request.wanted]


def parameters(call: Call, request: InferRequest) -> dict[str, Any]:
    """What we say beyond the protocol: the release, the id by which feedback names a row, who answered.

    Row i's prediction id is `<prediction_id>-<i>`. `models` is JSON text, for parameters are single values.
    """
    found: dict[str, Any] = {"release": call.release.number, "prediction_id": call.id}
    if call.route is not None:
        parts = sorted(call.parts, key=lambda part: part.rows[0])
        found["models"] = orjson.dumps([_answered(part, call.rows) for part in parts]).decode()
    if request.content_type is not None:
        found["content_type"] = request.content_type
    return found


def model_version(call: Call) -> str:
    """The version that answered: of an endpoint, the number of the release."""
    return str(call.release.number) if call.route else str(call.parts[0].served.version)


def _answered(part: Part, rows: int) -> dict[str, Any]:
    served = part.served
    found = {"model": served.name, "version": served.version, "fallback": part.fallback}
    return found if len(part.rows) == rows else {**found, "rows": list(part.rows)}


def _output(call: Call, field: Field, wanted: Wanted) -> Output:
    values = gather(call, field)
    if wanted.classes:
        ranked = _ranked(values, field, wanted.classes, _classes(call, field))
        return Output(field.name, [call.rows, len(ranked) // max(call.rows, 1)], "BYTES", ranked, wanted)
    if field.width == 1:
        return Output(field.name, [call.rows], field.dtype, values, wanted)
    flat = values.reshape(-1) if isinstance(values, np.ndarray) else [value for row in values for value in row]
    return Output(field.name, [call.rows, field.width], field.dtype, flat, wanted)


def gather(call: Call, field: Field) -> Any:
    """One output over all rows in the order of the request: a list, or an array [n] or [n, width]."""
    parts = call.parts
    for part in parts:
        if field.name not in part.outputs:
            raise InferenceError(f"{part.served.name!r} has no output {field.name!r}, which other rows have")
    if len(parts) == 1:
        return parts[0].outputs[field.name]
    columns = [part.outputs[field.name] for part in parts]
    if all(isinstance(column, np.ndarray) and column.dtype == columns[0].dtype for column in columns):
        whole = np.empty((call.rows, *columns[0].shape[1:]), dtype=columns[0].dtype)
        for part, column in zip(parts, columns, strict=True):
            whole[np.asarray(part.rows)] = column
        return whole
    rows: list[Any] = [None] * call.rows
    for part, column in zip(parts, columns, strict=True):
        for row, value in zip(part.rows, column.tolist() if hasattr(column, "tolist") else column, strict=True):
            rows[row] = value
    return rows


def _plain(values: Any) -> Any:
    """What orjson writes; NaN and infinities become null."""
    if not isinstance(values, np.ndarray):
        return values
    return values.tolist() if values.dtype == object or values.dtype.kind in "US" else np.ascontiguousarray(values)


def _classes(call: Call, field: Field) -> Sequence[Any] | None:
    """The labels that the columns of `probability` belong to, when all that answered agree."""
    found = [part.served.signature.get("classes") for part in call.parts]
    labels = found[0]
    same = field.name == "probability" and labels and all(other == labels for other in found)
    return [_label(label) for label in labels] if same and labels else None


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ranked(values: Any, field: Field, count: int, labels: Sequence[str] | None) -> list[str]:
    """For each row the `count` largest as `value:index[:label]`, largest first; equal ones by index.

    `probability` of two classes is one column, of the second class: it is ranked as the two that it means.
    """
    rows = values.tolist() if isinstance(values, np.ndarray) else values
    if field.width == 1:
        rows = [[1.0 - value, value] for value in rows] if labels and len(labels) == 2 else [[v] for v in rows]
    if labels is not None and rows and len(labels) != len(rows[0]):
        labels = None
    found: list[str] = []
    for row in rows:
        order = sorted(range(len(row)), key=lambda index: (-_number(row[index]), index))
        for index in order[:count]:
            value = row[index]
            text = f"{value:f}" if isinstance(value, float) else _label(value)
            found.append(f"{text}:{index}:{labels[index]}" if labels else f"{text}:{index}")
    return found


def _number(value: Any) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    return -math.inf if math.isnan(number) else number  # it comes last


def models_per_row(call: Call) -> list[Mapping[str, Any] | None]:
    """For each row the model and version that answered and whether as fallback; None where the row failed."""
    rows: list[Mapping[str, Any] | None] = [None] * call.rows
    for part in call.parts:
        entry = _answered(part, len(part.rows))
        for row in part.rows:
            rows[row] = entry
    return rows
