"""A release as a gateway holds it: the open file, and of the models asked for so far their graphs.

A release may name thousands of models: what a gateway holds of one that nobody asks for is its name in the index.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from retinue.core.contract import Field
from retinue.core.errors import CorruptArtifactError, UnavailableError, UnknownModelError
from retinue.core.routing import graph_of, key_text, member_name, member_pattern, placeholders
from retinue.core.state import ServedEndpoint, ServedModel
from retinue.gateway.plans import Plan
from retinue.gateway.pool import Pool
from retinue.gateway.slots import LoadedModel
from retinue.store.releasefile import ReleaseFile

EAGER = 256  # a release of no more models is loaded whole before it serves, if it is within the budget
KEPT = 1024  # models that are known but not loaded, at most about so many

Contract = tuple[tuple[Field, ...], tuple[Field, ...]]
"""What a request brings, what it gets."""


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

    def __init__(self, file: ReleaseFile, pool: Pool) -> None:
        self.number = file.number
        self.header = b"\r\nretinue-release: %d" % file.number
        self.digest = file.digest
        self.portfolio = file.portfolio
        self.stage = file.stage
        self.models = Models(file, pool)
        self.failed: dict[str, str] = {}  # models that could not be loaded ahead, and why
        self._pool = pool
        self.endpoints = file.endpoints
        self.routes = {name: Route(e, placeholders(e.select)) for name, e in file.endpoints.items()}
        self._plans: dict[str, Plan | UnavailableError] = {}
        self._fields: dict[str, Contract] = {}
        self._known: dict[str, frozenset[str]] = {}
        self._members: dict[tuple[str, ...], str] = {}
        self._quick: dict[tuple[Any, ...], str] = {}
        self._limit = KEPT
        made = (self._plans, self._fields, self._known, self._members, self._quick, self.models.made)
        weakref.finalize(self, _retired, file, pool, made).atexit = False

    @property
    def names(self) -> list[str]:
        """Everything that can be asked for by name, endpoints first."""
        return [*sorted(self.routes), *sorted(set(self.models) - set(self.routes))]

    def plan(self, name: str) -> Plan:
        """How that model runs. Raises UnknownModelError, or UnavailableError when it or an upstream cannot load."""
        found = self._plans.get(name)
        if found is None or isinstance(found, UnavailableError):
            found = self._planned(name)
        if self._pool.troubled:
            self._check(name, found)
        return found

    def loaded(self) -> list[tuple[float, str]]:
        """(how often it was used, name) of the models that are loaded, the most used first."""
        found = [(m.slot.entry.uses, name) for name, m in list(self.models.made.items()) if m.batcher is not None]
        return sorted(found, reverse=True)

    async def warm(self, name: str) -> None:
        """Load a model with its upstreams now, also one that failed before. Raises what `plan` does."""
        if name in self.models:
            self._pool.forgive(self.models[name])
        models = self.plan(name).models
        for model in models:
            self._pool.forgive(model)
        reasons = await asyncio.gather(*(self._pool.load(model) for model in models))
        for model, reason in zip(models, reasons, strict=True):
            if reason is not None:
                raise UnavailableError(f"model {model.served.name!r} is not available: {reason}")

    def evict(self, name: str) -> bool:
        """Unload a model until it is asked for again; whether it is unloaded: pinned ones and those in use are not.

        Raises UnknownModelError.
        """
        if name not in self.models:
            raise UnknownModelError(f"no model {name!r} in release {self.number}")
        return self._pool.evict(self.models[name])

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
            self._members[member] = found
            if all(type(values[key]) is str for key in route.keys):  # True and 1 are one key of a dict
                self._quick[member] = found
        return found

    def choose(self, route: Route, row: dict[str, Any]) -> str | None:
        """The member that a JSON row's keys name, if it was chosen before; None for what needs `select`."""
        try:
            return self._quick.get((route.endpoint.name, *[row[key] for key in route.keys]))
        except (KeyError, TypeError):  # a key is missing, or is no text
            return None

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
                for field in self._planned(route.endpoint.fallback).graph.fields:
                    fields.setdefault(field.name, Field(field.name, field.dtype))
        keys = {key: fields.get(key) or Field(key, "BYTES") for key in route.keys}
        return tuple({**keys, **fields}.values()), plan.model.outputs

    def _planned(self, name: str) -> Plan:
        """The same whether or not its models can be loaded at this moment."""
        found = self._plans.get(name)
        if found is None:
            if name not in self.models:
                raise UnknownModelError(f"no model or endpoint {name!r} in release {self.number}")
            if len(self._plans) >= self._limit:
                self._prune()
            found = self._plans[name] = self._make(name)
        if isinstance(found, UnavailableError):
            raise UnavailableError(found.message, hint=found.hint)  # a fresh one: a raised error keeps its frames alive
        return found

    def _example(self, route: Route) -> Plan:
        """A member's plan: members share a schema, so any one tells the endpoint's, also while it cannot be loaded.

        What an endpoint takes is remembered: it must not depend on which of its models were well when it was asked.
        """
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
                return self._planned(name)
            except (UnavailableError, UnknownModelError) as problem:
                error = UnavailableError(problem.message, hint=problem.hint)
        raise error

    def _make(self, name: str) -> Plan | UnavailableError:
        def lookup(model: str) -> ServedModel | None:
            return self.models[model].served if model in self.models else None

        try:
            graph = graph_of(name, lookup)
        except (UnavailableError, CorruptArtifactError) as error:
            return UnavailableError(error.message, hint=error.hint)
        return Plan(graph, tuple(self.models[node.model] for node in graph.nodes))

    def _check(self, name: str, plan: Plan) -> None:
        """Raise UnavailableError when a model of the plan could not be loaded, and it is not time to try again."""
        for loaded in reversed(plan.models):
            reason = loaded.reason
            if reason is not None:
                upstream = "" if loaded.served.name == name else f" (its upstream {loaded.served.name})"
                raise UnavailableError(f"model {name!r} is not available{upstream}: {reason}")

    def _prune(self) -> None:
        """Forget what is known of models that are not loaded: their records are in the file."""
        self.models.prune()
        for known in (self._plans, self._fields, self._known):
            for name in [name for name in known if name not in self.models.made and name not in self.routes]:
                del known[name]
        self._members.clear()
        self._quick.clear()
        self._limit = max(KEPT, 2 * len(self._plans))


class Models(Mapping[str, LoadedModel]):
    """The release's models by name, each made when it is asked for. `made` are those in memory."""

    def __init__(self, file: ReleaseFile, pool: Pool) -> None:
        self._file = file
        self._pool = pool
        self.made: dict[str, LoadedModel] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._file

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, name: str) -> LoadedModel:
        found = self.made.get(name)
        if found is None:
            served = self._file.model(name)
            if served is None:
                raise KeyError(name)
            found = self.made[name] = self._pool.model(served)
        return found

    def served(self, name: str) -> ServedModel:
        """What a model of the release is, without remembering it. Raises KeyError."""
        found = self.made.get(name)
        served = found.served if found is not None else self._file.model(name)
        if served is None:
            raise KeyError(name)
        return served

    def prune(self) -> None:
        """Forget those that are neither loaded nor being loaded."""
        for name, model in list(self.made.items()):
            if model.batcher is None and model.slot.waiting is None:
                del self.made[name]


def _retired(file: ReleaseFile, pool: Pool, made: tuple[dict[Any, Any], ...]) -> None:
    """The last request of a release that is no longer served has ended."""
    file.close()
    pool.dispose(*made)
    pool.trim()


async def prepare(path: Path, pool: Pool, running: PinnedRelease | None = None) -> PinnedRelease:
    """The release in that file, ready to serve beside the one that is `running`.

    Loaded ahead, within the budget: pinned models, new versions of those that are loaded now (the most used first), and
    all others of a release that is small. A model that cannot be loaded makes only itself unavailable: `failed` says
    why. Raises CorruptArtifactError when the file is unsound.
    """
    file = await pool.loader.run(partial(ReleaseFile, path))
    release = PinnedRelease(file, pool)
    pool.forgive()
    uses = {name: count for count, name in running.loaded() if name in file} if running else {}
    wanted: dict[str, LoadedModel] = {}
    for number, name in enumerate([*file.pinned, *uses]):
        wanted[name] = release.models[name]
        if number % 16 == 15:
            await asyncio.sleep(0)  # thousands of records are not parsed in one turn of the loop
    room = max(pool.budget / 2, pool.budget - pool.ledger.total)
    ahead: list[LoadedModel] = []
    for model in wanted.values():
        if model.batcher is None:
            room -= pool.estimate(model.served)
            if room >= 0 or model.served.pinned:
                ahead.append(model)
    if len(file) <= EAGER:
        rest = [model for model in release.models.values() if model.served.name not in wanted]
        if sum(pool.estimate(model.served) for model in rest) <= room:
            ahead += rest
    reasons = await asyncio.gather(*(pool.load(model, uses.get(model.served.name, 0.0)) for model in ahead))
    names = (model.served.name for model in ahead)
    release.failed = {name: reason for name, reason in zip(names, reasons, strict=True) if reason is not None}
    return release
