"""From a public name to the model each row goes to, and from a model to the graph of models it reads.

An endpoint's `select` is a model name with `{field}`s, filled from each row; key values are percent-escaped in
member names. `graph_of` unfolds a model and its upstreams into nodes in the order they can run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retinue.core.contract import Field
from retinue.core.errors import UnavailableError
from retinue.core.family import escape
from retinue.core.state import ServedModel

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where one feature comes from: a field of the request, or the output of an earlier node."""

    field: str = ""
    node: int = -1
    output: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """One run of one model: its sources, in the order of its inputs."""

    model: str
    inputs: tuple[Field, ...]
    sources: tuple[Source, ...]

    @property
    def after(self) -> tuple[int, ...]:
        """The nodes this one waits for."""
        return tuple(sorted({source.node for source in self.sources if source.node >= 0}))


@dataclass(frozen=True, slots=True)
class Graph:
    """A model with all its upstreams; the last node is the model itself. `fields` is what a request brings."""

    nodes: tuple[Node, ...]
    fields: tuple[Field, ...]


def placeholders(select: str) -> tuple[str, ...]:
    """The row fields a `select` reads, in order, each once.

    >>> placeholders("late-{origin}-{carrier}")
    ('origin', 'carrier')
    """
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(select)))


def key_text(value: Any) -> str | None:
    """A row's value as it stands in a member's key; None when it is missing or no key can be made of it.

    >>> key_text("JFK"), key_text(7), key_text(True), key_text(None)
    ('JFK', '7', 'true', None)
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return None


def member_name(select: str, values: Mapping[str, str]) -> str:
    """The model a `select` names for these key values.

    >>> member_name("late-{origin}", {"origin": "a/b"})
    'late-a%2Fb'
    """
    return _PLACEHOLDER.sub(lambda match: escape(values[match[1]]), select)


def member_pattern(select: str) -> re.Pattern[str]:
    """What the names of a `select`'s members look like (a name may also match by accident)."""
    parts = _PLACEHOLDER.split(select)
    return re.compile("".join(re.escape(part) if index % 2 == 0 else ".+" for index, part in enumerate(parts)))


def fields_of(entries: Sequence[Mapping[str, Any]]) -> tuple[Field, ...]:
    """Inputs or outputs of a signature as fields."""
    return tuple(
        Field(entry["name"], entry["dtype"], bool(entry.get("nullable", True)), int(entry.get("width", 1)))
        for entry in entries
    )


def graph_of(name: str, lookup: Callable[[str], ServedModel | None]) -> Graph:
    """The model and its upstreams in an order they can run; one upstream fed alike from two sides runs once.

    An upstream's feature f is read from the field `inputs.get(f, f)` of the model that needs it, and so on upwards
    to a field of the request. Raises UnavailableError when an upstream is not in the release or needs itself.
    """
    nodes: list[Node] = []
    known: dict[tuple[str, tuple[Source, ...]], int] = {}

    def visit(model: str, naming: Mapping[str, str], path: tuple[str, ...]) -> int:
        served = lookup(model)
        if served is None or model in path:
            what = "needs itself" if served else f"needs {model}, which is not in this release"
            raise UnavailableError(f"{path[-1] if path else model} {what}")
        inputs = fields_of(served.signature["inputs"])
        columns = {need.column for need in served.needs}
        own = {f.name: naming.get(f.name, f.name) for f in inputs if f.name not in columns}
        made: dict[str, Source] = {}
        for need in served.needs:
            renamed = {feature: naming.get(field, field) for feature, field in need.inputs.items()}
            node = visit(need.model, {**naming, **renamed}, (*path, model))
            made[need.column] = Source(node=node, output=need.output)
        sources = tuple(made.get(f.name) or Source(field=own[f.name]) for f in inputs)
        found = known.get((model, sources))
        if found is None:
            nodes.append(Node(model, inputs, sources))
            found = known[model, sources] = len(nodes) - 1
        return found

    visit(name, {}, ())
    return Graph(tuple(nodes), _request_fields(nodes))


def _request_fields(nodes: Sequence[Node]) -> tuple[Field, ...]:
    """The model's own fields first, then what only upstreams read; missing is allowed if every reader allows it."""
    found: dict[str, Field] = {}
    for node in reversed(nodes):
        for field, source in zip(node.inputs, node.sources, strict=True):
            if source.field:
                before = found.get(source.field)
                nullable = field.nullable and (before is None or before.nullable)
                found[source.field] = Field(source.field, before.dtype if before else field.dtype, nullable)
    return tuple(found.values())
