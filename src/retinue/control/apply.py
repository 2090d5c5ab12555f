"""Carries a plan out: build and test in dependency order, decide what lands together, land it, publish it.

Every durable step is numbered (`effects`). A killed apply leaves registered versions and evidence behind, which
the next one reuses; nothing is live before the single landing. A failed model stops only what depends on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from retinue.build.chain import Beside
from retinue.build.pipeline import Built, Champion
from retinue.control.effects import Effect, OnEffect, ignore
from retinue.control.events import Event, ModelResult, Observer, Outcome, utc_now
from retinue.control.evidence import EvidenceBook
from retinue.control.publish import publish
from retinue.control.verdicts import Candidate, candidate_of, hold_of, settle
from retinue.core.errors import ConflictError, RetinueError, StateError, StateUnavailableError
from retinue.core.landing import Resolution, closure, groups, resolve
from retinue.core.plan import Build, Plan, Regate, Remove, Rename
from retinue.core.planner import endpoint_body
from retinue.core.portfolio import ModelSpec
from retinue.core.state import (
    ApplyRecord,
    Definition,
    Entry,
    Hold,
    Landing,
    Lease,
    Release,
    Version,
)
from retinue.store.base import Registry

Json = Any
LEASE_SECONDS = 60.0


class Builder(Protocol):
    """What builds and tests one model; `build.pipeline.Pipeline` is the real one."""

    def build(
        self, step: Build | Regate, spec: ModelSpec, beside: Beside, champion: Champion | None, *, sibling: bool = False
    ) -> Built:
        """Train (or find) and test a version; it is registered when this returns, its evidence is not."""

    def regate(self, step: Regate, spec: ModelSpec, beside: Beside, champion: Champion) -> Built:
        """Test the live version beside these upstream versions."""


def _later(now: str, seconds: float) -> str:
    moment = datetime.strptime(now, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True)
class Applier:
    """One applier for one stage. Everything that varies is an argument; `apply` may be called once per plan."""

    registry: Registry
    builder: Builder
    releases: Path  # folder of this stage's release files
    who: str
    holder: str  # names this process for the lease, e.g. "ada@laptop pid 4711"
    workers: int = 2
    clock: Callable[[], str] = utc_now
    observer: Observer = lambda event: None
    on_effect: OnEffect = ignore
    on_stop: Callable[[], None] = lambda: None  # ends what the builder has started
    _stop: threading.Event = field(default_factory=threading.Event)

    def apply(self, plan: Plan, *, plan_id: str, why: str = "") -> Outcome:
        """Carry out `plan`. Raises ConflictError when its affected set moved, LeaseHeldError when it is taken."""
        self._check_fresh(plan)
        now = self.clock()
        lease = self.registry.acquire(
            plan.portfolio, plan.stage, plan.affected, holder=self.holder, now=now, expires=_later(now, LEASE_SECONDS)
        )
        keeper = _LeaseKeeper(self.registry, lease, self.clock)
        apply_id = uuid4().hex
        status = "failed"
        summary: dict[str, Json] = {"error": "interrupted"}
        try:
            self._close_abandoned(plan, now)
            self.registry.begin_apply(
                ApplyRecord(apply_id, plan.portfolio, plan.stage, {"id": plan_id}, self.who, "running", now)
            )
            self.on_effect(Effect.APPLY_RECORDED, apply_id)
            self._check_fresh(plan)  # once more, now that nobody else may move it
            outcome = self._run(plan, plan_id, why, keeper)
            status = "failed" if outcome.failed else "done"
            summary = {"release": outcome.release, "models": {m.model: m.status for m in outcome.models}}
            return outcome
        except RetinueError as error:
            summary = {"error": str(error)}
            raise
        finally:
            keeper.stop()
            self._close(apply_id, status, summary, keeper.lease)

    def cancel(self) -> None:
        """Ask a running apply to start nothing new; what runs is finished or killed by its limits."""
        self._stop.set()

    # ── before ──────────────────────────────────────────────────────────────────────────────────────────────

    def _check_fresh(self, plan: Plan) -> None:
        release = self.registry.current(plan.portfolio, plan.stage)
        live = {name: entry.version for name, entry in release.models.items()} if release else {}
        moved = sorted(m for m, version in plan.affected.items() if live.get(m) != version)
        if moved:
            raise ConflictError(
                f"{', '.join(moved[:5])}{' and others' if len(moved) > 5 else ''} changed since this plan was made "
                f"(release {plan.base} then, {release.number if release else None} now)"
            )

    def _close_abandoned(self, plan: Plan, now: str) -> None:
        """An apply that is still marked running on models whose lease we now hold was killed."""
        alive = {lease.holder for lease in self.registry.leases(plan.portfolio, plan.stage, now)}
        if alive <= {self.holder}:
            for record in self.registry.applies(plan.portfolio, plan.stage, "running"):
                self.registry.end_apply(record.id, status="interrupted", now=now, summary={"error": "killed"})

    def _close(self, apply_id: str, status: str, summary: Mapping[str, Json], lease: Lease) -> None:
        try:
            self.registry.end_apply(apply_id, status=status, now=self.clock(), summary=summary)
            self.on_effect(Effect.APPLY_CLOSED, apply_id)
            self.registry.free(lease)
        except StateUnavailableError:
            # The database went away: the record stays "running" and the lease runs out; the next apply closes both.
            self.observer(Event("line", text="the end of this apply could not be recorded; the next one will"))

    # ── the run ─────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, plan: Plan, plan_id: str, why: str, keeper: _LeaseKeeper) -> Outcome:
        started = datetime.now(UTC)
        self._store_definitions(plan)
        release = self.registry.current(plan.portfolio, plan.stage)
        run = _Run(plan, release, self)
        candidates = run.execute()
        verdicts = settle(candidates, plan)
        for model, candidate in verdicts.items():
            if candidates[model].open:  # the others' evidence was recorded as they ended
                self._record(candidate)
        resolution = run.resolve(verdicts)
        holds = run.holds(verdicts, resolution, self.clock())
        landed = self._land(plan, plan_id, why, keeper.lease, run.landing(resolution), holds)
        settings = self._write_settings(plan, why)
        if landed is not None:
            publish(self.registry, self.releases, plan.portfolio, plan.stage)
            self.on_effect(Effect.RELEASE_FILE_WRITTEN, str(landed.number))
        return Outcome(
            plan=plan_id,
            release=landed.number if landed else None,
            before=release.number if release else None,
            models=run.results(verdicts, resolution),
            settings=settings,
            seconds=(datetime.now(UTC) - started).total_seconds(),
        )

    def _record(self, candidate: Candidate) -> None:
        """Make a candidate's evidence durable, unless it was found recorded or waits for its family."""
        if candidate.evidence is not None and not candidate.known and not candidate.open:
            self.registry.add_evidence([candidate.evidence])
            self.on_effect(Effect.EVIDENCE_RECORDED, candidate.model)

    def _store_definitions(self, plan: Plan) -> None:
        names = {s.definition: s.model for s in plan.steps if isinstance(s, Build | Regate)}
        rows = [
            Definition(hash_, names.get(hash_, ""), body, plan.bundles[hash_])
            for hash_, body in plan.definitions.items()
        ]
        if rows:
            self.registry.put_definitions(rows)
            self.on_effect(Effect.DEFINITIONS_STORED, str(len(rows)))

    def _land(
        self,
        plan: Plan,
        plan_id: str,
        why: str,
        lease: Lease,
        patch: _Patch,
        holds: tuple[Hold, ...],
    ) -> Release | None:
        now = self.clock()
        if plan.retries:
            self.registry.end_holds(plan.retries, why=why or "retried, or its gates were edited", who=self.who, now=now)
        if not patch.models and not patch.endpoints:
            if holds:
                self.registry.hold(holds)
                self.on_effect(Effect.HOLDS_RECORDED, str(len(holds)))
            return None
        landed = self.registry.land(
            Landing(
                portfolio=plan.portfolio,
                stage=plan.stage,
                expected=patch.expected,
                models=patch.models,
                endpoints=patch.endpoints,
                groups=patch.groups,
                cause="apply",
                why=why,
                who=self.who,
                now=now,
                plan=plan_id,
                lease=lease,
                holds=holds,
            )
        )
        self.on_effect(Effect.RELEASE_LANDED, str(landed.number))
        return landed

    def _write_settings(self, plan: Plan, why: str) -> int | None:
        if plan.settings is None:
            return None
        written = self.registry.put_settings(
            plan.portfolio, plan.settings, expected=plan.settings_base, why=why, who=self.who, now=self.clock()
        )
        self.on_effect(Effect.SETTINGS_WRITTEN, str(written.revision))
        return written.revision


@dataclass(frozen=True, slots=True)
class _Patch:
    """What is about to land."""

    expected: Mapping[str, str | None]
    models: Mapping[str, Entry | None]
    endpoints: Mapping[str, Mapping[str, Json] | None]
    groups: tuple[tuple[str, ...], ...]


class _Run:
    """One run over a plan's steps: which model may start, what became of each, what follows for the release."""

    def __init__(self, plan: Plan, release: Release | None, applier: Applier) -> None:
        self.plan, self.release, self.applier = plan, release, applier
        self.registry = applier.registry
        self.entries = dict(release.models) if release else {}
        self.live = {name: entry.version for name, entry in self.entries.items()}
        for step in plan.steps:
            if isinstance(step, Rename):
                self.live[step.model] = self.live.pop(step.was)
        self.book = EvidenceBook.load(self.registry, set(self.live.values()))
        self.versions = self.registry.versions(set(self.live.values()))
        self.steps = {s.model: s for s in plan.steps if isinstance(s, Build | Regate)}
        self.done: dict[str, Candidate] = {}
        self.also: dict[str, Candidate] = {}  # the live version, tested because the model's own proposal failed

    def execute(self) -> dict[str, Candidate]:
        """Run all steps, independent ones in parallel, and return what became of each."""
        waiting = {m: {n.model for n in self.plan.specs[m].needs} & set(self.steps) for m in self.steps}
        running: dict[Future[list[Candidate]], str] = {}
        with ThreadPoolExecutor(self.applier.workers, thread_name_prefix="apply") as pool:
            try:
                while waiting or running:
                    for model in [m for m, ups in waiting.items() if not ups - set(self.done)]:
                        del waiting[model]
                        running[pool.submit(self._work, model)] = model
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        model = running.pop(future)
                        self._note(model, future.result())
            except BaseException:
                self.applier.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                self.applier.on_stop()  # ends running trainings, so that no thread outlives us
                raise
        return self.done

    def _note(self, model: str, candidates: list[Candidate]) -> None:
        self.done[model] = candidates[0]
        for candidate in candidates:
            self.applier._record(candidate)
            if candidate.version is not None:
                self.versions[candidate.version.id] = candidate.version
                self.book.add(candidate.version, candidate.evidence)
        if len(candidates) > 1:
            self.also[model] = candidates[1]

    def _work(self, model: str) -> list[Candidate]:
        """Do one model's step; never raises for the model's own faults. The second candidate is the live version."""
        step = self.steps[model]
        observer = self.applier.observer
        if self.applier._stop.is_set():
            return [Candidate(model, "skipped", text="the apply was stopped")]
        observer(Event("start", model))
        started = datetime.now(UTC)
        try:
            found = self._attempt(step)
        except (ConflictError, StateUnavailableError):
            raise  # the whole apply cannot go on
        except RetinueError as error:
            found = [Candidate(model, "failed", text=str(error), error=error)]
        seconds = (datetime.now(UTC) - started).total_seconds()
        found[0] = replace(found[0], seconds=seconds)
        observer(Event("end", model, found[0].text, found[0].status, seconds))
        return found

    def _attempt(self, step: Build | Regate) -> list[Candidate]:
        model = step.model
        beside, missing = self._beside(model)
        if missing:
            return [Candidate(model, "skipped", text=f"because of {', '.join(missing)}")]
        moved = any(v.id != self.live.get(u) for u, v in beside.items())
        spec, builder = self.plan.specs[model], self.applier.builder
        champion = self._champion(model)
        if isinstance(step, Regate):
            assert champion is not None, "only live models are re-gated"
            if not moved and step.else_build:
                return [Candidate(model, "unchanged", champion.version)]
            tested = candidate_of(model, builder.regate(step, spec, beside, champion), "regated")
            if tested.good or not step.else_build:
                return [tested]
            return [candidate_of(model, builder.build(step, spec, beside, champion), "rebuilt"), tested]
        built = candidate_of(model, builder.build(step, spec, beside, champion, sibling=step.sibling), "built")
        if built.good or not moved or champion is None:
            return [built]
        # Its own change failed; see whether the live version gets along with the upstreams that change.
        live = champion.version
        again = Regate(model, step.why, live.id, live.definition, step.data, False, step.family)
        return [built, candidate_of(model, builder.regate(again, spec, beside, champion), "regated")]

    def _champion(self, model: str) -> Champion | None:
        """The live version with what it reads today."""
        if model not in self.live:
            return None
        names, _ = closure(self.live[model], self.live, self.book.needs)
        return Champion(
            self.versions[self.live[model]], {n: self.versions[self.live[n]] for n in names if n in self.live}
        )

    def _beside(self, model: str) -> tuple[dict[str, Version], list[str]]:
        """All upstream versions a model is built and tested beside: proposals that passed, else live ones."""
        beside: dict[str, Version] = {}
        missing: list[str] = []
        todo = [need.model for need in self.plan.specs[model].needs]
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
        """Which proposals land."""
        removed = {s.model for s in self.plan.steps if isinstance(s, Remove)}
        live = {m: v for m, v in self.live.items() if m not in removed}
        for candidate in (*verdicts.values(), *self.also.values()):
            if candidate.version is not None:
                self.book.add(candidate.version, candidate.evidence)
        proposals = {
            m: c.version.id
            for m, c in verdicts.items()
            if c.version is not None and c.good and c.version.id != live.get(m)
        }
        return resolve(live, proposals, self.book.needs, self.book.passed)

    def holds(self, verdicts: Mapping[str, Candidate], resolution: Resolution, now: str) -> tuple[Hold, ...]:
        """A hold for every version that was built and does not land."""
        found = (
            hold_of(self.plan, c, resolution.refused.get(m, ""), now)
            for m, c in verdicts.items()
            if c.version is not None and m not in resolution.accepted and c.version.id != self.live.get(m)
        )
        return tuple(h for h in found if h is not None)

    def landing(self, resolution: Resolution) -> _Patch:
        """The patch to land: accepted versions, removals, renames, protection, endpoints that can be served."""
        models: dict[str, Entry | None] = {}
        settings = (self.plan.settings or {}).get("models", {})
        for step in self.plan.steps:
            if isinstance(step, Remove):
                models[step.model] = None
            elif isinstance(step, Rename):
                models[step.was] = None
                models[step.model] = Entry(step.version, self.entries[step.was].protect)
        for model, version in resolution.accepted.items():
            models[model] = Entry(version, self._protect(model, settings))
        final = {m: e for m, e in {**self.entries, **models}.items() if e is not None}
        for model, entry in final.items():
            if self._protect(model, settings) != entry.protect:
                models[model] = replace(entry, protect=self._protect(model, settings))
        endpoints: dict[str, Mapping[str, Json] | None] = {}
        for name, spec in self.plan.endpoints.items():
            if spec is None:
                endpoints[name] = None
            elif all("{" in m or m in final for m in (spec.select, spec.fallback) if m):
                endpoints[name] = endpoint_body(spec)
            else:
                text = f"endpoint {name} waits: {spec.select} or its fallback is not in the release"
                self.applier.observer(Event("line", text=text))
        changed = {m: e.version for m, e in models.items() if e is not None and e.version != self.live.get(m)}
        before = {n: e.version for n, e in self.entries.items()}
        touched = {*models, *(self.plan.affected if changed else ())}
        expected = {m: before.get(m) for m in touched}
        return _Patch(expected, models, endpoints, groups(changed, self.book.needs))

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
            results = c.evidence.results if c.evidence else ()
            rows.append(
                ModelResult(model, status, text, c.version.id if c.version else None, c.seconds, c.error, results)
            )
        return tuple(rows)


class _LeaseKeeper:
    """Renews the lease in a thread while the apply runs; landing is refused if it is lost all the same."""

    def __init__(self, registry: Registry, lease: Lease, clock: Callable[[], str]) -> None:
        self.registry, self.lease, self.clock = registry, lease, clock
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._end.wait(LEASE_SECONDS / 4):
            now = self.clock()
            try:
                self.lease = self.registry.renew(self.lease, now=now, expires=_later(now, LEASE_SECONDS))
            except StateError:
                continue  # lost or unreachable: the landing will say so with its reason

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join()
