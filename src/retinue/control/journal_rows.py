"""From journal records to Arrow: one row per request row and node call, tables grouped by the models' schema."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa

from retinue.control.collecting import without_collecting
from retinue.core.identity import digest
from retinue.store.journal import Batch, Node, Record, Request, Run

Signature = tuple[tuple[tuple[str, str, int], ...], tuple[tuple[str, str, int], ...]]
"""(name, dtype, width) of inputs and outputs: rows of models that agree in it share a table."""

TYPES = {"FP64": pa.float64(), "INT64": pa.int64(), "BOOL": pa.bool_(), "BYTES": pa.string()}
TIME = pa.timestamp("us")  # UTC, without a zone, as DuckDB prints it
FACTS = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int32()),
        ("time", TIME),
        ("endpoint", pa.string()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("arm", pa.string()),
        ("release", pa.int32()),
        ("client", pa.string()),
        ("client_id", pa.string()),
        ("status", pa.int16()),
        ("error", pa.string()),
        ("seconds", pa.float64()),
        ("queued", pa.float64()),
        ("ran", pa.float64()),
        ("fallback", pa.bool_()),
        ("sampled", pa.float64()),
    ]
)
REQUESTS = pa.schema(
    [
        ("id", pa.string()),
        ("time", TIME),
        ("endpoint", pa.string()),
        ("release", pa.int32()),
        ("client", pa.string()),
        ("client_id", pa.string()),
        ("status", pa.int16()),
        ("rows", pa.int32()),
        ("seconds", pa.float64()),
        ("sampled", pa.float64()),
        ("errors", pa.list_(pa.struct([("row", pa.int32()), ("error", pa.string())]))),
    ]
)
GAPS = pa.schema([("began", TIME), ("ended", TIME), ("answers", pa.int64()), ("reason", pa.string())])
BATCHES = pa.schema(
    [
        ("run", pa.string()),
        ("part", pa.int32()),
        ("time", TIME),
        ("endpoint", pa.string()),
        ("release", pa.int32()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("fallback", pa.bool_()),
        ("rows", pa.int64()),
        ("errors", pa.int64()),
        ("seconds", pa.float64()),
        *(("input", pa.string()), ("output", pa.string())),
    ]
)
NO_MODEL = Node(0, "", "", "", (), ())  # rows that no model ran: only their error is known
LARGE = 256  # rows of one packed run that become a table of their own
CHUNK = 4_000  # rows that are gathered as Python values before they become Arrow


def signature_name(signature: Signature) -> str:
    """A short name for files."""
    return digest(signature)[:12]


def struct_names(fields: Sequence[tuple[str, str, int]]) -> list[str]:
    """Names of a struct's fields: several values a row are `name_list`; names that only differ in case are numbered."""
    names: list[str] = []
    seen: set[str] = set()
    for name, _, width in fields:
        wanted = f"{name}_list" if width > 1 else name
        chosen, number = wanted, 2
        while chosen.lower() in seen:
            chosen, number = f"{wanted}_{number}", number + 1
        seen.add(chosen.lower())
        names.append(chosen)
    return names


class Gathered:
    """Rows of one day and one schema on their way to Arrow."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._facts: list[tuple[Any, ...]] = []
        self._inputs: list[Any] = []  # rows, None where they were not kept
        self._outputs: list[Any] = []
        self._tables: list[pa.Table] = []

    def add(self, request: Request, node: Node, run: Run | None, rows: Sequence[int]) -> None:
        """One run over these rows of a request; without a run, rows that only failed."""
        errors = request.errors or {}
        few = (request.id, request.arrived // 1000, request.endpoint, node.model or None, node.version or None,
               node.arm or None, request.release, request.client, request.client_id, request.status,
               request.seconds)  # fmt: skip
        late = (run.queued, run.ran, run.fallback) if run is not None else (None, None, None)
        inputs, outputs = (run.inputs, run.outputs) if run is not None else (None, None)
        large = len(rows) >= LARGE and (inputs is not None or outputs is not None)
        if large:
            self._settle()
        if len(rows) == 1:
            row = rows[0]
            self._facts.append((row, errors.get(row) if errors else None, *few, *late, request.sampled))
        else:
            self._facts.extend((row, errors.get(row), *few, *late, request.sampled) for row in rows)
        if large:
            self._settle_large(inputs, outputs)
            return
        self._inputs.extend(_as_rows(inputs, self.signature[0], len(rows)))
        self._outputs.extend(_as_rows(outputs, self.signature[1], len(rows)))
        if len(self._facts) >= CHUNK:
            self._settle()

    def table(self) -> pa.Table:
        """All rows so far."""
        self._settle()
        if len(self._tables) == 1:
            return self._tables[0]
        self._tables = [unite(self._tables)]
        return self._tables[0]

    def _settle(self) -> None:
        if self._facts:
            inputs = _struct(self._inputs, self.signature[0])
            outputs = _struct(self._outputs, self.signature[1])
            self._tables.append(_table(self._facts, inputs, outputs))
            self._facts, self._inputs, self._outputs = [], [], []

    def _settle_large(self, inputs: Any, outputs: Any) -> None:
        count = len(self._facts)
        made = [
            _struct_of_columns(_as_columns(block, fields), fields, count)
            for block, fields in ((inputs, self.signature[0]), (outputs, self.signature[1]))
        ]
        self._tables.append(_table(self._facts, made[0], made[1]))
        self._facts = []


def _table(facts: list[tuple[Any, ...]], inputs: pa.Array, outputs: pa.Array) -> pa.Table:
    columns = dict(zip(_ORDER, zip(*facts, strict=True), strict=True))
    arrays = [pa.array(columns[field.name], type=field.type) for field in FACTS]
    table = pa.table(arrays, schema=FACTS)
    for name, made in (("inputs", inputs), ("outputs", outputs)):
        if not pa.types.is_null(made.type):
            table = table.append_column(name, made)
    return table


_ORDER = ("row", "error", "id", "time", "endpoint", "model", "version", "arm", "release", "client", "client_id",
          "status", "seconds", "queued", "ran", "fallback", "sampled")  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- blocks
def _as_rows(block: Any, fields: Sequence[tuple[str, str, int]], count: int) -> Iterator[Any] | Sequence[Any]:
    if block is None or not fields:
        return repeat(None, count)
    if isinstance(block, dict):
        columns = _as_columns(block, fields)
        assert columns is not None
        return zip(*columns, strict=True)
    rows: Sequence[Any] = block.tolist() if isinstance(block, np.ndarray) else block
    return rows


def _as_columns(block: Any, fields: Sequence[tuple[str, str, int]]) -> list[Any] | None:
    """A column for each field; None when nothing was kept."""
    if block is None or not fields:
        return None
    if isinstance(block, dict):
        length = len(next(iter(block.values()))) if block else 0
        empty = [None] * length
        return [_plain(block.get(name, empty)) for name, _, _ in fields]
    if isinstance(block, np.ndarray):
        return [block[:, index] for index in range(len(fields))]
    return [list(column) for column in zip(*block, strict=True)]


def _plain(column: Any) -> Any:
    return list(column.tolist()) if isinstance(column, np.ndarray) and column.ndim > 1 else column


def _struct(rows: list[Any], fields: Sequence[tuple[str, str, int]]) -> pa.Array:
    """Rows as an Arrow struct; None rows are null."""
    kept = [row for row in rows if row is not None]
    if not kept or not fields:
        return pa.nulls(len(rows), _struct_type(fields))
    made = _struct_of_columns(list(zip(*kept, strict=True)), fields, len(kept))
    if len(kept) == len(rows):
        return made
    there = np.fromiter((row is not None for row in rows), bool, len(rows))
    return made.take(pa.array(np.cumsum(there) - 1, mask=~there))


def _struct_of_columns(columns: Sequence[Any] | None, fields: Sequence[tuple[str, str, int]], count: int) -> pa.Array:
    if columns is None or not fields:
        return pa.nulls(count, _struct_type(fields))
    arrays = [_array(column, _type(field)) for column, field in zip(columns, fields, strict=True)]
    return pa.StructArray.from_arrays(arrays, names=struct_names(fields))


def _type(field: tuple[str, str, int]) -> pa.DataType:
    kind = TYPES.get(field[1], pa.string())
    return pa.list_(kind) if field[2] > 1 else kind


def _struct_type(fields: Sequence[tuple[str, str, int]]) -> pa.DataType:
    if not fields:
        return pa.null()
    return pa.struct(list(zip(struct_names(fields), map(_type, fields), strict=True)))


def _array(values: Any, wanted: pa.DataType) -> pa.Array:
    """Values as the contract's type, else as numbers if they are, else as text; NaN is missing."""
    for kind in (wanted, None):
        try:
            found = pa.array(values, type=kind, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
        if kind is not None or pa.types.is_floating(found.type) or pa.types.is_integer(found.type):
            return found
    number = float if wanted == pa.float64() else None  # JSON's 1 is 1.0 there
    texts = [value if number is None or type(value) is not int else number(value) for value in values]
    return pa.array([None if value is None else str(value) for value in texts], type=pa.string())


def unite(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of one schema, one below the other; fields whose types differ become text."""
    for name in {"inputs", "outputs"} & set(tables[0].schema.names):
        kinds = [table.schema.field(name).type for table in tables]
        if any(kind != kinds[0] for kind in kinds):
            differ = {
                field.name for kind in kinds if pa.types.is_struct(kind) for field in kind if _differs(field, kinds)
            }
            tables = [_textual(table, name, differ) for table in tables]
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def _differs(field: pa.Field, kinds: Sequence[pa.DataType]) -> bool:
    return any(pa.types.is_struct(kind) and kind.field(field.name).type != field.type for kind in kinds)


def _textual(table: pa.Table, name: str, fields: set[str]) -> pa.Table:
    kind = table.schema.field(name).type
    if not pa.types.is_struct(kind):
        return table
    array = table.column(name).combine_chunks()
    columns = [_as_text(array.field(f.name)) if f.name in fields else array.field(f.name) for f in kind]
    made = pa.StructArray.from_arrays(columns, names=[f.name for f in kind], mask=array.is_null())
    return table.set_column(table.schema.get_field_index(name), name, made)


def _as_text(array: pa.Array) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())


# ----------------------------------------------------------------------------------------------------------- gathering
class Gathering:
    """Records of any number of segments as tables: `days[day][signature]`, and the requests of each day."""

    def __init__(self, wanted: Callable[[str], bool] = lambda day: True) -> None:
        self._wanted = wanted
        self._known: dict[int, str | None] = {}  # day number → its date, None if it is not wanted
        self.days: dict[str, dict[Signature, Gathered]] = {}
        self._requests: dict[str, list[tuple[Any, ...]]] = {}
        self._settled: dict[str, list[pa.Table]] = {}
        self._gaps: dict[str, list[tuple[Any, ...]]] = {}
        self._batches: dict[str, list[tuple[Any, ...]]] = {}
        self.seen: set[str] = set()  # every day that has a record, wanted or not

    def segment(self, stream: Iterable[Record]) -> None:
        """All records of one segment."""
        with without_collecting():
            self._segment(stream)

    def _segment(self, stream: Iterable[Record]) -> None:
        nodes: dict[int, Node] = {}
        for record in stream:
            if isinstance(record, Request):
                self._request(record, nodes)
            elif isinstance(record, Node):
                nodes[record.number] = record
            elif isinstance(record, Batch):
                self._batch(record)
            elif (day := self._day(record.began)) is not None:
                row = (record.began // 1000, record.ended // 1000, record.answers, record.reason)
                self._gaps.setdefault(day, []).append(row)

    def only(self, wanted: Callable[[str], bool]) -> None:
        """From the next segment on only these days are gathered."""
        self._wanted = wanted
        self._known.clear()
        self.seen = set()

    def requests(self, day: str) -> pa.Table:
        """The day's requests."""
        last = _flat(self._requests.get(day) or [], REQUESTS)
        return pa.concat_tables([*self._settled.get(day, []), last])

    def gaps(self, day: str) -> pa.Table:
        """Answers of the day that left unjournalled."""
        return _flat(self._gaps.get(day) or [], GAPS)

    def batches(self, day: str) -> pa.Table:
        """Partitions of scored tables: a row for each model, one without model for rows that have an error."""
        return _flat(self._batches.get(day) or [], BATCHES)

    def _batch(self, batch: Batch) -> None:
        day = self._day(batch.ended)
        if day is None:
            return
        head = (batch.run, batch.part, batch.ended // 1000, batch.endpoint, batch.release)
        tail = (batch.seconds, batch.input, batch.output)
        rows: list[Any] = [
            (*head, name, version, second, count, 0, *tail) for name, version, count, second in batch.models
        ]
        if batch.errors or not rows:
            rows.append((*head, None, None, None, 0, batch.errors, *tail))
        self._batches.setdefault(day, []).extend(rows)

    def all_days(self) -> list[str]:
        """Days of which anything was gathered."""
        return sorted({*self.days, *self._gaps, *self._batches})

    def _day(self, arrived: int) -> str | None:
        number = arrived // 86_400_000_000_000
        if number not in self._known:
            day = (_EPOCH + datetime.timedelta(days=number)).isoformat()
            self.seen.add(day)
            self._known[number] = day if self._wanted(day) else None
        return self._known[number]

    def _request(self, request: Request, nodes: Mapping[int, Node]) -> None:
        day = self._day(request.arrived)
        if day is None:
            return
        errors = [{"row": row, "error": text} for row, text in request.errors.items()] if request.errors else None
        requests = self._requests.setdefault(day, [])
        if len(requests) >= CHUNK:
            self._settled.setdefault(day, []).append(_flat(requests, REQUESTS))
            requests.clear()
        requests.append(
            (request.id, request.arrived // 1000, request.endpoint, request.release, request.client,
             request.client_id, request.status, request.rows, request.seconds, request.sampled, errors)
        )  # fmt: skip
        groups = self.days.setdefault(day, {})
        failed = set(request.errors or ())
        for run in request.runs:
            node = nodes.get(run.node) or NO_MODEL
            rows = range(request.rows) if run.rows is None else run.rows
            if failed:
                failed.difference_update(rows)
            self._group(groups, node).add(request, node, run, rows)
        if failed:
            self._group(groups, NO_MODEL).add(request, NO_MODEL, None, sorted(failed))

    def _group(self, groups: dict[Signature, Gathered], node: Node) -> Gathered:
        signature = (node.inputs, node.outputs)
        found = groups.get(signature)
        if found is None:
            found = groups[signature] = Gathered(signature)
        return found


def _flat(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


_EPOCH = datetime.date(1970, 1, 1)
