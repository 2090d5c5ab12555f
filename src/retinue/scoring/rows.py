"""Rows of a table through a release: select, check, run the graph, fall back; every row has outputs or an error.

The rules and the texts are those of the online path (`gateway/dataplane.py`, `gateway/values.py`); only the form of
the values is another: whole Arrow columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retinue.core.contract import Field
from retinue.core.errors import InferenceError, RetinueError, UnavailableError
from retinue.core.state import ServedEndpoint, ServedModel
from retinue.gateway.values import array, clean
from retinue.scoring.models import Models, Outputs
from retinue.scoring.release import Plan, ScoringRelease

Rows = Any
"""Positions in the batch as an integer array; None for all of them."""


@dataclass(slots=True)
class Part:
    """Rows that one model answered."""

    rows: Rows
    served: ServedModel
    outputs: Outputs
    fallback: bool


@dataclass(slots=True)
class Scored:
    """What a batch came to: parts of rows with outputs, and the errors of the others by position."""

    rows: int
    parts: list[Part] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)


class RowScorer:
    """Scores batches of one endpoint or model in one release. Thread-safe."""

    def __init__(self, release: ScoringRelease, models: Models, name: str) -> None:
        self._release = release
        self._models = models
        self._name = name
        self._endpoint = release.endpoint(name)
        self._keys = release.wanted(name).keys
        self._members: dict[tuple[Any, ...], str | None] = {}

    def score(self, batch: pa.RecordBatch, numbers: Any) -> Scored:
        """Score a batch; `numbers` are its rows' numbers in the input, for the texts of errors."""
        work = _Work(self, batch, numbers, Scored(batch.num_rows))
        if batch.num_rows == 0:
            return work.found
        endpoint = self._endpoint
        if endpoint is None:
            work.send(self._name, None)
        elif not self._keys:
            work.send(self._release.member(endpoint, {}), None)
        else:
            for values, rows in _groups(batch, self._keys):
                work.send(self._member(endpoint, values), rows, values)
        return work.found

    def _member(self, endpoint: ServedEndpoint, values: tuple[Any, ...]) -> str | None:
        key = tuple((type(value), value) for value in values)
        if key not in self._members:
            self._members[key] = self._release.member(endpoint, dict(zip(self._keys, values, strict=True)))
        return self._members[key]


class _Work:
    """One batch on its way."""

    def __init__(self, scorer: RowScorer, batch: pa.RecordBatch, numbers: Any, found: Scored) -> None:
        self._release, self._models = scorer._release, scorer._models
        self._endpoint, self._keys = scorer._endpoint, scorer._keys
        self._batch = batch
        self._numbers = numbers
        self._columns: dict[str, Any] = {}
        self.found = found

    # ------------------------------------------------------------------------------------------------------ route
    def send(self, name: str | None, rows: Rows, values: tuple[Any, ...] = ()) -> None:
        """Rows that choose the same member go to it, or to the fallback."""
        if name is None:
            self._unknown(rows, values)
            return
        try:
            plan = self._release.plan(name)
            self._loadable(plan)
        except UnavailableError as error:
            self._second(rows, "unavailable", error)
            return
        self._start(plan, rows, fallback=False)

    def _loadable(self, plan: Plan) -> None:
        """Raise UnavailableError when a model of the graph cannot be loaded; an upstream is named as one."""
        for served in reversed(plan.served):
            try:
                self._models.get(served)
            except UnavailableError as error:
                if served is plan.answers:
                    raise
                reason = error.message.partition(" is not available: ")[2]
                name = plan.answers.name
                raise UnavailableError(
                    f"model {name!r} is not available (its upstream {served.name}): {reason}", hint=error.hint
                ) from error

    def _unknown(self, rows: Rows, values: tuple[Any, ...]) -> None:
        endpoint = self._endpoint
        assert endpoint is not None
        if endpoint.fallback is not None and "unknown" in endpoint.fallback_when:
            self._second(rows, "unknown", UnavailableError("no such member"))
            return
        named = dict(zip(self._keys, values, strict=True))
        gaps = [key for key, value in named.items() if value is None]
        if gaps:
            what = f"{gaps[0]!r} is missing; endpoint {endpoint.name!r} selects by it"
        else:
            shown = ", ".join(f"{key}={value!r}" for key, value in named.items())
            what = f"endpoint {endpoint.name!r} has no model for {shown}"
        self._fail(rows, lambda number: f"row {number}: {what}")

    def _second(self, rows: Rows, reason: str, error: RetinueError) -> None:
        endpoint = self._endpoint
        if endpoint is None or endpoint.fallback is None or reason not in endpoint.fallback_when:
            self._fail(rows, lambda _: error.message)
            return
        try:
            plan = self._release.plan(endpoint.fallback)
            self._loadable(plan)
        except RetinueError as problem:
            text = f"{error.message}; its fallback: {problem.message}"
            self._fail(rows, lambda _: text)
            return
        self._start(plan, rows, fallback=True)

    def _fail(self, rows: Rows, text: Any) -> None:
        for row in range(self.found.rows) if rows is None else rows.tolist():
            self.found.errors[row] = text(int(self._numbers[row]))

    # ------------------------------------------------------------------------------------------------ check, run
    def _start(self, plan: Plan, rows: Rows, *, fallback: bool) -> None:
        """Check all columns of all nodes; bad rows are told, the others run."""
        blocks: list[dict[str, Any]] = []
        problems: dict[int, str] = {}
        for node in plan.graph.nodes:
            block: dict[str, Any] = {}
            for wanted, source in zip(node.inputs, node.sources, strict=True):
                if source.node < 0:
                    values = self._column(source.field, rows)
                    found = clean(values, wanted)
                    if found.problems:
                        problems.update(_told(found.problems, values, wanted))
                    block[wanted.name] = array(found.values, wanted.dtype) if not found.problems else None
            blocks.append(block)
        if not problems:
            self._run(plan, rows, blocks, fallback)
            return
        count = self.found.rows if rows is None else len(rows)
        every = np.arange(count) if rows is None else rows
        for index, problem in problems.items():
            row = int(every[index])
            self.found.errors[row] = f"row {int(self._numbers[row])}: {problem}"
        good = np.ones(count, dtype=bool)
        good[list(problems)] = False
        if good.any():
            self._start(plan, every[good], fallback=fallback)

    def _run(self, plan: Plan, rows: Rows, blocks: list[dict[str, Any]], fallback: bool) -> None:
        try:
            outputs = self._nodes(plan, blocks)
        except InferenceError as error:
            self._halve(plan, rows, fallback, error)
        except UnavailableError as error:
            if fallback:
                text = error.message
                self._fail(rows, lambda _: text)
            else:
                self._second(rows, "unavailable", error)
        else:
            self.found.parts.append(Part(rows, plan.answers, outputs, fallback))

    def _halve(self, plan: Plan, rows: Rows, fallback: bool, error: InferenceError) -> None:
        """Halve until the bad row stands alone."""
        every = np.arange(self.found.rows) if rows is None else rows
        if len(every) == 1:
            text = error.message
            self._fail(every, lambda _: text)
            return
        middle = len(every) // 2
        self._start(plan, every[:middle], fallback=fallback)
        self._start(plan, every[middle:], fallback=fallback)

    def _nodes(self, plan: Plan, blocks: list[dict[str, Any]]) -> Outputs:
        made: list[Outputs] = []
        for node, served, block in zip(plan.graph.nodes, plan.served, blocks, strict=True):
            columns = {
                wanted.name: block[wanted.name]
                if source.node < 0
                else array(made[source.node][source.output], wanted.dtype)
                for wanted, source in zip(node.inputs, node.sources, strict=True)
            }
            made.append(self._models.get(served).run(columns))
        return made[-1]

    def _column(self, name: str, rows: Rows) -> Any:
        """A field of these rows as values that `clean` takes; a column that is not there is missing everywhere."""
        found = self._columns.get(name)
        if found is None:
            index = self._batch.schema.get_field_index(name)
            found = np.full(self.found.rows, None, dtype=object) if index < 0 else plain(self._batch.column(index))
            self._columns[name] = found
        return found if rows is None else found[rows]


def _told(problems: dict[int, str], values: Any, wanted: Field) -> dict[int, str]:
    """The texts that single values get online, which name their types."""
    if values.dtype.kind != "f":
        return problems
    told = {}
    for row, text in problems.items():
        value = float(values[row])
        told[row] = text if math.isnan(value) else (clean([value], wanted).problems or {0: text})[0]
    return told


def plain(column: pa.Array) -> Any:
    """An Arrow column as numpy: numbers with NaN for missing (no copy where none is), else objects with None."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = plain(column.dictionary)
        indices = column.indices
        if indices.null_count == 0:
            return values[indices.to_numpy()]
        known = np.empty(len(values) + 1, dtype=object)  # the last one is None: missing
        known[:-1] = values.tolist()
        return known[pc.fill_null(indices.cast(pa.int64()), len(values)).to_numpy()]
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        if kind == pa.float16() or column.null_count or (pa.types.is_floating(kind) and kind != pa.float64()):
            column = column.cast(pa.float64()) if not (pa.types.is_integer(kind) and column.null_count) else column
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(kind) and column.null_count == 0:
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_numpy(zero_copy_only=False)
    found = np.empty(len(column), dtype=object)
    found[:] = column.to_pylist()
    return found


def _groups(batch: pa.RecordBatch, keys: Sequence[str]) -> list[tuple[tuple[Any, ...], Rows]]:
    """Rows by the values of their keys, in the order the values first come."""
    codes = np.zeros(batch.num_rows, dtype=np.int64)
    values: list[list[Any]] = []
    for key in keys:
        column = batch.column(batch.schema.get_field_index(key))
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        encoded = column.dictionary_encode(null_encoding="encode")
        values.append(encoded.dictionary.to_pylist())
        codes = codes * len(values[-1]) + encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    found, starts = np.unique(codes[order], return_index=True)
    if len(found) == 1:
        return [(_decoded(int(found[0]), values), None)]
    ends = [*starts[1:].tolist(), len(order)]
    return [
        (_decoded(code, values), order[start:end])
        for code, start, end in zip(found.tolist(), starts.tolist(), ends, strict=True)
    ]


def _decoded(code: int, values: list[list[Any]]) -> tuple[Any, ...]:
    found: list[Any] = []
    for known in reversed(values):
        code, index = divmod(code, len(known))
        value = known[index]
        found.append(None if isinstance(value, float) and value != value else value)  # noqa: PLR0124  NaN
    return tuple(reversed(found))
