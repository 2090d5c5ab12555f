"""What the members of a template have in common is worked out once: checks, schemas, hashed bodies, settings.

Two models are of one kind when all that their declarations say is the same object, but for name, key, filter values
and the names of upstreams, and their upstreams are of one kind too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from retinue.core.declaration import Planned
from retinue.core.identity import canonical, digest
from retinue.core.portfolio import ModelSpec

Json = Any
_OWN = frozenset(("name", "key", "data", "needs", "was"))
"""What differs between members of one kind; `family.expand` hands all other fields of a template on as they are."""
_shared = attrgetter(*(f.name for f in fields(ModelSpec) if f.name not in _OWN))


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One kind: its first member stands for all. `kinds` are those of its upstreams, in the order of its needs."""

    first: ModelSpec
    kinds: tuple[Kind, ...]


class Kinds:
    """The kinds of a portfolio's models; upstreams must be told first."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self.specs = specs
        self.of: dict[str, Kind] = {}
        found: dict[Any, Kind] = {}
        for name, spec in specs.items():
            ups = tuple(self.of[need.model] for need in spec.needs)
            key = (
                *map(id, _shared(spec)),
                spec.was is None,
                *((use.table, *(column for column, _ in use.filters)) for use in spec.data),
                *((n.output, n.column, n.inputs, id(kind)) for n, kind in zip(spec.needs, ups, strict=True)),
            )
            kind = found.get(key)
            if kind is None:
                kind = found[key] = Kind(spec, ups)
            self.of[name] = kind
        self.all = tuple(found.values())


class Bodies:
    """Hashed bodies and their digests; of a kind's further members only the parts that differ are made and hashed."""

    def __init__(
        self,
        kinds: Kinds,
        schemas: Mapping[str, Planned],
        whole: Callable[[ModelSpec], dict[str, Json]],
    ) -> None:
        """`whole` makes a body from nothing, as `core.declaration.hashed_body` does."""
        self.kinds, self.schemas, self.whole = kinds, schemas, whole
        self._moulds: dict[Kind, _Mould | None] = {}

    def of(self, spec: ModelSpec) -> tuple[dict[str, Json], str]:
        """(body, digest of it)."""
        if spec.artifact is not None:  # each has an artifact of its own
            body = self.whole(spec)
            return body, digest(body)
        kind = self.kinds.of[spec.name]
        if kind not in self._moulds:
            self._moulds[kind] = _Mould.of(kind, self.whole(kind.first), self.schemas)
        mould = self._moulds[kind]
        if mould is None:
            body = self.whole(spec)
            return body, digest(body)
        return mould.fill(spec, self.schemas)


@dataclass(frozen=True, slots=True)
class _Mould:
    """A kind's body with holes for `data` and `needs`."""

    body: Mapping[str, Json]
    pieces: tuple[bytes, bytes, bytes]  # canonical JSON before `data`, between it and `needs`, after

    @staticmethod
    def of(kind: Kind, body: dict[str, Json], schemas: Mapping[str, Planned]) -> _Mould | None:
        """None when a body holds something here that is not made as `fill` makes it."""
        if body.get("data") != _data(kind.first) or body.get("needs") != _needs(kind.first, body["needs"], schemas):
            return None
        before: list[bytes] = []
        between: list[bytes] = []
        after: list[bytes] = []
        for name in sorted(body):
            part = canonical(name) + b":" + canonical(body[name])
            if name not in ("data", "needs"):
                (before if name < "data" else between if name < "needs" else after).append(part)
        pieces = (
            b"{" + b"".join(part + b"," for part in before) + b'"data":',
            b"," + b"".join(part + b"," for part in between) + b'"needs":',
            b"".join(b"," + part for part in after) + b"}",
        )
        return _Mould(body, pieces)

    def fill(self, spec: ModelSpec, schemas: Mapping[str, Planned]) -> tuple[dict[str, Json], str]:
        data, needs = _data(spec), _needs(spec, self.body["needs"], schemas)
        first, second, third = self.pieces
        text = b"".join((first, canonical(data), second, canonical(needs) if needs else b"[]", third))
        return {**self.body, "data": data, "needs": needs}, hashlib.sha256(text).hexdigest()


def _data(spec: ModelSpec) -> list[Json]:
    return [[use.table, sorted(list(pair) for pair in use.filters)] for use in spec.data]


def _needs(spec: ModelSpec, like: list[Mapping[str, Json]], schemas: Mapping[str, Planned]) -> list[Json]:
    """The needs of a body with this model's own upstreams; the rest is as in `like`."""
    if not like:
        return []
    own = sorted(spec.needs, key=lambda need: need.column)
    return [
        {**body, "model": need.model, "schema": schemas[need.model].schema.hash}
        for body, need in zip(like, own, strict=True)
    ]
