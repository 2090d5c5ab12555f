"""Selectors over models, as dbt has them: which of a portfolio's models a command means.

    name  late-*  family:late  tag:x  owner:ada@…  state:new  state:modified
    +x  x+  2+x  x+1  @x          with upstreams, downstreams, so many steps of them, all that is around
    "a b"  --select a --select b  what any of them chooses
    a,b                           what both choose

A name may hold any character but a space and a comma as it stands (`late-*` is looked up as a name first).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from retinue.core.errors import UsageError
from retinue.core.family import family_label
from retinue.core.graph import Graph
from retinue.core.portfolio import ModelSpec
from retinue.core.suggest import did_you_mean

METHODS = ("name", "family", "tag", "owner", "state")
STATES = ("new", "modified")
_AROUND = re.compile(
    r"(?P<around>@)?(?:(?P<up>\d*)(?P<plus>\+))?(?P<core>.*?)(?:(?P<minus>\+)(?P<down>\d*))?", re.DOTALL
)
_HINT = (
    "Write NAME, late-*, family:F, tag:T, owner:O, state:new or modified; +NAME, NAME+, 2+NAME, @NAME; a,b for both."
)


@dataclass(frozen=True, slots=True)
class States:
    """Names by state: `new` models are not live, `modified` ones are wished otherwise than they are live."""

    new: frozenset[str] = frozenset()
    modified: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses among these models. `states` is asked only when a selector names one; without it, they are refused."""

    models: Mapping[str, ModelSpec]
    graph: Graph
    states: Callable[[], States] | None = None
    _known: dict[str, States] = field(default_factory=dict)

    @staticmethod
    def of(specs: Iterable[ModelSpec], states: Callable[[], States] | None = None) -> Chooser:
        """For these models."""
        models = {spec.name: spec for spec in specs}
        return Chooser(models, Graph.of(models.values()), states)

    def choose(self, expressions: Collection[str], exclude: Collection[str] = ()) -> frozenset[str]:
        """The union of `expressions` (all models if there are none) without what those of `exclude` choose.

        Raises UsageError for a selector that cannot be read, and for one that names nothing there is. `state:`
        selectors and what remains in the end may be empty: that nothing is modified is no mistake.
        """
        chosen: set[str] = set() if expressions else set(self.models)
        for expression in expressions:
            chosen |= self._union(expression)
        for expression in exclude:
            chosen -= self._union(expression)
        return frozenset(chosen)

    def _union(self, expression: str) -> set[str]:
        if expression in self.models:  # whatever signs its name has
            return {expression}
        words = expression.split()
        if not words:
            raise UsageError(f"selector {expression!r} cannot be read", hint=_HINT)
        return {name for word in words for name in self._intersection(word, expression)}

    def _intersection(self, word: str, expression: str) -> set[str]:
        if word in self.models:
            return {word}
        found: set[str] | None = None
        for part in word.split(","):
            names = self._part(part.strip(), expression)
            found = names if found is None else found & names
        return found or set()

    def _part(self, part: str, expression: str) -> set[str]:
        if part in self.models:
            return {part}
        read = _AROUND.fullmatch(part)
        core = read["core"] if read is not None else ""
        wrong = read is None or (read["around"] and (read["plus"] or read["minus"]))
        if read is None or wrong or not core or (core[0] in "+@" and core not in self.models):
            raise UsageError(f"selector {expression!r} cannot be read", hint=_HINT)
        base = self._base(core)
        chosen = set(base)
        if read["plus"]:
            chosen |= _within(base, self.graph.needs, read["up"])
        if read["minus"]:
            chosen |= _within(base, self.graph.feeds, read["down"])
        if read["around"]:
            chosen |= self.graph.downstream(base)
            chosen |= self.graph.upstream(chosen)
        return chosen

    def _base(self, core: str) -> set[str]:
        method, colon, wanted = core.partition(":")
        if not colon:
            return self._named(core, lambda spec: (spec.name,), "model")
        if method not in METHODS:
            raise UsageError(
                f"unknown kind of selector {method!r} in {core!r}", hint=did_you_mean(method, METHODS) or _HINT
            )
        if method == "state":
            return self._in_state(wanted)
        words: dict[str, Callable[[ModelSpec], Collection[str]]] = {
            "name": lambda spec: (spec.name,),
            "tag": lambda spec: spec.metadata.tags,
            "owner": lambda spec: () if spec.metadata.owner is None else (spec.metadata.owner,),
            "family": lambda spec: () if spec.family is None else (spec.family, family_label(spec.family)),
        }
        return self._named(wanted, words[method], "model" if method == "name" else method)

    def _in_state(self, wanted: str) -> set[str]:
        if wanted not in STATES:
            raise UsageError(f"there is no state {wanted!r}", hint=did_you_mean(wanted, STATES))
        if self.states is None:
            raise UsageError(
                f"state:{wanted} cannot be asked here: it needs a plan",
                hint="Ask `retinue plan --select` or `retinue status --select`; elsewhere name models, tags, families.",
            )
        if "" not in self._known:
            self._known[""] = self.states()
        return set(self._known[""].new if wanted == "new" else self._known[""].modified)

    def _named(self, wanted: str, words: Callable[[ModelSpec], Collection[str]], what: str) -> set[str]:
        if what == "model" and wanted in self.models:
            return {wanted}
        glob = any(sign in wanted for sign in "*?[")
        found: set[str] = set()
        known: set[str] = set()
        for name, spec in self.models.items():
            of_spec = words(spec)
            known.update(of_spec)
            if wanted in of_spec or (glob and any(fnmatchcase(word, wanted) for word in of_spec)):
                found.add(name)
        if not found:
            raise UsageError(f"no {what} is named {wanted!r}", hint=did_you_mean(wanted, known))
        return found


def _within(names: Iterable[str], edges: Mapping[str, tuple[str, ...]], steps: str) -> set[str]:
    """What is reached from these names within so many steps; without a number, whatever is reached."""
    left = int(steps) if steps else -1
    seen: set[str] = set()
    front = set(names)
    while front and left:
        front = {other for name in front for other in edges[name]} - seen
        seen |= front
        left -= 1
    return seen


def select(expressions: Collection[str], specs: Iterable[ModelSpec], exclude: Collection[str] = ()) -> frozenset[str]:
    """The names that selectors choose where no plan is at hand; see `Chooser.choose`."""
    return Chooser.of(specs).choose(expressions, exclude)
