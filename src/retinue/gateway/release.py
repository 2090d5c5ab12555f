"""A release as a gateway holds it: the file, its loaded models, and the graphs that requests run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from retinue.core.contract import Field
from retinue.core.errors import UnavailableError, UnknownModelError
from retinue.core.routing import Graph, Node, graph_of, key_text, member_name, member_pattern, placeholders
from retinue.core.state import ServedEndpoint, ServedModel
from retinue.gateway.pool import LoadedModel, Pool
from retinue.gateway.values import RowCleaner
from retinue.store.releasefile import ReleaseFile

Reader = tuple[RowCleaner, tuple[int, ...] | None]
"""Cleans the request's fields of a node; and where each input is among them, -1 for an upstream's (None: in order)."""

Contract = tuple[tuple[Field, ...], tuple[Field, ...]]
"""What a request brings, what it gets."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one row of one model runs: the graph, with a loaded model for each node."""

    graph: Graph
    models: tuple[LoadedModel, ...]
    after: tuple[tuple[int, ...], ...]  # per node, the nodes it waits for
    readers: tuple[Reader, ...]  # per node, how one row is read

    @property
    def model(self) -> LoadedModel:
        """The model that answers: the last node."""
        return self.models[-1]


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint, taken apart once: the fields its `select` reads."""

    endpoint: ServedEndpoint
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        """The model that a `select` without fields names."""
        return self.endpoint.select


class PinnedRelease:
    """One release, immutable from the first request on. A request keeps the one it was admitted under."""

    def __init__(self, file: ReleaseFile, models: dict[str, LoadedModel]) -> None:
        self.number = file.number
        self.digest = file.digest
        self.portfolio = file.portfolio
        self.stage = file.stage
        self.models = models
        self.routes = {name: Route(e, placeholders(e.select)) for name, e in file.endpoints.items()}
        self.failed = {name: loaded.reason for name, loaded in models.items() if loaded.reason}
        self._plans: dict[str, Plan | UnavailableError] = {}
        self._fields: dict[str, Contract] = {}
        self._known: dict[str, frozenset[str]] = {}
        self._members: dict[tuple[str, ...], str] = {}

    @property
    def names(self) -> list[str]:
        """Everything that can be asked for by name, endpoints first."""
        return [*sorted(self.routes), *sorted(set(self.models) - set(self.routes))]

    def plan(self, name: str) -> Plan:
        """How that model runs. Raises UnknownModelError, or UnavailableError when it or an upstream is not loaded."""
        found = self._plans.get(name)
        if found is None:
            if name not in self.models:
                raise UnknownModelError(f"no model or endpoint {name!r} in release {self.number}")
            found = self._plans[name] = self._make(name)
        if isinstance(found, UnavailableError):
            raise UnavailableError(found.message, hint=found.hint)  # a fresh one: a raised error keeps its frames alive
        return found

    def select(self, route: Route, values: dict[str, object]) -> str | None:
        """The member these key values name, None when there is no such member in the release."""
        if not route.keys:
            return route.name if route.name in self.models else None
        texts: dict[str, str] = {}
        for key in route.keys:
            text = key_text(values.get(key))
            if text is None:
                return None
            texts[key] = text
        member = (route.endpoint.name, *texts.values())
        found = self._members.get(member)
        if found is None:
            found = member_name(route.endpoint.select, texts)
            if found not in self.models:
                return None
            self._members[member] = found  # as many as there are members
        return found

    def fields(self, name: str) -> Contract:
        """What a request for this name brings and what it gets. Raises UnknownModelError or UnavailableError."""
        found = self._fields.get(name)
        if found is None:
            found = self._fields[name] = self._contract(name)
        return found

    def known(self, name: str) -> frozenset[str]:
        """The names of the fields a row for this name may have; none while nothing of it can answer."""
        found = self._known.get(name)
        if found is None:
            try:
                found = frozenset(field.name for field in self.fields(name)[0])
            except UnavailableError:
                return frozenset()  # what cannot answer says so itself
            self._known[name] = found
        return found

    def _contract(self, name: str) -> Contract:
        route = self.routes.get(name)
        if route is None:
            plan = self.plan(name)
            return plan.graph.fields, plan.model.outputs
        plan = self._example(route)
        fields = {field.name: field for field in plan.graph.fields}
        if route.endpoint.fallback:  # it may read fields that no member reads
            with contextlib.suppress(UnavailableError, UnknownModelError):
                for field in self.plan(route.endpoint.fallback).graph.fields:
                    fields.setdefault(field.name, Field(field.name, field.dtype))
        keys = {key: fields.get(key) or Field(key, "BYTES") for key in route.keys}
        return tuple({**keys, **fields}.values()), plan.model.outputs

    def _example(self, route: Route) -> Plan:
        """A member's plan: members share a schema, so any one tells the endpoint's."""
        if not route.keys:
            candidates = [route.endpoint.select]
        else:
            pattern = member_pattern(route.endpoint.select)
            candidates = [name for name in self.models if pattern.fullmatch(name)]
        if route.endpoint.fallback:
            candidates.append(route.endpoint.fallback)
        error = UnavailableError(f"endpoint {route.endpoint.name!r} has no model in release {self.number}")
        for name in candidates:
            try:
                return self.plan(name)
            except (UnavailableError, UnknownModelError) as problem:
                error = UnavailableError(problem.message, hint=problem.hint)
        raise error

    def _make(self, name: str) -> Plan | UnavailableError:
        def lookup(model: str) -> ServedModel | None:
            loaded = self.models.get(model)
            return loaded.served if loaded else None

        try:
            graph = graph_of(name, lookup)
        except UnavailableError as error:
            return UnavailableError(error.message, hint=error.hint)
        models = tuple(self.models[node.model] for node in graph.nodes)
        for loaded in reversed(models):
            if loaded.reason:
                upstream = "" if loaded.served.name == name else f" (its upstream {loaded.served.name})"
                return UnavailableError(f"model {name!r} is not available{upstream}: {loaded.reason}")
        return Plan(graph, models, tuple(node.after for node in graph.nodes), tuple(map(_reader, graph.nodes)))


def _reader(node: Node) -> Reader:
    own = [(field, source) for field, source in zip(node.inputs, node.sources, strict=True) if source.node < 0]
    cleaner = RowCleaner([source.field for _, source in own], [field for field, _ in own])
    if len(own) == len(node.inputs):
        return cleaner, None
    order = iter(range(len(own)))
    return cleaner, tuple(-1 if source.node >= 0 else next(order) for source in node.sources)


async def prepare(file: ReleaseFile, pool: Pool) -> PinnedRelease:
    """Load and warm every model of the release; a model that cannot be loaded makes only itself unavailable."""
    models: dict[str, LoadedModel] = {}
    for name in file.models:
        served = file.model(name)
        assert served is not None
        models[name] = await pool.load(served)
    return PinnedRelease(file, models)
