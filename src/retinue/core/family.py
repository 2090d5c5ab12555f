"""One template, many models: fills placeholders, applies overrides, exclusions and least numbers of rows.

A key value enters a name percent-escaped, so that a name stays one path segment and tells its values apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from retinue.core.errors import PortfolioError
from retinue.core.identity import digest
from retinue.core.portfolio import DataUse, Gates, Key, ModelSpec, ModelTemplate, Need, Override

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
Fill = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A key with too few rows: no model yet."""

    name: str
    key: Key
    rows: int
    min_rows: int


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A live member whose key fell below `min_rows` or left the data (rows 0); its spec is still known."""

    spec: ModelSpec
    rows: int


@dataclass(frozen=True, slots=True)
class Expansion:
    """What became of a template's keys, each part in the order of names."""

    members: tuple[ModelSpec, ...]
    waiting: tuple[Waiting, ...] = ()
    lapsed: tuple[Lapsed, ...] = ()
    excluded: tuple[str, ...] = ()


def placeholders(text: str) -> tuple[str, ...]:
    """The placeholders of a text, each once, in order.

    >>> placeholders("late-{origin}-{carrier}")
    ('origin', 'carrier')
    """
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(text)))


@lru_cache(maxsize=65_536)
def escape(value: str) -> str:
    """A key value as part of a name: everything outside `[A-Za-z0-9._~-]` percent-escaped as UTF-8.

    A value of dots only is escaped too, so that no name is a folder's `.` or `..`.

    >>> escape("São Paulo/1"), escape("..")
    ('S%C3%A3o%20Paulo%2F1', '%2E%2E')
    """
    if value.strip(".") == "":
        return value.replace(".", "%2E")
    return quote(value, safe="", errors="surrogatepass")


def file_name(model: str) -> str:
    """A model's name as that of a file: one that file systems find too long is cut, and told apart by its digest.

    >>> file_name("late-JFK"), len(file_name("x" * 500))
    ('late-JFK', 137)
    """
    name = escape(model)
    return name if len(name) <= 200 else f"{name[:120]}-{digest(model)[:16]}"


def fill_name(template: str, values: Mapping[str, str]) -> str:
    """A name with its placeholders filled by escaped values. Raises KeyError for a value that is not given."""
    return _PLACEHOLDER.sub(lambda found: escape(values[found[1]]), template)


def family_label(template: str) -> str:
    """The short name of a family: what stands before its first placeholder.

    >>> family_label("late-{origin}-{carrier}"), family_label("congestion"), family_label("{origin}-late")
    ('late', 'congestion', '{origin}-late')
    """
    return template.partition("{")[0].rstrip("-._~") or template


def key_of(template: str, name: str) -> dict[str, str] | None:
    """The values that fill `template` to `name`, or None if no values do.

    >>> key_of("late-{origin}", "late-JFK")
    {'origin': 'JFK'}
    """
    found = _matcher(template).fullmatch(name)
    return None if found is None else {key: unquote(value) for key, value in found.groupdict().items()}


def could_be(template: str, name: str) -> bool:
    """Whether filling `name` (itself maybe with placeholders) can give a name that `template` gives."""
    return _matcher(template).fullmatch(_PLACEHOLDER.sub("X", name)) is not None


def expand(
    template: ModelTemplate,
    keys: Iterable[tuple[Sequence[str], int]] | None = None,
    live: Iterable[Sequence[str]] = (),
) -> Expansion:
    """The models of a template, in the order of their names.

    `keys` are the key values (in the order of `for_each.placeholders`) with their rows, as found in the data; None
    takes the keys that are written out. `live` are keys of members in the live release: those without enough rows
    are `lapsed`, not `waiting`. Raises PortfolioError for an override that matches no key and for a name given twice.
    """
    each = template.for_each
    if each is None:
        return Expansion((template.spec,))
    if keys is None:
        counted = {tuple(value for _, value in key): each.min_rows for key in each.keys}
        repeated = len(counted) != len(each.keys)
    else:
        listed = [(tuple(values), rows) for values, rows in keys]
        counted = dict(listed)
        repeated = len(counted) != len(listed)
    if repeated:
        raise PortfolioError(
            f"{template.spec.name}: a key is given twice", where=template.spec.where, hint="List each key once."
        )
    alive = {tuple(values) for values in live}
    _require_matches(template, [*counted, *alive])
    maker = _Maker(template)
    members: list[ModelSpec] = []
    waiting: list[Waiting] = []
    lapsed: list[Lapsed] = []
    excluded: list[str] = []
    for values in [*counted, *(alive - counted.keys())]:
        rows = counted.get(values, 0)
        if _left_out(template, values):
            excluded.append(maker.name(values))
        elif rows >= each.min_rows:
            members.append(maker.make(values))
        elif values in alive:
            lapsed.append(Lapsed(maker.make(values), rows))
        else:
            waiting.append(Waiting(maker.name(values), maker.key(values), rows, each.min_rows))
    return Expansion(
        tuple(sorted(members, key=lambda spec: spec.name)),
        tuple(sorted(waiting, key=lambda item: item.name)),
        tuple(sorted(lapsed, key=lambda item: item.spec.name)),
        tuple(sorted(excluded)),
    )


def by_name(expansions: Iterable[Expansion]) -> dict[str, ModelSpec]:
    """All members by name, sorted. Raises PortfolioError if two models have one name."""
    found: dict[str, ModelSpec] = {}
    for expansion in expansions:
        for spec in expansion.members:
            other = found.setdefault(spec.name, spec)
            if other is not spec:
                raise PortfolioError(
                    f"two models are named {spec.name!r}: the other is declared at {other.where}",
                    where=spec.where,
                    hint="Change one of the two names, or separate the placeholders more clearly.",
                )
    return dict(sorted(found.items()))


def amend(spec: ModelSpec, values: Mapping[str, Any]) -> ModelSpec:
    """`spec` with an override's values: mappings are merged key by key, gates metric by metric, others replaced."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        current = getattr(spec, name)
        if isinstance(current, Gates):
            changes[name] = _amend_gates(current, value)
        elif isinstance(value, Mapping) and isinstance(current, Mapping):
            changes[name] = {**current, **value}
        elif isinstance(value, Mapping):
            changes[name] = replace(current, **value)
        else:
            changes[name] = value
    return replace(spec, **changes)


def _amend_gates(current: Gates, values: Mapping[str, Any]) -> Gates:
    metrics = {gate.metric: gate for gate in (*current.metrics, *values.get("metrics", ()))}
    rest = {name: value for name, value in values.items() if name != "metrics"}
    return replace(current, metrics=tuple(metrics[name] for name in sorted(metrics)), **rest)


class _Maker:
    """Makes members; what does not depend on the key is prepared once per set of matching overrides."""

    def __init__(self, template: ModelTemplate) -> None:
        assert template.for_each is not None
        self.template = template
        self.order = template.for_each.placeholders
        self.fill_name = _filler(template.spec.name, self.order, escape)
        self.prepared: dict[tuple[int, ...], _Prepared] = {}

    def name(self, values: Sequence[str]) -> str:
        name = self.fill_name(values)
        if not name:
            raise PortfolioError(
                f"{self.template.spec.name}: an empty key value gives an empty name",
                where=self.template.spec.where,
                hint="Exclude the value, or write text around the placeholder.",
            )
        return name

    def key(self, values: Sequence[str]) -> Key:
        return tuple(zip(self.order, values, strict=True))

    def make(self, values: tuple[str, ...]) -> ModelSpec:
        overrides = self.template.overrides
        chosen = tuple(i for i, override in enumerate(overrides) if _matches(override.match, values))
        prepared = self.prepared.get(chosen)
        if prepared is None:
            spec = self.template.spec
            for index in chosen:
                spec = amend(spec, overrides[index].values)
            prepared = self.prepared[chosen] = _Prepared(spec, self.order)
        spec = prepared.spec
        return _with(
            spec,
            {
                "name": self.name(values),
                "key": self.key(values),
                "data": prepared.data(values),
                "needs": prepared.needs(values),
                "artifact": prepared.artifact(values) if prepared.artifact else None,
                "was": prepared.was(values) if prepared.was else None,
            },
        )


_FIELDS = tuple(field.name for field in fields(ModelSpec))


def _with(spec: ModelSpec, own: Mapping[str, Any]) -> ModelSpec:
    """As `dataclasses.replace`, at a fifth of its cost: ten thousand members are made for every plan."""
    made = object.__new__(ModelSpec)
    for name in _FIELDS:
        object.__setattr__(made, name, own[name] if name in own else getattr(spec, name))
    return made


class _Prepared:
    """A spec whose texts with placeholders are cut into pieces once."""

    def __init__(self, spec: ModelSpec, order: tuple[str, ...]) -> None:
        self.spec = spec
        self.was = _filler(spec.was, order, escape) if spec.was else None
        self.artifact = _filler(spec.artifact, order, escape) if spec.artifact else None
        self._data = [
            (use, [(column, _filler(value, order, str)) for column, value in use.filters]) for use in spec.data
        ]
        self._needs = [(need, _filler(need.model, order, escape)) for need in spec.needs]

    def data(self, values: Sequence[str]) -> tuple[DataUse, ...]:
        return tuple(
            DataUse(use.table, tuple((column, fill(values)) for column, fill in filters)) if filters else use
            for use, filters in self._data
        )

    def needs(self, values: Sequence[str]) -> tuple[Need, ...]:
        return tuple(Need(fill(values), need.output, need.column, need.inputs) for need, fill in self._needs)


def _filler(text: str, order: tuple[str, ...], form: Callable[[str], str]) -> Fill:
    """A function from key values to the filled text; what stands around the placeholders is cut only once."""
    pieces = _PLACEHOLDER.split(text)  # text, placeholder, text, …
    if len(pieces) == 1:
        return lambda values: text
    literal = pieces[0::2]
    holes = [order.index(name) for name in pieces[1::2]]

    def fill(values: Sequence[str]) -> str:
        parts = [literal[0]]
        for hole, after in zip(holes, literal[1:], strict=True):
            parts.append(form(values[hole]))
            parts.append(after)
        return "".join(parts)

    return fill


@lru_cache(maxsize=4096)
def _matcher(template: str) -> re.Pattern[str]:
    pieces = _PLACEHOLDER.split(template)
    pattern: list[str] = []
    seen: set[str] = set()
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            pattern.append(re.escape(piece))
        else:
            pattern.append(f"(?P={piece})" if piece in seen else f"(?P<{piece}>.*)")
            seen.add(piece)
    return re.compile("".join(pattern), re.DOTALL)


def _matches(pattern: Sequence[str], values: Sequence[str]) -> bool:
    return all(wish in ("*", value) for wish, value in zip(pattern, values, strict=True))


def _left_out(template: ModelTemplate, values: Sequence[str]) -> bool:
    """Whether `only` does not name a key, or `exclude` does."""
    if template.only and not any(_matches(pattern, values) for pattern in template.only):
        return True
    return any(_matches(pattern, values) for pattern in template.exclude)


def _require_matches(template: ModelTemplate, keys: Sequence[tuple[str, ...]]) -> None:
    problems = tuple(
        _unmatched(template, override)
        for override in template.overrides
        if not any(_matches(override.match, values) for values in keys)
    )
    if problems:
        first = problems[0]
        raise PortfolioError(first.message, hint=first.hint, where=first.where, problems=problems)


def _unmatched(template: ModelTemplate, override: Override) -> PortfolioError:
    return PortfolioError(
        f"override {','.join(override.match)!r} matches no member of {template.spec.name}",
        where=override.where,
        hint="Correct the key values (in the order of the name's placeholders), or remove the override.",
    )
