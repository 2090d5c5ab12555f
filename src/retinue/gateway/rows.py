"""The friendly door's wire form: rows in, one prediction per row out, errors row by row; and its OpenAPI page."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from retinue.core.errors import RequestError, RetinueError
from retinue.gateway.calls import Call
from retinue.gateway.oip import models_per_row
from retinue.gateway.plans import Plan
from retinue.gateway.quick import Outputs, Quick
from retinue.gateway.release import PinnedRelease
from retinue.gateway.values import Column, word

_COMPARED = 20  # so many different rows of a request, and names of a row, are compared with what is missing

_WRAPPERS = frozenset({"row", "Rows", "inputs", "instances", "data", "records", "dataframe_split"})


class RowTable:
    """A request's rows."""

    __slots__ = ("rows",)

    matrix = None
    names: Sequence[str] = ()

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def column(self, name: str, rows: Sequence[int]) -> Column:
        """The values of one field in these rows; None where it is missing."""
        every = self.rows
        return [every[row].get(name) for row in rows]

    def values(self, names: Sequence[str], row: int) -> Sequence[Any]:
        """Several fields of one row."""
        get = self.rows[row].get
        return tuple(map(get, names))


def only(document: dict[str, Any]) -> dict[str, Any] | None:
    """The row, if the document is or holds just one; None for everything that needs the closer look of `table`."""
    if "rows" not in document:
        return document
    rows = document["rows"]
    if type(rows) is list and len(rows) == 1 and type(rows[0]) is dict:
        first: dict[str, Any] = rows[0]
        return first
    return None


def table(document: dict[str, Any]) -> RowTable:
    """`{"rows": [{…}, …]}` or one row as an object. Raises RequestError."""
    rows = document.get("rows")
    if isinstance(rows, dict) or document == {"rows": None}:
        raise RequestError(f"`rows` must be an array of objects, not {word(rows)}")
    if not isinstance(rows, list):
        return RowTable([document])  # one row, which may have a field of that name
    if not rows:
        raise RequestError("`rows` is empty")
    for index, row in enumerate(rows):
        if type(row) is not dict:
            raise RequestError(f"row {index} must be an object, not {word(row)}")
    return RowTable(rows)


def check_names(table: RowTable, known: frozenset[str]) -> None:
    """Refuse rows whose fields look misspelled: missing ones would be answered as unknown, silently.

    A row may leave fields out and may carry others; it may not have a field that is nearly a missing one, nor
    none of the known ones. Raises RequestError.
    """
    seen: set[frozenset[str]] = set()  # rows of one request have the same names, and comparing names is slow
    for index, row in enumerate(table.rows):
        if known <= row.keys() or not known:
            continue
        if known.isdisjoint(row):
            form = " (rows of a request stand in an array named `rows`)" if row.keys() & _WRAPPERS else ""
            raise RequestError(f"row {index} has none of the fields {', '.join(sorted(known))}{form}")
        names = frozenset(row)
        if names in seen or len(seen) == _COMPARED:
            continue
        seen.add(names)
        missing = known - names
        for name in sorted(names - known)[:_COMPARED]:
            near = difflib.get_close_matches(name.lower()[:100], missing, n=1, cutoff=0.8)
            if near:
                raise RequestError(f"row {index}: unknown field {name!r:.100}; did you mean {near[0]!r}?")


def answer_one(request: Quick, identity: str, outputs: Outputs) -> bytes:
    """The answer to a request of the short way."""
    return _one(request.plan, request.release, identity, outputs)


def _one(plan: Plan, release: PinnedRelease, identity: str, outputs: Mapping[str, Column]) -> bytes:
    """An answer of one row: all but the values and the id is the same every time."""
    tail = plan.tail
    if tail is None:
        served = plan.model.served
        model = {"model": served.name, "version": served.version, "fallback": False}
        tail = plan.tail = b'-0"],' + orjson.dumps({"release": release.number, "models": [model]})[1:]
    prediction = orjson.dumps({name: values[0] for name, values in outputs.items()})
    return b'{"predictions":[%b],"ids":["%b%b' % (prediction, identity.encode(), tail)


def answer(call: Call) -> bytes:
    """One prediction per row, in order: its outputs by name, or `{"error": …}`."""
    parts = call.parts
    if call.rows == 1 and len(parts) == 1 and not parts[0].fallback and call.kept is None:
        outputs = parts[0].outputs
        if all(type(values) is list for values in outputs.values()):
            return _one(call.groups[-1].plan, call.release, call.id, outputs)
    predictions: list[Any] = [None] * call.rows
    for row, error in call.errors.items():
        predictions[row] = {"error": error.message}
    for part in call.parts:
        names = list(part.outputs)
        columns = [v if isinstance(v, list) else v.tolist() for v in part.outputs.values()]
        for position, row in enumerate(part.rows):
            predictions[row] = {name: column[position] for name, column in zip(names, columns, strict=True)}
    return orjson.dumps(
        {
            "predictions": predictions,
            "ids": [f"{call.id}-{row}" for row in range(call.rows)],
            "release": call.release.number,
            "models": models_per_row(call),
        }
    )


def first_error(call: Call) -> RetinueError:
    """What to say when every row has failed."""
    return call.errors[min(call.errors)]
