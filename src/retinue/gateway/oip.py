"""The Open Inference Protocol V2 over HTTP: requests in JSON, with or without binary tensors; metadata.

Endpoint names are model names too; their version is the release's number. Unknown keys are ignored, unknown inputs
and outputs are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import orjson

from retinue.core.contract import Field
from retinue.core.errors import RequestError
from retinue.gateway import oip_answer, oip_binary, oip_json
from retinue.gateway.oip_answer import Reply, models_per_row
from retinue.gateway.oip_request import Contract, InferRequest, RequestTable, Wanted, build, contract, schedule
from retinue.gateway.oip_types import Tensor

__all__ = ["EXTENSIONS", "VERSION", "InferRequest", "Reply", "answer", "models_per_row", "parse",
           "read_object", "send", "tensors"]  # fmt: skip

VERSION = version("retinue")
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_repository_extension",
    "parameters",
    "schedule_policy",
    "statistics",
)

answer = oip_answer.reply
send = oip_answer.send


def parse(
    body: bytes, fields: Sequence[Field], outputs: Sequence[Field], header_length: bytes | None = None
) -> InferRequest:
    """The request in `body` for a model with these inputs and outputs. Raises RequestError.

    `header_length` is what the header Inference-Header-Content-Length says, None without it.
    """
    agreed = contract(fields, outputs)
    text, tail = oip_binary.cut(body, header_length)
    if header_length is not None and not text:
        table, rows = build([oip_binary.raw(tail, agreed)], agreed)
        return InferRequest(table, rows, None, None, binary=True)
    document = read_object(text)
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError("`id` must be text")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError("`inputs` must be a non-empty array of tensors")
    found = oip_json.line(inputs, agreed) if not tail else None
    table, rows = (found, 1) if found is not None else _table(inputs, tail, agreed)
    parameters, entries = document.get("parameters"), document.get("outputs")
    if not parameters and not entries:
        return InferRequest(table, rows, request_id or None, None)
    return _with_wishes(InferRequest(table, rows, request_id or None, None), parameters or {}, entries, agreed)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises RequestError (NaN, infinities and invalid UTF-8 are no JSON)."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = None
        if b"binary_data_size" in body[:65_536]:
            hint = "Binary tensors behind the JSON need the header Inference-Header-Content-Length: the JSON's length."
        text = f"the body is not valid JSON: {error}" if body else "the body is empty"
        raise RequestError(text, hint=hint) from error
    if not isinstance(document, dict):
        raise RequestError("the body must be a JSON object")
    return document


def tensors(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Fields as the protocol's metadata says them; the number of rows is variable."""
    return [{"name": f.name, "datatype": f.dtype, "shape": [-1] if f.width == 1 else [-1, f.width]} for f in fields]


def wishes(request: InferRequest, parameters: Mapping[str, Any], wanted: tuple[Wanted, ...] | None) -> InferRequest:
    """The request with what its parameters and requested outputs ask for. Raises RequestError."""
    priority, timeout = schedule(parameters)
    content_type = parameters.get("content_type")
    return request._replace(
        outputs=None if wanted is None else tuple(entry.name for entry in wanted),
        wanted=wanted,
        priority=priority,
        timeout=timeout,
        content_type=content_type if isinstance(content_type, str) else None,
    )


def one_wanted(name: Any, parameters: Mapping[str, Any], binary: bool, agreed: Contract, before: set[str]) -> Wanted:
    """One requested output. Raises RequestError for one that does not exist or is asked for twice."""
    known = [field.name for field in agreed.outputs]
    if name not in known:
        raise RequestError(f"unknown output {name!r:.120}; there are {', '.join(map(repr, known))}")
    if name in before:
        raise RequestError(f"output {name!r} is requested twice")
    before.add(name)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or not 0 <= classes < 2**31:
        raise RequestError(f"output {name!r}: `classification` must be a number of classes, not {classes!r:.60}")
    if "shared_memory_region" in parameters:
        raise RequestError(f"output {name!r}: shared memory is not served")
    own = parameters.get("binary_data", binary)
    if not isinstance(own, bool):
        raise RequestError(f"output {name!r}: `binary_data` must be true or false")
    content_type = parameters.get("content_type")
    return Wanted(name, own, classes, content_type if isinstance(content_type, str) else None)


def _table(inputs: Sequence[Any], data: memoryview, agreed: Contract) -> tuple[RequestTable, int]:
    tail = oip_binary.Tail(data)
    found: list[Tensor] = []
    for index, entry in enumerate(inputs):
        parameters = entry.get("parameters") if isinstance(entry, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        found.append(oip_json.tensor(index, entry) if size is None else tail.tensor(index, entry, size))
    tail.end()
    return build(found, agreed)


def _with_wishes(request: InferRequest, parameters: Any, entries: Any, agreed: Contract) -> InferRequest:
    if not isinstance(parameters, dict):
        raise RequestError("`parameters` must be an object")
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise RequestError("parameter `binary_data_output` must be true or false")
    if entries is not None and not isinstance(entries, list):
        raise RequestError("`outputs` must be an array")
    wanted: list[Wanted] = []
    before: set[str] = set()
    for entry in entries or ():
        name = entry.get("name") if isinstance(entry, dict) else None
        own = (entry.get("parameters") or {}) if isinstance(entry, dict) else {}
        if not isinstance(own, dict):
            raise RequestError(f"output {name!r:.120}: `parameters` must be an object")
        wanted.append(one_wanted(name, own, binary, agreed, before))
    return wishes(request, parameters, tuple(wanted) or None)._replace(binary=binary)
