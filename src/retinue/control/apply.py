"""Carries a plan out: build and test in dependency order, decide what lands together, land it, publish it.

Every durable step is numbered (`effects`). A killed apply leaves registered versions and evidence behind, which
the next one reuses; nothing is live before the single landing. A failed model stops only what depends on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from retinue.control.effects import Effect, OnEffect, ignore
from retinue.control.events import Event, Observer, Outcome, utc_now
from retinue.control.gc_lease import refuse_during_gc
from retinue.control.leases import LEASE_SECONDS, LeaseKeeper, later, tidy, untold
from retinue.control.publish import publish
from retinue.control.run import Builder, Patch, Run, Tools
from retinue.control.verdicts import Candidate, settle
from retinue.control.waiting import holders_of, refusal
from retinue.core.checks import CheckResult
from retinue.core.errors import ConflictError, LeaseHeldError, RetinueError, StateUnavailableError
from retinue.core.plan import Build, Plan, Regate
from retinue.core.settings_body import merged, options_digest
from retinue.core.state import ApplyRecord, Definition, Hold, Landing, Lease, Release, SettingsRevision
from retinue.store.base import Registry

Json = Any


@dataclass(slots=True)
class Applier:
    """One applier for one stage. Everything that varies is an argument; `apply` may be called once per plan."""

    registry: Registry
    builder: Builder
    releases: Path  # folder of this stage's release files
    who: str
    holder: str  # names this process for the lease, as `leases.name_holder` does
    workers: int = 2
    clock: Callable[[], str] = utc_now
    observer: Observer = lambda event: None
    on_effect: OnEffect = ignore
    on_stop: Callable[[], None] = lambda: None  # ends what the builder has started
    checks: Callable[[], tuple[CheckResult, ...]] = tuple  # what the data checks have found so far
    lease_seconds: float = LEASE_SECONDS
    _stop: threading.Event = field(default_factory=threading.Event)

    def apply(self, plan: Plan, *, plan_id: str, why: str = "") -> Outcome:
        """Carry out `plan`. Raises ConflictError when its affected set moved, LeaseHeldError when it is taken."""
        self._check_fresh(plan)
        now = self.clock()
        refuse_during_gc(self.registry, now)
        tidy(self.registry, plan.portfolio, plan.stage, self.holder, now)
        lease = self._acquire(plan, now)
        keeper = LeaseKeeper(self.registry, lease, self.clock, self.lease_seconds)
        apply_id = uuid4().hex
        status = "failed"
        summary: dict[str, Json] = {"error": "interrupted"}
        try:
            named = {"id": plan_id, "holder": self.holder}
            self.registry.begin_apply(
                ApplyRecord(apply_id, plan.portfolio, plan.stage, named, self.who, "running", now)
            )
            self.on_effect(Effect.APPLY_RECORDED, apply_id)
            refuse_during_gc(self.registry, self.clock())  # once more: it looks for leases like ours
            self._check_fresh(plan)  # once more, now that nobody else may move it
            outcome = self._run(plan, plan_id, why, keeper)
            status = "failed" if outcome.failed else "done"
            summary = {
                "release": outcome.release,
                "models": {m.model: m.status for m in outcome.models},
                "errors": {m.model: m.text for m in outcome.models if m.error is not None},
                **({"checks": [c.to_json() for c in outcome.checks]} if outcome.checks else {}),
            }
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

    def _acquire(self, plan: Plan, now: str) -> Lease:
        expires = later(now, self.lease_seconds)
        try:
            return self.registry.acquire(
                plan.portfolio, plan.stage, plan.affected, holder=self.holder, now=now, expires=expires
            )
        except LeaseHeldError as error:
            held = holders_of(self.registry, plan.portfolio, plan.stage, plan.affected, now)
            if not held:  # freed this very moment
                raise
            raise refusal(self.registry, held[0], plan.affected) from error

    def _still_ours(self, lease: Lease) -> None:
        """Raise ConflictError if the lease was lost: whoever froze past it must write nothing that others see."""
        now = self.clock()
        self.registry.renew(lease, now=now, expires=later(now, self.lease_seconds))

    def _check_fresh(self, plan: Plan) -> None:
        release = self.registry.current(plan.portfolio, plan.stage)
        live = {name: entry.version for name, entry in release.models.items()} if release else {}
        moved = sorted(m for m, version in plan.affected.items() if live.get(m) != version)
        if moved:
            raise ConflictError(
                f"{', '.join(moved[:5])}{' and others' if len(moved) > 5 else ''} changed since this plan was made "
                f"(release {plan.base} then, {release.number if release else None} now)"
            )
        self._check_unheld(plan)
        settings = self.registry.settings(plan.portfolio)
        revision = settings.revision if settings else 0
        if plan.settings is not None and revision != plan.settings_base:
            raise ConflictError(
                f"the settings changed since this plan was made (revision {plan.settings_base} then, {revision} now)"
            )

    def _check_unheld(self, plan: Plan) -> None:
        """Refuse what was rolled back since: the same version may be live again as when it was planned.

        Holds by gates are no reason: an apply that was killed after it recorded them goes on with the same plan. What
        was rejected is left out by the run, like all that waits for a person.
        """
        holds = self.registry.holds(plan.portfolio, plan.stage)
        overridden = {h.model for h in holds if h.id in plan.retries}
        tried = {(s.model, s.definition): s for s in plan.steps if isinstance(s, Build)}
        for hold in holds:
            step = tried.get((hold.model, hold.definition))
            if step is None or hold.cause != "rollback" or hold.model in overridden:
                continue
            if hold.snapshot == step.snapshot or (hold.version is not None and hold.version == step.reuse):
                raise ConflictError(
                    f"what this plan makes of {hold.model} was rolled back since ({hold.created}) and is held",
                    hint="Plan again. If it is meant after all: `retinue unhold MODEL --reason TEXT` first.",
                )

    def _close(self, apply_id: str, status: str, summary: Mapping[str, Json], lease: Lease) -> None:
        try:
            self.registry.end_apply(apply_id, status=status, now=self.clock(), summary=summary)
            self.on_effect(Effect.APPLY_CLOSED, apply_id)
            self.registry.free(lease)
        except StateUnavailableError:
            untold(apply_id, lease)
            self.observer(Event("line", text="the end of this apply could not be recorded; the next one will"))

    # ── the run ─────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, plan: Plan, plan_id: str, why: str, keeper: LeaseKeeper) -> Outcome:
        started = datetime.now(UTC)
        self._store_definitions(plan)
        release = self.registry.current(plan.portfolio, plan.stage)
        settings_before = self.registry.settings(plan.portfolio)
        tools = Tools(self.builder, self.workers, self.observer, self._record, self._stop, self.on_stop)
        run = Run(plan, release, self.registry, tools)
        candidates = run.execute()
        verdicts = settle(candidates, plan)
        for model, candidate in verdicts.items():
            if candidates[model].open:  # the others' evidence was recorded as they ended
                self._record(candidate)
        resolution = run.resolve(verdicts)
        holds = run.holds(verdicts, resolution, self.clock())
        landed = self._land(plan, plan_id, why, keeper.lease, run.landing(resolution), holds)
        if landed is not None:
            publish(self.registry, self.releases, plan.portfolio, plan.stage, plan.settings)
            self.on_effect(Effect.RELEASE_FILE_WRITTEN, str(landed.number))
        settings = self._write_settings(plan, settings_before, why)
        return Outcome(
            plan=plan_id,
            release=landed.number if landed else None,
            before=release.number if release else None,
            models=run.results(verdicts, resolution),
            settings=settings,
            seconds=(datetime.now(UTC) - started).total_seconds(),
            checks=self.checks(),
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
        patch: Patch,
        holds: tuple[Hold, ...],
    ) -> Release | None:
        self._still_ours(lease)
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
                beside=patch.beside,
            )
        )
        self.on_effect(Effect.RELEASE_LANDED, str(landed.number))
        self._end_approvals(landed)
        return landed

    def _end_approvals(self, landed: Release) -> None:
        """Approvals end when what was approved is live; a kill before leaves them, and nobody asks them again."""
        live = {(model, entry.version) for model, entry in landed.models.items()}
        holds = self.registry.holds(landed.portfolio, landed.stage)
        done = [h.id for h in holds if h.cause == "approved" and (h.model, h.version) in live]
        if done:
            why = f"landed in release {landed.number}"
            self.registry.end_holds(done, why=why, who=self.who, now=self.clock())

    def _write_settings(self, plan: Plan, before: SettingsRevision | None, why: str) -> int | None:
        if plan.settings is None:
            return None
        now = self.registry.settings(plan.portfolio)
        body, expected = plan.settings, now.revision if now else 0
        if now is not None and before is not None and now.revision != before.revision:
            body = merged(before.body, plan.settings, now.body)  # an apply on other models wrote theirs meanwhile
        written = self.registry.put_settings(
            plan.portfolio, body, expected=expected, why=why, who=self.who, now=self.clock()
        )
        self.on_effect(Effect.SETTINGS_WRITTEN, str(written.revision))
        if before is None or options_digest(before.body) != options_digest(written.body):
            publish(self.registry, self.releases, plan.portfolio, plan.stage)
        return written.revision
