"""The graph of models by `needs`: order, cycles by their path, components, closures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from retinue.core.errors import PortfolioError
from retinue.core.portfolio import ModelSpec
from retinue.core.suggest import did_you_mean


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
