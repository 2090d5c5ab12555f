"""One run over a plan's steps: which model may start, what became of each, what follows for the release."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Protocol

from retinue.build.chain import Beside
from retinue.build.pipeline import Built, Champion
from retinue.control.events import Event, ModelResult, Observer
from retinue.control.evidence import EvidenceBook
from retinue.control.verdicts import Candidate, candidate_of, hold_of
from retinue.core.approval import hold_words, withheld
from retinue.core.errors import ConflictError, RetinueError, StateUnavailableError
from retinue.core.landing import Resolution, closure, groups, resolve
from retinue.core.plan import Build, Plan, Regate, Remove, Rename
from retinue.core.portfolio import ModelSpec
from retinue.core.state import Entry, Hold, Release, Version
from retinue.core.wish import endpoint_body
from retinue.store.base import Registry

Json = Any


class Builder(Protocol):
    """What builds and tests one model; `build.pipeline.Pipeline` is the real one."""

    def build(
        self, step: Build | Regate, spec: ModelSpec, beside: Beside, champion: Champion | None, *, sibling: bool = False
    ) -> Built:
        """Train (or find) and test a version; it is registered when this returns, its evidence is not."""

    def regate(self, step: Regate, spec: ModelSpec, beside: Beside, champion: Champion) -> Built:
        """Test the live version beside these upstream versions."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a run works with. `record` makes evidence durable; `stop` asks for nothing new to be started."""

    builder: Builder
    workers: int
    observer: Observer
    record: Callable[[Candidate], None]
    stop: threading.Event
    on_stop: Callable[[], None]  # ends what the builder has started


@dataclass(frozen=True, slots=True)
class Patch:
    """What is about to land."""

    expected: Mapping[str, str | None]
    models: Mapping[str, Entry | None]
    endpoints: Mapping[str, Mapping[str, Json] | None]
    groups: tuple[tuple[str, ...], ...]
    beside: Mapping[str, str]


class Run:
    """One run over a plan's steps, from the release that is current when it starts."""

    def __init__(self, plan: Plan, release: Release | None, registry: Registry, tools: Tools) -> None:
        self.plan, self.release, self.tools, self.registry = plan, release, tools, registry
        self.decided: set[str] = set()  # of those, what somebody approved or rejected: that stays said
        self.withheld: dict[str, str] = {}  # models that wait for a person → as their holds say it
        self.entries = dict(release.models) if release else {}
        self.live = {name: entry.version for name, entry in self.entries.items()}
        self.renames = {s.was: s for s in plan.steps if isinstance(s, Rename)}
        for was, step in self.renames.items():
            self.live[step.model] = self.live.pop(was)
        self.book = EvidenceBook.load(registry, set(self.live.values()))
        self.versions = registry.versions(set(self.live.values()))
        self.definitions = registry.definitions({v.definition for v in self.versions.values()})
        self.steps = {s.model: s for s in plan.steps if isinstance(s, Build | Regate)}
        self.done: dict[str, Candidate] = {}
        self.also: dict[str, Candidate] = {}  # the live version, tested because the model's own proposal failed
        self.kept: set[str] = set()  # names that were to go, and stay because something live still reads them

    def execute(self) -> dict[str, Candidate]:
        """Run all steps, independent ones in parallel, and return what became of each."""
        missing = {m: self._reads(m) & self.steps.keys() for m in self.steps}
        feeds: dict[str, list[str]] = {}
        for model, ups in missing.items():
            for up in ups:
                feeds.setdefault(up, []).append(model)
        ended: SimpleQueue[tuple[str, Future[list[Candidate]]]] = SimpleQueue()
        with ThreadPoolExecutor(self.tools.workers, thread_name_prefix="apply") as pool:

            def start(model: str) -> None:
                pool.submit(self._work, model).add_done_callback(lambda future: ended.put((model, future)))

            try:
                for model in [m for m, ups in missing.items() if not ups]:
                    start(model)
                while len(self.done) < len(self.steps):
                    model, future = ended.get()
                    self._note(model, future.result())
                    for other in feeds.get(model, ()):
                        missing[other].discard(model)
                        if not missing[other]:
                            start(other)
            except BaseException:
                self.tools.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self.tools.on_stop()  # ends running trainings, so that no thread outlives us
                raise
        return self.done

    def _note(self, model: str, candidates: list[Candidate]) -> None:
        self.done[model] = candidates[0]
        for candidate in candidates:
            self.tools.record(candidate)
            if candidate.version is not None:
                self.versions[candidate.version.id] = candidate.version
                self.book.add(candidate.version, candidate.evidence)
        if len(candidates) > 1:
            self.also[model] = candidates[1]

    def _work(self, model: str) -> list[Candidate]:
        """Do one model's step; never raises for the model's own faults. The second candidate is the live version."""
        step = self.steps[model]
        observer = self.tools.observer
        if self.tools.stop.is_set():
            return [Candidate(model, "skipped", text="the apply was stopped")]
        observer(Event("start", model))
        started = datetime.now(UTC)
        found = self._regate(step) if isinstance(step, Regate) else self._build(step)
        seconds = (datetime.now(UTC) - started).total_seconds()
        found[0] = replace(found[0], seconds=seconds)
        results = found[0].evidence.results if found[0].evidence else ()
        observer(Event("end", model, found[0].text, found[0].status, seconds, results))
        return found

    def _build(self, step: Build) -> list[Candidate]:
        """Build a model's proposal; if there is no good one, test the live version beside what is to be live."""
        spec, champion = self.plan.specs[step.model], self._champion(step.model)

        def build(beside: Beside) -> Candidate:
            stuck = self._stuck(step, beside)
            if stuck is not None:
                return Candidate(step.model, "skipped", text=f"because of {stuck}, which stays as it is")
            built = self.tools.builder.build(step, spec, beside, champion, sibling=step.sibling)
            return candidate_of(step.model, built, "built")

        found = [self._tried(step.model, [n.model for n in spec.needs], build)]
        if not found[0].good and champion is not None:
            # The release may land without this proposal: then its champion meets new upstreams, or new gates.
            live = champion.version
            again = Regate(step.model, step.why, live.id, live.definition, step.data, False, step.family)
            found.append(self._tested(again, champion))
        return found

    def _stuck(self, step: Build, beside: Beside) -> str | None:
        """An upstream that did not pass and whose live version has another schema than this definition reads."""
        for need in self.plan.definitions[step.definition]["needs"]:
            definition = beside[need["model"]].definition
            body = self.plan.definitions.get(definition) or self.definitions[definition].body
            if body["schema"] != need["schema"]:
                return str(need["model"])
        return None

    def _regate(self, step: Regate) -> list[Candidate]:
        champion = self._champion(step.model)
        assert champion is not None, "only live models are re-gated"
        beside, _ = self._beside(self.book.needs(step.version))
        moved = any(v.id != self.live.get(u) for u, v in beside.items())
        if not moved and all(why.reason == "UPSTREAM" for why in step.why):
            return [Candidate(step.model, "unchanged", champion.version)]
        tested = self._tested(step, champion)
        if tested.good or not step.else_build or not moved:
            return [tested]
        spec = self.plan.specs[step.model]
        again = self._tried(
            step.model,
            [n.model for n in spec.needs],
            lambda beside: candidate_of(step.model, self.tools.builder.build(step, spec, beside, champion), "rebuilt"),
        )
        return [again, tested]

    def _tested(self, step: Regate, champion: Champion) -> Candidate:
        spec = self.plan.specs[step.model]
        return self._tried(
            step.model,
            self.book.needs(step.version),
            lambda beside: candidate_of(step.model, self.tools.builder.regate(step, spec, beside, champion), "regated"),
        )

    def _tried(self, model: str, needs: Iterable[str], attempt: Callable[[Beside], Candidate]) -> Candidate:
        """What an attempt gives beside the upstreams it needs; the model's own faults are told, not raised."""
        beside, missing = self._beside(needs)
        if missing:
            return Candidate(model, "skipped", text=f"because of {', '.join(missing)}")
        try:
            return attempt(beside)
        except (ConflictError, StateUnavailableError):
            raise  # the whole apply cannot go on
        except RetinueError as error:
            return Candidate(model, "failed", text=str(error), error=error)
        except Exception as error:  # noqa: BLE001  one model's surprise must not end the others' builds
            surprise = RetinueError(f"{model}: {type(error).__name__}: {error}")
            surprise.__cause__ = error
            return Candidate(model, "failed", text=str(surprise), error=surprise)

    def _reads(self, model: str) -> set[str]:
        """The upstreams that a step of this model reads: those of the file and those of the live version."""
        live = self.book.needs(self.live[model]) if model in self.live else ()
        return {n.model for n in self.plan.specs[model].needs} | set(live)

    def _champion(self, model: str) -> Champion | None:
        """The live version with what it reads today."""
        if model not in self.live:
            return None
        names, _ = closure(self.live[model], self.live, self.book.needs)
        return Champion(
            self.versions[self.live[model]], {n: self.versions[self.live[n]] for n in names if n in self.live}
        )

    def _beside(self, needs: Iterable[str]) -> tuple[dict[str, Version], list[str]]:
        """All upstream versions a model is built and tested beside: proposals that passed, else live ones."""
        beside: dict[str, Version] = {}
        missing: list[str] = []
        todo = list(needs)
        while todo:
            upstream = todo.pop()
            if upstream in beside or upstream in missing:
                continue
            done = self.done.get(upstream)
            if done is not None and done.good and done.version is not None:
                beside[upstream] = done.version
            elif upstream in self.live:
                beside[upstream] = self.versions[self.live[upstream]]
            else:
                missing.append(upstream)
                continue
            todo += [n["model"] for n in beside[upstream].manifest["needs"]]
        return beside, missing

    # ── after ───────────────────────────────────────────────────────────────────────────────────────────────

    def resolve(self, verdicts: Mapping[str, Candidate]) -> Resolution:
        """Which proposals land, and which removals and renames wait because something live still reads the name."""
        for candidate in (*verdicts.values(), *self.also.values()):
            if candidate.version is not None:
                self.book.add(candidate.version, candidate.evidence)
        going = {s.model: s.version for s in self.plan.steps if isinstance(s, Remove)}
        going |= {was: s.version for was, s in self.renames.items()}
        while True:
            live = {m: v for m, v in self.live.items() if m not in going}
            live |= {m: self.entries[m].version for m in self.kept}
            proposals = {
                m: c.version.id
                for m, c in verdicts.items()
                if c.version is not None and c.good and c.version.id != live.get(m) and m not in self.withheld
            }
            found = resolve(live, proposals, self.book.needs, self.book.passed)
            waiting = self._unapproved(found.accepted)
            if waiting:
                self.withheld |= waiting
                continue
            needed = self._missing({**live, **found.accepted}) & set(going)
            if not needed:
                return found
            self.kept |= needed
            for name in needed:
                del going[name]
                self.tools.observer(Event("line", text=f"{name} stays: the release still has models that read it"))

    def _unapproved(self, accepted: Mapping[str, str]) -> dict[str, str]:
        """What of this needs a person's word that was not given, with all that changes with it."""
        required = {m: spec.approval for m, spec in self.plan.specs.items() if spec.approval is not None}
        if not required.keys() & accepted.keys():
            return {}
        holds = self.registry.holds(self.plan.portfolio, self.plan.stage)
        decided = {(h.model, h.version) for h in holds if h.cause in ("approved", "rejected")}
        found = withheld(accepted, self.book.needs, required, holds)
        self.decided |= {m for m in found if (m, accepted[m]) in decided}
        return found

    def _missing(self, final: Mapping[str, str]) -> set[str]:
        return {name for version in final.values() for name in closure(version, final, self.book.needs)[1]}

    def holds(self, verdicts: Mapping[str, Candidate], resolution: Resolution, now: str) -> tuple[Hold, ...]:
        """A hold for every version that was built and does not land."""
        found = (
            hold_of(self.plan, c, resolution.refused.get(m, ""), now, self.withheld.get(m, ""))
            for m, c in verdicts.items()
            if c.version is not None and m not in resolution.accepted and c.version.id != self.live.get(m)
            if m not in self.decided
        )
        return tuple(h for h in found if h is not None)

    def landing(self, resolution: Resolution) -> Patch:
        """The patch to land: accepted versions, removals, renames, protection, endpoints that can be served."""
        models: dict[str, Entry | None] = {}
        settings = (self.plan.settings or {}).get("models", {})
        for step in self.plan.steps:
            if isinstance(step, Remove) and step.model not in self.kept:
                models[step.model] = None
            elif isinstance(step, Rename):
                if step.was not in self.kept:
                    models[step.was] = None
                models[step.model] = Entry(step.version, self.entries[step.was].protect)
        for model, version in resolution.accepted.items():
            models[model] = Entry(version, self._protect(model, settings))
        final = {m: e for m, e in {**self.entries, **models}.items() if e is not None}
        for model, entry in final.items():
            if self._protect(model, settings) != entry.protect:
                models[model] = replace(entry, protect=self._protect(model, settings))
        changed = {m: e.version for m, e in models.items() if e is not None and e.version != self.live.get(m)}
        before = {n: e.version for n, e in self.entries.items()}
        touched = {*models, *(self.plan.affected if changed else ())}
        expected = {m: before.get(m) for m in touched}
        versions = {m: e.version for m, e in final.items()}
        read = {u for version in changed.values() for u in closure(version, versions, self.book.needs)[0]}
        beside = {u: before[u] for u in read if u in before}
        return Patch(expected, models, self._endpoints(final), groups(changed, self.book.needs), beside)

    def _endpoints(self, final: Collection[str]) -> dict[str, Mapping[str, Json] | None]:
        """The endpoints that the plan sets and the models of the next release can serve."""
        endpoints: dict[str, Mapping[str, Json] | None] = {}
        for name, spec in self.plan.endpoints.items():
            if spec is None:
                endpoints[name] = None
            elif all("{" in m or m in final for m in (spec.select, spec.fallback) if m):
                endpoints[name] = endpoint_body(spec)
            else:
                text = f"endpoint {name} waits: {spec.select} or its fallback is not in the release"
                self.tools.observer(Event("line", text=text))
        return endpoints

    def _protect(self, model: str, settings: Mapping[str, Json]) -> bool:
        if model in settings:
            return bool(settings[model]["protect"])
        return self.entries[model].protect if model in self.entries else False

    def results(self, verdicts: Mapping[str, Candidate], resolution: Resolution) -> tuple[ModelResult, ...]:
        """One line per model for people."""
        rows = []
        for model, c in verdicts.items():
            status, text = c.status, c.text
            if model in resolution.refused and c.good:
                status, text = "gate failed", resolution.refused[model]
            elif model in self.withheld and c.good:
                status, text = "waiting", hold_words("approval", self.withheld[model])
            results = c.evidence.results if c.evidence else ()
            rows.append(
                ModelResult(model, status, text, c.version.id if c.version else None, c.seconds, c.error, results)
            )
        return tuple(rows)
