"""Makes a plan from the wish (the file, resolved) and the actual state (the registry), both given as values.

Definitions are compared; the live snapshot is kept unless a refresh is asked for. New rows alone are reported
(`newer_data`), never planned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from retinue.core.declaration import differences
from retinue.core.identity import canonical
from retinue.core.plan import (
    Build,
    Configure,
    Danger,
    Held,
    Plan,
    Regate,
    Remove,
    Rename,
    Route,
    Step,
    Why,
)
from retinue.core.portfolio import EndpointSpec, ModelSpec
from retinue.core.settings_body import weakened, what_changed
from retinue.core.state import Hold, Version
from retinue.core.wish import PENDING, Actual, Options, Wish, WishedModel, endpoint_body, snapshot_hash

Json = Any


def make_plan(wish: Wish, actual: Actual, options: Options) -> Plan:
    """The plan that takes the stage from `actual` to `wish`. Pure: the same values give the same plan."""
    return _Planner(wish, actual, options).plan()


class _Planner:
    """One planning, model by model in topological order; what each will be is known to its consumers."""

    def __init__(self, wish: Wish, actual: Actual, options: Options) -> None:
        self.wish, self.actual, self.options = wish, actual, options
        self.live = {name: entry.version for name, entry in (actual.release.models if actual.release else {}).items()}
        self.next: dict[str, str] = {}  # model → version id or PENDING
        self.schemas: dict[str, str] = {}  # model → hash of the schema it will have
        self.steps: list[Step] = []
        self.held: list[Held] = []
        self.dangers: list[Danger] = []
        self.newer: list[str] = []
        self.retries: list[int] = []
        self.notes: list[str] = list(wish.notes)
        self.renamed = {
            w.spec.was: name
            for name, w in wish.models.items()
            if w.spec.was and w.spec.was in self.live and name not in self.live
        }

    def plan(self) -> Plan:
        """Walk all models, then what was removed, the endpoints and the settings."""
        included = self._included()
        for name, wished in self.wish.models.items():
            if name in included:
                self._model(name, wished)
            elif name in self.live:
                # What the file says of it is left alone, but an upstream of it may move.
                self._keep(name, wished, self.live[name], selected=False)
        self._removals()
        routes = self._routes()
        settings = self._settings()
        built = [s for s in self.steps if isinstance(s, Build | Regate)]
        definitions = {s.definition for s in built}
        needed = self._with_upstreams(s.model for s in built)
        return Plan(
            portfolio=self.wish.portfolio,
            stage=self.wish.stage,
            base=self.actual.release.number if self.actual.release else None,
            steps=tuple(self.steps),
            held=tuple(self.held),
            dangers=tuple(self.dangers),
            waiting=self.wish.waiting,
            newer_data=tuple(self.newer),
            notes=tuple(self.notes),
            affected={name: self.live.get(name) for name in self._affected()},
            specs={name: self.wish.models[name].spec for name in needed},
            definitions={w.definition: w.body for w in self.wish.models.values() if w.definition in definitions},
            bundles={w.definition: w.bundle for w in self.wish.models.values() if w.definition in definitions},
            tables=self.wish.tables if built else {},
            endpoints=routes,
            settings=settings,
            settings_base=self.actual.settings.revision if self.actual.settings else 0,
            retries=tuple(self.retries),
            forecast=self._forecast(built),
        )

    # ── one model ───────────────────────────────────────────────────────────────────────────────────────────

    def _model(self, name: str, wished: WishedModel) -> None:
        old_name = next((was for was, new in self.renamed.items() if new == name), name)
        live = self.live.get(old_name)
        if live is not None and old_name != name:
            self.steps.append(Rename(name, old_name, live, wished.spec.family))
        if live is None:
            self._build(name, wished, (Why("ADD"),), None)
            return
        version = self.actual.versions[live]
        newer = self._newer(wished, version)
        if newer:
            self.newer.append(name)
        why = self._why(name, wished, version)
        if not why and name in self.options.refresh:
            why = self._refreshed(wished, version, newer)
        if not why and name in self.options.rebuild:
            why = (Why("DATA", "rebuild on request"),)
        if why:
            self._build(name, wished, why, live)
        else:
            self._keep(name, wished, live)

    def _why(self, name: str, wished: WishedModel, version: Version) -> tuple[Why, ...]:
        if wished.definition == version.definition:
            return ()
        old = self.actual.definitions[version.definition].body
        return differences(old, wished.body) or (Why("CODE", "definition changed"),)

    def _refreshed(self, wished: WishedModel, version: Version, newer: bool) -> tuple[Why, ...]:
        before, now = self.actual.snapshots[version.snapshot].body["cutoff"], wished.fresh["cutoff"]
        if not newer and before == now:
            return ()
        return (Why("DATA", "newer data" if newer else f"cutoff {before} → {now}"),)

    def _newer(self, wished: WishedModel, version: Version) -> bool:
        """Whether rows that the live version reads have changed since its snapshot, as far as both read the same."""
        today = {canonical(_asked(t)): t for t in wished.fresh["tables"]}
        pinned = self.actual.snapshots[version.snapshot].body["tables"]
        return any(today.get(canonical(_asked(t)), t) != t for t in pinned)

    def _build(self, name: str, wished: WishedModel, why: tuple[Why, ...], live: str | None) -> None:
        """Plan a build, unless it is held: then the live version stays, and is re-gated if its upstreams move."""
        upstreams = self._upstreams(wished.spec)
        lacking = [model for model in upstreams if model not in self.next and model not in self.live]
        if lacking:
            self._held_up(name, wished, (lacking[0], "is held and was never live"), live)
            return
        stuck = self._stuck(wished)
        if stuck is not None:
            how = "is held" if any(h.model == stuck for h in self.held) else "is not selected"
            self._held_up(name, wished, (stuck, how), live)
            return
        data, why = self._data(name, wished, why, live)
        snapshot = None
        reuse = None
        if PENDING not in upstreams.values():
            snapshot = snapshot_hash(data, upstreams)
            reuse = next(
                (v.id for v in self.actual.candidates.get(wished.definition, ()) if v.snapshot == snapshot), None
            )
            if name in self.options.rebuild:
                reuse = None
            hold = self._hold(name, wished, data, upstreams)
            if hold is not None:
                self.held.append(Held(name, hold.cause, hold.detail, hold.id, wished.spec.family, hold.release))
                if live is not None:
                    self._keep(name, wished, live)
                return
        self.steps.append(
            Build(
                name,
                why,
                wished.definition,
                data,
                wished.spec.family,
                snapshot,
                reuse,
                live,
                sibling=name in self.options.rebuild,
            ),
        )
        self.next[name] = reuse or PENDING
        self.schemas[name] = wished.body["schema"]

    def _stuck(self, wished: WishedModel) -> str | None:
        """An upstream whose schema will not be the one this definition was declared against; None if all fit."""
        for need in wished.body["needs"]:
            if self.schemas.get(need["model"], need["schema"]) != need["schema"]:
                return str(need["model"])
        return None

    def _held_up(self, name: str, wished: WishedModel, why: tuple[str, str], live: str | None) -> None:
        """An upstream that is not, or not as the file wishes it: nothing that needs it so can be built."""
        upstream, how = why
        hold = next((h.hold for h in self.held if h.model == upstream), 0)
        text = f"needs {upstream} as the file wishes it, which {how}"
        self.held.append(Held(name, "upstream", text, hold, wished.spec.family))
        if live is not None:
            self._keep(name, wished, live)

    def _data(
        self, name: str, wished: WishedModel, why: tuple[Why, ...], live: str | None
    ) -> tuple[Mapping[str, Json], tuple[Why, ...]]:
        if name in self.options.refresh:
            return wished.fresh, why
        if live is not None:
            if wished.pinned is not None:
                return wished.pinned, why
            text = "the pinned rows were rewritten; builds on today's" if wished.rewritten else "newer data"
            return wished.fresh, (*why, Why("DATA", text)) if wished.rewritten else why
        # A model that is new in this stage takes the snapshot of a version it already has (a promotion, or a
        # model declared again), else today's data.
        upstreams = self._upstreams(wished.spec)
        for candidate in self.actual.candidates.get(wished.definition, ()):
            snapshot = self.actual.snapshots.get(candidate.snapshot)
            if snapshot is not None and snapshot.body["upstreams"] == upstreams:
                return {k: v for k, v in snapshot.body.items() if k != "upstreams"}, why
        return wished.fresh, why

    def _hold(
        self, name: str, wished: WishedModel, data: Mapping[str, Json], upstreams: Mapping[str, str]
    ) -> Hold | None:
        for hold in self.actual.holds:
            if (hold.model, hold.definition) != (name, wished.definition) or not self._holds(hold, data, upstreams):
                continue
            gate_edited = hold.cause in ("failed gate", "inconclusive") and hold.gates != wished.gates
            cause_moved = hold.cause == "upstream" and self._relatives_moved(name)
            if name in self.options.retry or gate_edited or cause_moved:
                self.retries.append(hold.id)
                return None
            return hold
        return None

    def _holds(self, hold: Hold, data: Mapping[str, Json], upstreams: Mapping[str, str]) -> bool:
        """Whether a hold is on this snapshot. What was rolled back stays so when its upstreams were, with it."""
        if hold.snapshot == snapshot_hash(data, upstreams):
            return True
        there = self.actual.snapshots.get(hold.snapshot)
        if hold.cause != "rollback" or there is None:
            return False
        before = there.body["upstreams"]
        moved = {m for m in {*before, *upstreams} if before.get(m) != upstreams.get(m)}
        same = {k: v for k, v in there.body.items() if k != "upstreams"} == dict(data)
        return same and all((m, before.get(m)) in {(h.model, h.version) for h in self.actual.holds} for m in moved)

    def _relatives_moved(self, name: str) -> bool:
        """Whether a model above or below this one is wished otherwise than it is live, and was not tried in vain."""
        above = set(self._with_upstreams([name]))
        for other, wished in self.wish.models.items():
            if other == name or (other not in above and name not in self._with_upstreams([other])):
                continue
            wish = (other, wished.definition, wished.gates)
            if wish in {(h.model, h.definition, h.gates) for h in self.actual.holds}:
                continue
            live = self.actual.versions.get(self.live.get(other, ""))
            if live is None or live.definition != wished.definition:
                return True
            if not self._has_evidence(live.id, self._live_ups(live), wished.gates):
                return True
        return False

    def _keep(self, name: str, wished: WishedModel, live: str, *, selected: bool = True) -> None:
        """The live version stays; plan a re-gate when its upstreams or (where selected) its gates have moved."""
        version = self.actual.versions[live]
        self.schemas[name] = self.actual.definitions[version.definition].body["schema"]
        before = self._live_ups(version)
        upstreams = {model: self.next.get(model, live_version) for model, live_version in before.items()}
        why: list[Why] = []
        if upstreams != before:
            moved = sorted(m for m in upstreams if upstreams[m] != before.get(m))
            why.append(Why("UPSTREAM", ", ".join(moved)))
        if selected and not self._has_evidence(live, before, wished.gates):
            why.append(Why("GATES", "gates edited" if self.actual.evidence.get(live) else "no evidence"))
        if why:
            # A held model keeps a version that the file no longer describes: it can be tested, not built anew.
            else_build = why[0].reason == "UPSTREAM" and wished.definition == version.definition
            data = wished.pinned if wished.pinned is not None else wished.fresh
            definition = version.definition
            self.steps.append(
                Regate(name, tuple(why), live, definition, data, else_build, wished.spec.family),
            )
            self.next[name] = PENDING if else_build else live
        else:
            self.next[name] = live
            failed = self._failing(live, upstreams, wished.gates)
            if failed:
                self.dangers.append(
                    Danger(
                        f"{name} is live and fails its gates: {failed}", where=str(wished.spec.where), models=(name,)
                    )
                )

    # ── evidence and upstreams ──────────────────────────────────────────────────────────────────────────────

    def _upstreams(self, spec: ModelSpec) -> dict[str, str]:
        """Every upstream of a wished model, direct or not, with the version it will have (or PENDING).

        One that keeps its live version reads what that version reads, whatever the file says of it now.
        """
        found: dict[str, str] = {}
        todo = [need.model for need in spec.needs]
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found[name] = self.next.get(name) or self.live.get(name, PENDING)
            version = self.actual.versions.get(found[name])
            if version is not None:
                todo += [need["model"] for need in version.manifest["needs"]]
            elif name in self.wish.models:
                todo += [need.model for need in self.wish.models[name].spec.needs]
        return found

    def _live_ups(self, version: Version) -> dict[str, str]:
        """Every upstream of a live version within the live release."""
        found: dict[str, str] = {}
        todo = [n["model"] for n in version.manifest["needs"]]
        while todo:
            name = todo.pop()
            if name in self.live and name not in found:
                found[name] = self.live[name]
                todo += [n["model"] for n in self.actual.versions[found[name]].manifest["needs"]]
        return found

    def _has_evidence(self, version: str, upstreams: Mapping[str, str], gates: str) -> bool:
        return any(dict(e.upstreams) == upstreams and e.gates == gates for e in self.actual.evidence.get(version, ()))

    def _failing(self, version: str, upstreams: Mapping[str, str], gates: str) -> str | None:
        for e in self.actual.evidence.get(version, ()):
            if dict(e.upstreams) == upstreams and e.gates == gates:
                if e.verdict != "fail":
                    return None
                return ", ".join(str(r.get("gate")) for r in e.results if r.get("verdict") == "fail")
        return None

    # ── the rest of the plan ────────────────────────────────────────────────────────────────────────────────

    def _included(self) -> set[str]:
        """Selected models, plus upstreams they need that are not live yet."""
        if self.options.selected is None:
            return set(self.wish.models)
        included = set(self.options.selected) & set(self.wish.models)
        return included | {m for m in self._with_upstreams(included) if m not in self.live}

    def _with_upstreams(self, names: Iterable[str]) -> list[str]:
        found: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            todo.extend(need.model for need in self.wish.models[name].spec.needs)
        return [name for name in self.wish.models if name in found]

    def _removals(self) -> None:
        if self.actual.release is None or self.options.selected is not None:
            return
        kept = [self.actual.versions[v] for m, v in self.live.items() if self.next.get(m) == v]
        read = {upstream: version.model for version in kept for upstream in self._live_ups(version)}
        for name in sorted(set(self.live) - set(self.wish.models) - set(self.renamed)):
            if name in read:  # the file's version of its consumer is held
                self.notes.append(f"{name} stays: {read[name]} still reads it")
                continue
            entry = self.actual.release.models[name]
            family = self.actual.versions[entry.version].manifest.get("family")
            self.steps.append(Remove(name, entry.version, family, entry.protect))
            if name not in self.options.allow_remove:
                text = f"remove {name}" + (" (protected)" if entry.protect else "")
                self.dangers.insert(0, Danger(text, f"--allow-remove {name}", self.wish.where.get(name), (name,)))

    def _routes(self) -> dict[str, EndpointSpec | None]:
        live = self.actual.release.endpoints if self.actual.release else {}
        routes: dict[str, EndpointSpec | None] = {}
        if self.options.selected is not None and self.actual.release is not None:
            return routes
        there = {*self.live, *self.next}
        for name, spec in self.wish.endpoints.items():
            body = endpoint_body(spec)
            absent = [m for m in (spec.select, spec.fallback) if m and "{" not in m and m not in there]
            if absent:
                self.notes.append(f"endpoint {name} waits for {absent[0]}, which is held")
            elif name not in live:
                routes[name] = spec
                self.steps.append(Route(name, "add", spec.select))
            elif dict(live[name]) != body:
                routes[name] = spec
                self.steps.append(Route(name, "change", f"{live[name]['select']} → {spec.select}"))
        for name in sorted(set(live) - set(self.wish.endpoints)):
            routes[name] = None
            self.steps.append(Route(name, "remove", str(live[name]["select"])))
            if name not in self.options.allow_remove:
                danger = Danger(f"remove endpoint {name}: clients that call it get 404", f"--allow-remove {name}")
                self.dangers.insert(0, danger)
        return routes

    def _settings(self) -> Mapping[str, Json] | None:
        old = self.actual.settings.body if self.actual.settings else {"models": {}, "policies": {}}
        new = self.wish.settings
        if self.options.selected is not None and self.actual.settings is not None:
            kept = {**old["models"], **{m: new["models"][m] for m in self._included() if m in new["models"]}}
            new = {**new, "models": kept}
        if old == new:
            return None
        for name, text in weakened(old, new):
            if name not in self.options.allow_weaker:
                flag = f"--allow-weaker {name}"
                self.dangers.insert(0, Danger(f"{name}: {text}", flag, self.wish.where.get(name), (name,)))
        models, why = what_changed(old, new) if self.actual.settings is not None else ((), ())
        if why:
            self.steps.append(Configure(models, why))
        elif not self.steps:  # an apply was killed after its landing
            late = sorted(m for m in new["models"] if old["models"].get(m) != new["models"][m])
            self.steps.append(Configure(tuple(late), (Why("METADATA", "not recorded yet"),)))
        return new

    def _affected(self) -> Collection[str]:
        names: set[str] = set()
        for step in self.steps:
            match step:
                case Build(model=model) | Regate(model=model) | Remove(model=model):
                    names.add(model)
                case Rename(model=model, was=was):
                    names |= {model, was}
                case Route() | Configure():
                    pass
        return sorted(names)

    def _forecast(self, built: Sequence[Build | Regate]) -> float | None:
        guesses = [self._guess("build", s) if isinstance(s, Build) else self._guess("gates", s) for s in built]
        known = [g for g in guesses if g is not None]
        if not known:
            return None
        return sum(known) + (len(guesses) - len(known)) * sum(known) / len(known)

    def _guess(self, kind: str, step: Build | Regate) -> float | None:
        seconds = self.actual.seconds
        return seconds.get((kind, step.model)) or seconds.get((kind, step.family or ""))


def _asked(table: Mapping[str, Json]) -> list[Json]:
    """What a snapshot's table entry is an answer to."""
    return [table["table"], table["filters"], table["columns"]]
