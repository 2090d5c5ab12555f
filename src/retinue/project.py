"""The Python face: everything the command line does, as methods that return values.

project = Project(Path("portfolio.yaml"))
plan = project.plan()
outcome = project.apply(plan)
project.status()
project.rollback(["late-JFK-B6"], why="complaints")
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from retinue import compose
from retinue.build.environment import Lock, lock
from retinue.build.functions import with_code
from retinue.build.outside_files import OutsideFiles
from retinue.build.whole import is_whole
from retinue.control.actual import read_actual
from retinue.control.approval import check_groups
from retinue.control.clients import Clients
from retinue.control.effects import Effect, OnEffect, ignore
from retinue.control.events import Event, Observer, Outcome, utc_now
from retinue.control.held import held_names
from retinue.control.kept_portfolio import load_kept
from retinue.control.leases import name_holder, tidy
from retinue.control.planfile import plan_id, read_plan, write_plan
from retinue.control.planning import Asked, compare, select_models
from retinue.control.publish import publish, publish_access, recorded_settings
from retinue.control.rollback import Act, roll_back, roll_back_to
from retinue.control.settled import Settled, settled_by
from retinue.control.telling import members_of
from retinue.control.wish import Wisher, find_members
from retinue.core.errors import StateError, UsageError
from retinue.core.identity import digest
from retinue.core.plan import Plan
from retinue.core.portfolio import ModelSpec, Portfolio
from retinue.core.settings_body import options_digest
from retinue.core.state import Hold, Release, Version
from retinue.settings import Settings, check_name, load_settings
from retinue.store.base import Artifacts, Registry

if TYPE_CHECKING:
    from retinue.control.handover import HandOver
    from retinue.control.live_tests import LiveReport, LiveTests
    from retinue.core.publication import Publication
    from retinue.scoring.frame import Predictor
    from retinue.scoring.place import Place

__all__ = ["Asked", "Project", "describe_identity"]
_NAME = re.compile(r"^portfolio: *([A-Za-z0-9][A-Za-z0-9._-]*) *(?:#.*)?$", re.MULTILINE)
Say = Callable[[str], None]


def _load(file: Path) -> tuple[Portfolio, Sequence[Path]]:
    # A plan without changes reads what it kept of the file: it must not pay for YAML and pydantic.
    from retinue.loader.load import load_with_files

    return load_with_files(file)


class Project:
    """One portfolio with its state. Cheap to make: files, database and tables are opened when first needed."""

    def __init__(self, file: Path, stage: str = "prod", *, settings: Settings | None = None) -> None:
        self.file = file / "portfolio.yaml" if file.is_dir() else file
        self.stage = stage
        check_name("stage", stage)
        self.settings = settings or load_settings(self.file.parent.resolve())

    @cached_property
    def portfolio(self) -> Portfolio:
        """The portfolio file, loaded. Raises PortfolioError with every problem found."""
        return self._loaded[0]

    @cached_property
    def _loaded(self) -> tuple[Portfolio, str]:
        found, by = load_kept(self.file, self.settings.cache, _load)
        return replace(found, tables=with_code(found.tables, Path(found.root))), by

    @cached_property
    def name(self) -> str:
        """The portfolio's name, read without the rest of the file: a rollback must not wait for its correction."""
        with suppress(OSError, UnicodeDecodeError):
            found = _NAME.search(self.file.read_text(encoding="utf-8"))
            if found is not None:
                return found[1]
        return self.portfolio.name

    @cached_property
    def registry(self) -> Registry:
        """The registry; made if it is not there yet."""
        return compose.open_registry(self.settings)

    @cached_property
    def artifacts(self) -> Artifacts:
        """The artifact store."""
        return compose.open_artifacts(self.settings)

    @property
    def releases(self) -> Path:
        """Folder of this stage's release files."""
        return self.settings.releases(self.name, self.stage)

    @property
    def clients(self) -> Clients:
        """The clients of this portfolio: add, rotate, revoke; every stage's gateways are told."""
        folders = self.settings.releases(self.name, self.stage).parent
        return Clients(self.registry, self.name, folders, compose.who(), utc_now, compose.random_bytes)

    # ── plan ────────────────────────────────────────────────────────────────────────────────────────────────

    def plan(self, asked: Asked | None = None, *, say: Say = lambda text: None) -> Plan:
        """What `apply` would do now. Writes nothing but caches and, where one is missing, an environment's lock.

        Raises PortfolioError and DataError for what does not fit, UsageError for selectors that choose nothing.
        """
        if asked is not None and asked != Asked():
            return self._planned(asked, say)[0]
        settled = Settled(self.settings.cache, self.file, self.stage)
        wisher = self._wisher(Asked(), say)
        key = self._settled_by(wisher)
        found = settled.get(key) if key is not None else None
        if found is None:
            found = compare(self.registry, wisher, self.stage, Asked(), self._place())
            if found.empty and key is not None and key == self._settled_by(self._wisher(Asked(), say)):
                settled.put(key, found)  # nothing moved while it was made
        return found

    def _settled_by(self, wisher: Wisher) -> str | None:
        mark = compose.quick_mark(self.settings, self.portfolio.name) or self.registry.mark(self.portfolio.name)
        return settled_by(wisher, self._loaded[1], (self.stage, self.settings.database, mark))

    def _planned(self, asked: Asked, say: Say) -> tuple[Plan, Wisher]:
        wisher = self._wisher(asked, say)
        return compare(self.registry, wisher, self.stage, asked, self._place()), wisher

    def _place(self) -> tuple[Path, int]:
        return self.settings.cache, self.settings.build_workers or os.cpu_count() or 1

    def _wisher(self, asked: Asked, say: Say) -> Wisher:
        tables = compose.open_tables(self.portfolio, self.settings, anew=asked.refresh_data)
        check_groups(self.portfolio, self.settings.approvers)
        return Wisher(self.portfolio, tables, self._locks(say), self._outside())

    def _outside(self) -> OutsideFiles:
        """The artifacts of models that come from outside."""
        return OutsideFiles(Path(self.portfolio.root), self.settings.cache, lambda: self.registry.published(self.name))

    def _locks(self, say: Say) -> dict[str, Lock]:
        root = Path(self.portfolio.root)
        locks = {}
        for name, spec in self.portfolio.environments.items():
            if not (root / spec.requirements).with_suffix(".lock").exists():
                say(f"locking environment {name} ({spec.requirements})")
            locks[name] = lock(spec, root, memory=self.settings.directory / "locks")
        return locks

    def save(self, plan: Plan, path: Path, asked: Asked | None = None) -> Plan:
        """Write a plan that `apply` can carry out later or elsewhere, with its bundles in the artifact store."""
        again, wisher = self._planned(asked or Asked(), lambda text: None)
        if plan_id(again) != plan_id(plan):
            raise StateError("the portfolio changed while it was planned", hint="Run `retinue plan` again.")
        plan = self._bundled(plan, wisher)
        write_plan(plan, path)
        return plan

    def _bundled(self, plan: Plan, wisher: Wisher) -> Plan:
        """The plan with the bundle of every definition it builds, stored by content."""
        from retinue.control.bundles import bundle_definitions, keep_tests

        keep_tests(plan.specs.values(), Path(self.portfolio.root), self.artifacts)
        return replace(plan, bundles=bundle_definitions(plan, wisher, self.artifacts))

    # ── apply ───────────────────────────────────────────────────────────────────────────────────────────────

    def apply(
        self,
        plan: Plan | Path | None = None,
        asked: Asked | None = None,
        *,
        why: str = "",
        observer: Observer = lambda event: None,
        on_effect: OnEffect = ignore,
    ) -> Outcome:
        """Carry a plan out; without one, the plan of now. A saved plan is done exactly as it was printed.

        Raises UsageError when dangers block it, ConflictError when its affected set moved, LeaseHeldError when
        another apply holds models of it.
        """
        if isinstance(plan, Path):
            plan = read_plan(plan)
        else:
            now, wisher = self._planned(asked or Asked(), lambda text: observer(Event("line", text=text)))
            if plan is not None and plan_id(plan) != plan_id(now):
                raise StateError("the portfolio or its state changed since this plan", hint="Plan again.")
            if not now.blocked:
                now = self._bundled(now, wisher)
            plan = now
        if plan.blocked:
            flags = " ".join(dict.fromkeys(d.flag for d in plan.blocked if d.flag))
            raise UsageError(
                f"the plan is blocked: {plan.blocked[0].text}", hint=f"If that is meant, run again with: {flags}"
            )
        self.publish()
        if plan.empty:
            tidy(self.registry, plan.portfolio, plan.stage, name_holder(compose.who()), utc_now())
            number = plan.base
            return Outcome(plan_id(plan), None, number, ())
        return self._carry_out(plan, why, observer, on_effect)

    def _carry_out(self, plan: Plan, why: str, observer: Observer, on_effect: OnEffect) -> Outcome:
        # Building imports numpy, Arrow and onnxruntime: a plan without changes must not pay for that.
        from retinue.control.apply import Applier

        tables = compose.open_tables(replace(self.portfolio, tables=plan.tables), self.settings)
        pipeline = compose.open_pipeline(
            self,
            (plan.portfolio, plan.stage),
            tables,
            lambda model, text: observer(Event("phase", model, text)),
            lambda model: on_effect(Effect.VERSION_REGISTERED, model),
        )
        workshop, checks = pipeline.workshop, pipeline.checks
        applier = Applier(
            registry=self.registry,
            builder=pipeline,
            releases=self.settings.releases(plan.portfolio, plan.stage),
            who=compose.who(),
            holder=name_holder(compose.who()),
            workers=workshop.workers,
            observer=observer,
            on_effect=on_effect,
            on_stop=workshop.close,
            checks=lambda: checks.results,
        )
        try:
            return applier.apply(plan, plan_id=plan_id(plan), why=why)
        finally:
            workshop.close()

    def chosen(self, select: Sequence[str] = (), exclude: Sequence[str] = ()) -> dict[str, ModelSpec]:
        """The declared models that selectors choose, as `plan` does; all without. Raises UsageError."""
        tables, locks = compose.open_tables(self.portfolio, self.settings), self._locks(lambda text: None)
        wisher = Wisher(self.portfolio, tables, locks, self._outside())
        return select_models(self.registry, wisher, self.stage, (tuple(select), tuple(exclude)), self.settings.cache)

    def tester(self, select: Sequence[str] = (), exclude: Sequence[str] = ()) -> LiveTests:
        """The tests of the live versions of these models, ready to run; the file is validated and planned first.

        Raises what `plan` raises, StateError when the stage has no release.
        """
        self.validate()
        self._planned(Asked(), lambda text: None)
        return compose.open_tests(self, lambda: self.chosen(select, exclude))

    def test(
        self,
        select: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        observer: Observer = lambda event: None,
    ) -> LiveReport:
        """Ask every gate of these live models again; nothing is recorded. See `tester`."""
        with self.tester(select, exclude) as tester:
            return tester.run(observer)

    def publish(self) -> Path | None:
        """Write the current release's file if it is not what gateways are pointed at (a crash came between)."""
        from retinue.store.releasefile import is_whole

        folder = self.releases
        publish_access(self.registry, folder, self.name)  # first: no release is served before its rights are known
        release = self.registry.current(self.name, self.stage)
        options = options_digest(recorded_settings(self.registry, self.name))
        if release is None or is_whole(folder, release.number, options):
            return None
        return publish(self.registry, folder, self.name, self.stage)

    def hand_over(self, model: str, given: HandOver) -> tuple[Publication, bool]:
        """Take over a training's result for a model of `artifact: published`; whether it is new."""
        from retinue.control.handover import declared, hand_over

        by = replace(given, who=compose.who(), now=utc_now())
        return hand_over(self.registry, self.artifacts, self.name, declared(self.portfolio, model, self._specs), by)

    # ── after ───────────────────────────────────────────────────────────────────────────────────────────────

    def rollback(self, models: Sequence[str] = (), *, to: int | None = None, why: str = "") -> Release:
        """Take models (or, with `to`, the whole release) back, hold what is rolled back, tell the gateways."""
        act = Act(compose.who(), utc_now(), why, partial(is_whole, self.artifacts))
        name = self.name
        if (to is None) == (not models):
            raise UsageError("name the models to roll back, or a whole release with --to", hint="`retinue history`")
        if to is not None:
            release = roll_back_to(self.registry, name, self.stage, to, act)
        else:
            release = roll_back(self.registry, name, self.stage, tuple(models), act)
        publish(self.registry, self.releases, name, self.stage)
        return release

    def unhold(self, models: Collection[str], *, why: str) -> list[Hold]:
        """End the active holds on what these selectors choose; names alone need no file that loads.

        Raises UsageError without a reason, for a selector that chooses nothing, and when nothing chosen is held.
        """
        if not why:
            raise UsageError("say why the hold ends", hint="Add --reason TEXT.")
        holds = self.registry.holds(self.name, self.stage)
        names = held_names(models, {h.model for h in holds}, self._specs)
        ended = [h for h in holds if h.model in names]
        if not ended:
            raise UsageError(f"{', '.join(models)} has no active hold", hint="`retinue status` lists holds.")
        self.registry.end_holds([h.id for h in ended], why=why, who=compose.who(), now=utc_now())
        return ended

    def approve(self, models: Collection[str], *, why: str) -> list[Hold]:
        """Let the next apply land what waits; returns the approvals. Raises as `control.approval.Desk.approve`."""
        return compose.open_desk(self).approve(models, why)

    def reject(self, models: Collection[str], *, why: str) -> list[Hold]:
        """Keep what waits for approval out. Raises as `control.approval.Desk.reject`."""
        return compose.open_desk(self).reject(models, why)

    def _specs(self) -> list[ModelSpec]:
        """Every model that the file declares on today's data."""
        actual = read_actual(self.registry, self.name, self.stage)
        live = {m: actual.versions[e.version] for m, e in (actual.release.models if actual.release else {}).items()}
        tables = compose.open_tables(self.portfolio, self.settings)
        return list(find_members(self.portfolio, tables, live).specs.values())

    def current(self) -> Release | None:
        """The release this stage points at."""
        return self.registry.current(self.name, self.stage)

    def version(self, model: str, prefix: str | None = None) -> Version:
        """The live version of a model, or the one whose id starts with `prefix`. Raises UsageError."""
        release = self.current()
        if prefix is None:
            if release is None or model not in release.models:
                raise UsageError(
                    f"{model} is not in the release of stage {self.stage}", hint="`retinue status` lists the models."
                )
            return self.registry.versions([release.models[model].version])[release.models[model].version]
        found = [v for v in self.registry.versions_of_model(self.name, model) if v.id.startswith(prefix)]
        if len(found) != 1:
            text = "no version" if not found else f"{len(found)} versions"
            raise UsageError(f"{text} of {model} whose id starts with {prefix!r}", hint=f"`retinue history {model}`")
        return found[0]

    def members_of(self, endpoint: str) -> list[str]:
        """Models an endpoint can select in the current release."""
        return members_of(self.registry, self.current(), self.portfolio.endpoints[endpoint])

    @property
    def scoring(self) -> Place:
        """This stage as batch scoring sees it: `score` tables, `predictor` of a model or endpoint."""
        return compose.open_place(self)

    def model(self, name: str, release: int | None = None) -> Predictor:
        """`project.model("late-JFK-B6").predict(df)` on Arrow, pandas or polars: see `scoring.frame.Predictor`."""
        return self.scoring.predictor(name, release)

    endpoint = model

    def validate(self) -> list[str]:
        """Check the file without data: a line for each thing found good. Raises PortfolioError."""
        from retinue.control.validation import validate

        check_groups(self.portfolio, self.settings.approvers)
        tables = compose.open_tables(self.portfolio, self.settings)
        return validate(Wisher(self.portfolio, tables, {}, self._outside()))

    def close(self) -> None:
        """Close the database, if it was opened."""
        registry = self.__dict__.get("registry")
        close = getattr(registry, "close", None)
        if close is not None:
            close()


def describe_identity(plan: Plan) -> str:
    """A short name for a plan, for people."""
    return digest(plan_id(plan))[:8]
