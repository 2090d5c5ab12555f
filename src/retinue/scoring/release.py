"""A release as a batch run holds it: routing, graphs and what columns they read, as the gateway does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retinue.core.contract import Field
from retinue.core.errors import CorruptArtifactError, UnavailableError, UnknownModelError
from retinue.core.routing import (
    Graph,
    fields_of,
    graph_of,
    key_text,
    member_name,
    member_pattern,
    placeholders,
)
from retinue.core.state import ServedEndpoint, ServedModel
from retinue.core.suggest import did_you_mean
from retinue.store.releasefile import ReleaseFile


@dataclass(frozen=True, slots=True)
class Plan:
    """What a row of one model runs; the last of `served` answers."""

    graph: Graph
    served: tuple[ServedModel, ...]

    @property
    def answers(self) -> ServedModel:
        """The model whose outputs are the answer."""
        return self.served[-1]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a table must bring for a name, what else some members read, the fields that choose a member, the outputs."""

    needed: tuple[Field, ...]
    optional: tuple[Field, ...]
    keys: tuple[str, ...]
    outputs: tuple[Field, ...]


class ScoringRelease:
    """One pinned release. Not thread-safe in its first use of a name: `wanted` is asked before threads start."""

    def __init__(self, file: ReleaseFile) -> None:
        self.file = file
        self.number = file.number
        self.digest = file.digest
        self._plans: dict[str, Plan | UnavailableError] = {}

    def endpoint(self, name: str) -> ServedEndpoint | None:
        """The endpoint of that name, None when it is a model's. Raises UnknownModelError with what is near."""
        found = self.file.endpoints.get(name)
        if found is None and name not in self.file:
            names = [*self.file.endpoints, *self.file.models]
            raise UnknownModelError(
                f"no model or endpoint {name!r} in release {self.number}", hint=did_you_mean(name, names, limit=20)
            )
        return found

    def plan(self, name: str) -> Plan:
        """How that model runs. Raises UnavailableError when it, or an upstream, is not in the release."""
        found = self._plans.get(name)
        if found is None:
            found = self._plans[name] = self._make(name)
        if isinstance(found, UnavailableError):
            raise UnavailableError(found.message, hint=found.hint)
        return found

    def member(self, endpoint: ServedEndpoint, values: dict[str, Any]) -> str | None:
        """The member that these key values choose; None when the release has no such member."""
        texts: dict[str, str] = {}
        for key in placeholders(endpoint.select):
            text = key_text(values.get(key))
            if text is None:
                return None
            texts[key] = text
        name = member_name(endpoint.select, texts)
        return name if name in self.file else None

    def wanted(self, name: str) -> Wanted:
        """What a table for that name must bring. Raises UnknownModelError, UnavailableError."""
        endpoint = self.endpoint(name)
        if endpoint is None:
            plan = self.plan(name)
            return Wanted(plan.graph.fields, (), (), fields_of(plan.answers.signature["outputs"]))
        keys = placeholders(endpoint.select)
        first, others = self._readable(endpoint, keys)
        found = {field.name: field for field in first.graph.fields}
        needed = {**{key: found.get(key) or Field(key, "BYTES") for key in keys}, **found}
        optional = {f.name: f for plan in others for f in plan.graph.fields if f.name not in needed}
        outputs = fields_of(first.answers.signature["outputs"])
        return Wanted(tuple(needed.values()), tuple(optional.values()), keys, outputs)

    def _readable(self, endpoint: ServedEndpoint, keys: Sequence[str]) -> tuple[Plan, list[Plan]]:
        """The plan of a member, and those of the others that read other fields."""
        names = [endpoint.select]
        if keys:
            pattern = member_pattern(endpoint.select)
            names = [name for name in self.file.models if pattern.fullmatch(name)]
        names += [endpoint.fallback] if endpoint.fallback else []
        plans: dict[tuple[Field, ...], Plan] = {}
        error = UnavailableError(f"endpoint {endpoint.name!r} has no model in release {self.number}")
        for name in names:
            try:
                plan = self.plan(name)
            except UnavailableError as problem:
                error = UnavailableError(problem.message, hint=problem.hint)
                continue
            plans.setdefault(plan.graph.fields, plan)
        if not plans:
            raise error
        first, *others = plans.values()
        return first, others

    def _make(self, name: str) -> Plan | UnavailableError:
        try:
            graph = graph_of(name, self.file.model)
            served = tuple(self.file.model(node.model) for node in graph.nodes)
        except (UnavailableError, CorruptArtifactError) as error:
            return UnavailableError(error.message, hint=error.hint)
        return Plan(graph, tuple(one for one in served if one is not None))

    def close(self) -> None:
        """Close the file."""
        self.file.close()
