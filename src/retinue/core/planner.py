"""Makes a plan from the wish (the file, resolved) and the actual state (the registry), both given as values.

Definitions are compared; the live snapshot is kept unless a refresh is asked for. New rows alone are reported
(`newer_data`), never planned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from retinue.core.decisions import Decisions
from retinue.core.plan import (
    Build,
    Configure,
    Danger,
    Plan,
    Regate,
    Remove,
    Rename,
    Route,
    Step,
    Why,
)
from retinue.core.portfolio import EndpointSpec
from retinue.core.settings_body import weakened, what_changed
from retinue.core.wish import Actual, Options, Wish, endpoint_body

Json = Any


def make_plan(wish: Wish, actual: Actual, options: Options) -> Plan:
    """The plan that takes the stage from `actual` to `wish`. Pure: the same values give the same plan."""
    return _Planner(wish, actual, options).plan()


class _Planner:
    """One planning: the decisions for the models, and around them removals, endpoints, settings, the forecast."""

    def __init__(self, wish: Wish, actual: Actual, options: Options) -> None:
        self.wish, self.actual, self.options = wish, actual, options
        self.models = Decisions(wish, actual, options, {})

    def plan(self) -> Plan:
        """Walk all models, then what was removed, the endpoints and the settings."""
        self._decide()
        self._removals()
        routes = self._routes()
        settings = self._settings()
        built = [s for s in self.models.steps if isinstance(s, Build | Regate)]
        definitions = {s.definition for s in built}
        needed = self.models.with_upstreams(s.model for s in built)
        return Plan(
            portfolio=self.wish.portfolio,
            stage=self.wish.stage,
            base=self.actual.release.number if self.actual.release else None,
            steps=tuple(self.models.steps),
            held=tuple(self.models.held),
            dangers=tuple(self.models.dangers),
            waiting=self.wish.waiting,
            newer_data=tuple(self.models.newer),
            notes=(*self.models.notes, *self._approvals()),
            affected={name: self.models.live.get(name) for name in self._affected(settings)},
            specs={name: self.wish.models[name].spec for name in needed},
            definitions={w.definition: w.body for w in self.wish.models.values() if w.definition in definitions},
            bundles={w.definition: w.bundle for w in self.wish.models.values() if w.definition in definitions},
            tables=self.wish.tables if built else {},
            endpoints=routes,
            settings=settings,
            settings_base=self.actual.settings.revision if self.actual.settings else 0,
            retries=tuple(self.models.retries),
            forecast=forecast(built, self.actual.seconds),
        )

    def _approvals(self) -> list[str]:
        """What waits for people once it is built and tested."""
        given = {(h.model, h.version) for h in self.actual.holds if h.cause == "approved"}
        asking: dict[str, list[str]] = {}
        for step in self.models.steps:
            group = self.wish.models[step.model].spec.approval if isinstance(step, Build) else None
            if isinstance(step, Build) and group is not None and (step.model, step.reuse) not in given:
                asking.setdefault(group, []).append(step.model)
        return [
            f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''} "
            f"{'wait' if len(names) > 1 else 'waits'} for approval by {group} once built and tested"
            for group, names in asking.items()
        ]

    def _decide(self) -> None:
        """Decide until no model that stays would meet an upstream whose schema it does not read.

        Ends because each round holds at least one more model back.
        """
        stay: dict[str, str] = {}
        while True:
            self.models = Decisions(self.wish, self.actual, self.options, stay)
            self.models.decide()
            if self.models.conflicts.keys() <= stay.keys():
                return
            stay = {**self.models.conflicts, **stay}

    def _removals(self) -> None:
        if self.actual.release is None or self.options.selected is not None:
            return
        kept = [self.actual.versions[v] for m, v in self.models.live.items() if self.models.next.get(m) == v]
        read = {upstream: version.model for version in kept for upstream in self.models.live_upstreams(version)}
        for name in sorted(set(self.models.live) - set(self.wish.models) - set(self.models.renamed)):
            if name in read:  # the file's version of its consumer is held
                self.models.notes.append(f"{name} stays: {read[name]} still reads it")
                continue
            entry = self.actual.release.models[name]
            family = self.actual.versions[entry.version].manifest.get("family")
            self.models.steps.append(Remove(name, entry.version, family, entry.protect))
            if name not in self.options.allow_remove:
                text = f"remove {name}" + (" (protected)" if entry.protect else "")
                self.models.dangers.insert(
                    0, Danger(text, f"--allow-remove {name}", self.wish.where.get(name), (name,))
                )

    def _routes(self) -> dict[str, EndpointSpec | None]:
        live = self.actual.release.endpoints if self.actual.release else {}
        routes: dict[str, EndpointSpec | None] = {}
        if self.options.selected is not None and self.actual.release is not None:
            return routes
        there = {*self.models.live, *self.models.next}
        for name, spec in self.wish.endpoints.items():
            body = endpoint_body(spec)
            absent = [m for m in (spec.select, spec.fallback) if m and "{" not in m and m not in there]
            if absent:
                self.models.notes.append(f"endpoint {name} waits for {absent[0]}, which is held")
            elif name not in live:
                routes[name] = spec
                self.models.steps.append(Route(name, "add", spec.select))
            elif dict(live[name]) != body:
                routes[name] = spec
                self.models.steps.append(Route(name, "change", f"{live[name]['select']} → {spec.select}"))
        for name in sorted(set(live) - set(self.wish.endpoints)):
            routes[name] = None
            self.models.steps.append(Route(name, "remove", str(live[name]["select"])))
            if name not in self.options.allow_remove:
                danger = Danger(f"remove endpoint {name}: clients that call it get 404", f"--allow-remove {name}")
                self.models.dangers.insert(0, danger)
        return routes

    def _settings(self) -> Mapping[str, Json] | None:
        old = self.actual.settings.body if self.actual.settings else {"models": {}, "policies": {}}
        new = self.wish.settings
        if self.options.selected is not None and self.actual.settings is not None:
            kept = {**old["models"], **{m: new["models"][m] for m in self.models.included() if m in new["models"]}}
            new = {**{k: v for k, v in new.items() if k != "endpoints"}, "models": kept}
            new |= {"endpoints": old["endpoints"]} if "endpoints" in old else {}
        if old == new:
            return None
        for name, text in weakened(old, new):
            if name not in self.options.allow_weaker:
                flag = f"--allow-weaker {name}"
                self.models.dangers.insert(0, Danger(f"{name}: {text}", flag, self.wish.where.get(name), (name,)))
        models, why = what_changed(old, new) if self.actual.settings is not None else ((), ())
        if why:
            self.models.steps.append(Configure(models, why))
        elif not self.models.steps:  # an apply was killed after its landing
            late = sorted(m for m in new["models"] if old["models"].get(m) != new["models"][m])
            self.models.steps.append(Configure(tuple(late), (Why("METADATA", "not recorded yet"),)))
        return new

    def _affected(self, settings: Mapping[str, Json] | None) -> Collection[str]:
        entries = self.actual.release.models if self.actual.release else {}
        wished = (settings or {}).get("models", {})
        names = {name for name, entry in entries.items() if name in wished and wished[name]["protect"] != entry.protect}
        for step in self.models.steps:
            match step:
                case Build(model=model) | Regate(model=model) | Remove(model=model):
                    names.add(model)
                case Rename(model=model, was=was):
                    names |= {model, was}
                case Route() | Configure():
                    pass
        return sorted(names)


def forecast(built: Sequence[Step], seconds: Mapping[tuple[str, str], float]) -> float | None:
    """Seconds that these steps will take one after the other, from past builds; None when nothing is known."""
    guesses = [
        seconds.get((kind, step.model)) or seconds.get((kind, step.family or ""))
        for step in built
        if isinstance(step, Build | Regate)
        for kind in ["build" if isinstance(step, Build) else "gates"]
    ]
    known = [g for g in guesses if g is not None]
    if not known:
        return None
    return sum(known) + (len(guesses) - len(known)) * sum(known) / len(known)
