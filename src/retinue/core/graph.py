"""The graph of models by `needs`: order, cycles by their path, components, closures, and selectors over it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from retinue.core.errors import PortfolioError, UsageError
from retinue.core.family import family_label
from retinue.core.portfolio import ModelSpec
from retinue.core.suggest import did_you_mean

METHODS = ("family", "tag")


@dataclass(frozen=True, slots=True)
class Graph:
    """Models with the edges between them. `order` lists upstreams before those that need them."""

    order: tuple[str, ...]
    needs: Mapping[str, tuple[str, ...]]  # model → its direct upstreams, sorted
    feeds: Mapping[str, tuple[str, ...]]  # model → its direct downstreams, sorted

    @staticmethod
    def of(specs: Iterable[ModelSpec]) -> Graph:
        """The graph of these models. Raises PortfolioError for an unknown upstream and for a cycle, by its path."""
        models = {spec.name: spec for spec in specs}
        needs = {name: tuple(sorted({need.model for need in models[name].needs})) for name in sorted(models)}
        problems = tuple(
            PortfolioError(
                f"{name} needs {upstream!r}, and there is no such model",
                where=models[name].where,
                hint=did_you_mean(upstream, models),
            )
            for name, upstreams in needs.items()
            for upstream in upstreams
            if upstream not in models
        )
        if problems:
            first = problems[0]
            raise PortfolioError(first.message, hint=first.hint, where=first.where, problems=problems)
        feeds: dict[str, list[str]] = {name: [] for name in needs}
        for name, upstreams in needs.items():
            for upstream in upstreams:
                feeds[upstream].append(name)
        order = _order(needs, feeds)
        if len(order) < len(needs):
            path = cycle({name: needs[name] for name in needs.keys() - set(order)})
            raise PortfolioError(
                f"models need each other in a circle: {' → '.join(path)}",
                where=models[path[0]].where,
                hint="Remove one of these `needs`; an arrow reads: needs.",
            )
        return Graph(order, needs, {name: tuple(names) for name, names in feeds.items()})

    def upstream(self, names: Iterable[str]) -> frozenset[str]:
        """Everything these models need, directly or not, without themselves unless they need each other."""
        return _closure(names, self.needs)

    def downstream(self, names: Iterable[str]) -> frozenset[str]:
        """Everything that needs these models, directly or not."""
        return _closure(names, self.feeds)

    def components(self) -> tuple[tuple[str, ...], ...]:
        """Sets of connected models, each and all in the order of names."""
        left = set(self.order)
        found: list[tuple[str, ...]] = []
        for name in sorted(left):
            if name in left:
                members = self.component(name)
                left -= set(members)
                found.append(members)
        return tuple(found)

    def component(self, name: str) -> tuple[str, ...]:
        """The models connected with this one, itself among them, in the order of names."""
        seen, todo = {name}, [name]
        while todo:
            current = todo.pop()
            for other in (*self.needs[current], *self.feeds[current]):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return tuple(sorted(seen))


def _order(needs: Mapping[str, tuple[str, ...]], feeds: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Upstreams first; within one depth by name, so the order depends on nothing but the graph."""
    missing = {name: len(upstreams) for name, upstreams in needs.items()}
    ready = sorted(name for name, count in missing.items() if count == 0)
    order: list[str] = []
    while ready:
        order.extend(ready)
        following: list[str] = []
        for name in ready:
            for other in feeds[name]:
                missing[other] -= 1
                if missing[other] == 0:
                    following.append(other)
        ready = sorted(following)
    return tuple(order)


def cycle(needs: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """A cycle of this graph as a path that ends where it began, from its smallest name; () if there is none.

    >>> cycle({"b": ["c"], "c": ["a"], "a": ["b"], "x": ["a"]})
    ('a', 'b', 'c', 'a')
    """
    done: set[str] = set()
    for start in sorted(needs):
        path: list[str] = []
        place: dict[str, int] = {}
        trail = [iter((start,))]
        while trail:
            name = next(trail[-1], None)
            if name is None:
                trail.pop()
                if path:
                    finished = path.pop()
                    del place[finished]
                    done.add(finished)
            elif name in place:
                ring = path[place[name] :]
                turn = ring.index(min(ring))
                return (*ring[turn:], *ring[: turn + 1])
            elif name not in done and name in needs:
                place[name] = len(path)
                path.append(name)
                trail.append(iter(sorted(needs[name])))
    return ()


def _closure(names: Iterable[str], edges: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    seen: set[str] = set()
    todo = list(names)
    while todo:
        for other in edges[todo.pop()]:
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return frozenset(seen)


def select(expressions: Collection[str], specs: Iterable[ModelSpec], exclude: Collection[str] = ()) -> frozenset[str]:
    """The names that selectors choose: the union of `expressions` (all models if none) without those of `exclude`.

    `name`, `late-*`, `family:late`, `tag:x`; `+x` with all upstreams, `x+` with all downstreams, `@x` with
    downstreams and all that those need; `a,b` what both choose. Raises UsageError for what chooses nothing.
    """
    models = {spec.name: spec for spec in specs}
    graph = Graph.of(models.values())
    chosen: set[str] = set(models) if not expressions else set()
    for expression in expressions:
        chosen |= _select(expression, models, graph)
    for expression in exclude:
        chosen -= _select(expression, models, graph)
    return frozenset(chosen)


def _select(expression: str, models: Mapping[str, ModelSpec], graph: Graph) -> set[str]:
    found: set[str] | None = None
    for part in expression.split(","):
        names = _part(part.strip(), expression, models, graph)
        found = names if found is None else found & names
    return found or set()


def _part(part: str, expression: str, models: Mapping[str, ModelSpec], graph: Graph) -> set[str]:
    around = part.startswith("@")
    up = part.startswith("+")
    down = part.endswith("+")
    core = part[1 if up or around else 0 : len(part) - (1 if down else 0)]
    if not core or "+" in core or "@" in core:
        raise UsageError(
            f"selector {expression!r} cannot be read", hint="Write NAME, +NAME, NAME+, @NAME, family:NAME or tag:NAME."
        )
    base = _base(core, models)
    chosen = set(base)
    if up:
        chosen |= graph.upstream(base)
    if down:
        chosen |= graph.downstream(base)
    if around:
        chosen |= graph.downstream(base)
        chosen |= graph.upstream(chosen)
    return chosen


def _base(core: str, models: Mapping[str, ModelSpec]) -> set[str]:
    method, colon, wanted = core.partition(":")
    if colon and method not in METHODS:
        hint = (
            "state: selectors come with a later Retinue; select by name, family: or tag:."
            if method == "state"
            else did_you_mean(method, METHODS)
        )
        raise UsageError(f"unknown kind of selector {method!r} in {core!r}", hint=hint)
    if not colon:
        return _named(core, models, lambda spec: {spec.name}, "model")
    if method == "tag":
        return _named(wanted, models, lambda spec: set(spec.metadata.tags), "tag")
    return _named(wanted, models, _families, "family")


def _families(spec: ModelSpec) -> set[str]:
    return set() if spec.family is None else {spec.family, family_label(spec.family)}


def _named(wanted: str, models: Mapping[str, ModelSpec], words: Callable[[ModelSpec], set[str]], what: str) -> set[str]:
    if what == "model" and wanted in models:
        return {wanted}
    glob = any(sign in wanted for sign in "*?[")
    found: set[str] = set()
    known: set[str] = set()
    for name, spec in models.items():
        of_spec = words(spec)
        known |= of_spec
        if wanted in of_spec or (glob and any(fnmatchcase(word, wanted) for word in of_spec)):
            found.add(name)
    if not found:
        raise UsageError(f"no {what} is named {wanted!r}", hint=did_you_mean(wanted, known))
    return found


def renames(specs: Iterable[ModelSpec]) -> dict[str, str]:
    """New name → old name for models with `was:`. Raises PortfolioError if an old name is still or twice in use."""
    models = {spec.name: spec for spec in specs}
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in sorted(models):
        old = models[name].was
        if old is None:
            continue
        if old in models:
            raise PortfolioError(
                f"{name} was {old!r}, but a model of that name is still declared",
                where=models[name].where,
                hint="Remove `was:`, or remove the old model.",
            )
        if old in owner:
            raise PortfolioError(
                f"{name} and {owner[old]} both were {old!r}",
                where=models[name].where,
                hint="Only one model can take over an old name.",
            )
        owner[old] = name
        found[name] = old
    return found
