"""What one row of one model runs, worked out once per release: the graph, its models, and how a request is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from retinue.core.batching import COLUMNS, MATRIX, ROWS, BatchKey, Column
from retinue.core.routing import Graph, Node
from retinue.gateway.recorder import NodeFacts
from retinue.gateway.slots import LoadedModel
from retinue.gateway.values import RowCleaner, clean, clean_matrix, key_of


class Table(Protocol):
    """The rows of a request. `matrix` is all of it as floats [n, k] in the order of its `names`, if it came packed."""

    matrix: Any
    names: Sequence[str]

    def column(self, name: str, rows: Sequence[int]) -> Column:
        """The values of one field in these rows: a list (None is missing) or an array (NaN is missing)."""

    def values(self, names: Sequence[str], row: int) -> Sequence[Any]:
        """The values of several fields in one row, as Python has them."""


class Inputs(NamedTuple):
    """What a node gets of a request. `block` lacks what comes from upstreams; `problems` maps row → what is wrong."""

    block: Any
    key: BatchKey
    problems: dict[int, str]


class NodeReader:
    """Reads a node's own fields from a request, checks them, and puts in what upstreams gave."""

    __slots__ = ("_cleaner", "_places", "_upstream", "_width", "fields", "names", "pick")

    def __init__(self, node: Node) -> None:
        own = [(place, field, source.field) for place, (field, source) in enumerate(zip(node.inputs, node.sources))  # noqa: B905
               if source.node < 0]  # fmt: skip
        self._places = tuple(place for place, _, _ in own)
        self._width = len(node.inputs)
        self._upstream = tuple(
            (place, node.inputs[place].name, source.node, source.output)
            for place, source in enumerate(node.sources)
            if source.node >= 0
        )
        self.fields = tuple(field for _, field, _ in own)
        self.names = tuple(name for _, _, name in own)
        self.pick = _picker(self.names)  # of a JSON row: raises KeyError when one is missing
        self._cleaner = RowCleaner(self.fields)

    @property
    def alone(self) -> bool:
        """Whether all inputs come from the request."""
        return not self._upstream

    def key(self, values: Sequence[Any]) -> BatchKey | None:
        """The batch key of one row's own values when nothing is wrong with them, else None."""
        return self._cleaner.key(values)

    def one(self, values: Sequence[Any]) -> list[Any]:
        """A block of one row."""
        if not self._upstream:
            return [values]
        row: list[Any] = [None] * self._width
        for place, value in zip(self._places, values, strict=True):
            row[place] = value
        return [row]

    def read(self, table: Table, rows: Sequence[int], whole: bool) -> Inputs:
        """The node's own values in these rows (`whole`: they are all of the request), checked."""
        if whole and table.matrix is not None and not self._upstream and tuple(table.names) == self.names:
            problems = clean_matrix(table.matrix, self.fields)
            return Inputs(table.matrix, (MATRIX, ()), problems)
        columns: list[Column] = []
        gaps: list[bool] = []
        problems = {}
        plain = True
        for field, name in zip(self.fields, self.names, strict=True):
            values, gap, wrong = clean(table.column(name, rows), field)
            if wrong:
                problems.update(wrong)
            plain = plain and isinstance(values, list)
            columns.append(values)
            gaps.append(gap)
        if plain and columns:
            return Inputs(self._rows(columns), key_of(ROWS, self.fields, gaps), problems)
        block = {field.name: values for field, values in zip(self.fields, columns, strict=True)}
        return Inputs(block, key_of(COLUMNS, self.fields, gaps), problems)

    def fill(self, block: Any, form: str, outputs: Sequence[dict[str, Column] | None]) -> Any:
        """Put the upstreams' outputs in; the block is whole then."""
        for place, name, node, output in self._upstream:
            made = outputs[node]
            assert made is not None
            values = made[output]
            if form == COLUMNS:
                block[name] = values
            else:
                for row, value in zip(block, values if isinstance(values, list) else values.tolist(), strict=True):
                    row[place] = value
        return block

    def _rows(self, columns: list[Column]) -> list[Any]:
        if not self._upstream:
            return list(zip(*columns, strict=True))
        whole: list[Column] = [[None] * len(columns[0])] * self._width
        for place, column in zip(self._places, columns, strict=True):
            whole[place] = column
        return [list(row) for row in zip(*whole, strict=True)]


class Plan:
    """What one row of one model runs: the graph, with a model for each node."""

    __slots__ = ("after", "facts", "graph", "models", "readers", "tail", "templates")

    def __init__(self, graph: Graph, models: tuple[LoadedModel, ...]) -> None:
        self.graph = graph
        self.models = models
        self.after = tuple(node.after for node in graph.nodes)  # per node, the nodes it waits for
        self.readers = tuple(NodeReader(node) for node in graph.nodes)
        self.facts = tuple(_facts(node, model) for node, model in zip(graph.nodes, models, strict=True))
        self.tail: bytes | None = None  # how an answer of one row ends, as `rows` has it
        self.templates: dict[
            Any, Any
        ] = {}  # by the name that was asked for: what `oip_line` and `grpc_line` answer with

    @property
    def model(self) -> LoadedModel:
        """The model that answers: the last node."""
        return self.models[-1]


def _facts(node: Node, model: LoadedModel) -> NodeFacts:
    served = model.served
    fields = [source.field for source in node.sources]
    return NodeFacts(served.name, served.version, node.inputs, model.outputs, fields=fields)


def _picker(names: Sequence[str]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    if not names:
        return lambda row: ()
    if len(names) == 1:
        name = names[0]
        return lambda row: (row[name],)
    return itemgetter(*names)
