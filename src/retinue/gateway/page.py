"""The OpenAPI page of the friendly door: as strict as the door is, so that a client made from it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from retinue.core.contract import Field
from retinue.core.errors import UnavailableError
from retinue.gateway.oip import VERSION
from retinue.gateway.release import PinnedRelease, Route

_WHOLE = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_TYPES: dict[str, dict[str, Any]] = {
    "FP64": {"type": "number"},
    "INT64": _WHOLE,
    "BOOL": {"type": "boolean"},
    "BYTES": {"type": "string"},
}


def openapi(release: PinnedRelease, may: Callable[[str], bool] = lambda name: True) -> bytes:
    """The OpenAPI 3.1 page of `/predict/…` for every endpoint of this release that the reader may call."""
    paths = {}
    for name in sorted(filter(may, release.routes)):
        try:
            fields, outputs = release.fields(name)
        except UnavailableError:
            fields, outputs = (), ()
        paths[f"/predict/{name}"] = {"post": _operation(release.routes[name], fields, outputs)}
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": f"{release.portfolio} ({release.stage})",
            "version": str(release.number),
            "x-retinue": VERSION,
        },
        "paths": paths,
    }
    return orjson.dumps(document)


def _operation(route: Route, fields: Sequence[Field], outputs: Sequence[Field]) -> dict[str, Any]:
    row = _row(route, fields)
    prediction = {"type": "object", "properties": {f.name: _output(f) for f in outputs}}
    failed = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    model = {
        "type": ["object", "null"],
        "properties": {"model": {"type": "string"}, "version": {"type": "string"}, "fallback": {"type": "boolean"}},
    }
    body = {
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": {"anyOf": [prediction, failed]}},
            "ids": {"type": "array", "items": {"type": "string"}},
            "release": {"type": "integer"},
            "models": {"type": "array", "items": model},
        },
        "required": ["predictions", "ids", "release", "models"],
    }
    rows = {
        "type": "object",
        "properties": {
            "rows": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "object", "anyOf": row["anyOf"]},
                "contains": row,
            }
        },
        "required": ["rows"],
        "description": "Each row is answered, or told what is wrong with it; all wrong: 400.",
    }
    one = {**row, "not": {"required": ["rows"]}}
    errors = {"description": "What is wrong, in words", "content": {"application/json": {"schema": failed}}}
    return {
        "operationId": f"predict {route.endpoint.name}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [rows, one]}}}},
        "responses": {
            "200": {"description": "One prediction per row", "content": {"application/json": {"schema": body}}},
            "default": errors,
        },
    }


def _row(route: Route, fields: Sequence[Field]) -> dict[str, Any]:
    """A row that can be answered: it has one known field at least. A key that names no member may have a fallback."""
    loose = set(route.keys) if route.endpoint.fallback and "unknown" in route.endpoint.fallback_when else set()
    return {
        "type": "object",
        "properties": {f.name: {} if f.name in loose else _input(f) for f in fields},
        "required": [f.name for f in fields if not f.nullable],
        "anyOf": [{"required": [f.name]} for f in fields] or [{}],
    }


def _input(field: Field) -> dict[str, Any]:
    one = _TYPES[field.dtype]
    return {**one, "type": [one["type"], "null"]} if field.nullable else one


def _output(field: Field) -> dict[str, Any]:
    one = _TYPES[field.dtype]
    if field.dtype == "FP64":
        one = {"type": ["number", "null"]}  # null: not a number
    return one if field.width == 1 else {"type": "array", "items": one, "minItems": field.width}
