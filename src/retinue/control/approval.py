"""Approving and rejecting what an apply has built, tested and withheld. Each act is an audit row, then a hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from retinue.core.approval import companions_of, group_of, said_by, tied
from retinue.core.errors import PortfolioError, StateError, UsageError
from retinue.core.identity import short
from retinue.core.plan import Build, Plan
from retinue.core.portfolio import Portfolio
from retinue.core.state import AuditRow, Hold
from retinue.core.suggest import did_you_mean
from retinue.store.base import Registry


@dataclass(frozen=True, slots=True)
class Desk:
    """Where one person of some groups decides; `plan` gives the plan in which these models were not held."""

    registry: Registry
    portfolio: str
    stage: str
    who: str
    groups: Mapping[str, tuple[str, ...]]  # group → names
    clock: Callable[[], str]
    plan: Callable[[tuple[str, ...]], Plan]

    def approve(self, models: Collection[str], why: str) -> list[Hold]:
        """Let the next apply land what waits of these models; returns the new holds, of companions too.

        Raises UsageError for what does not wait and for who may not, StateError for what has moved since.
        """
        chosen = self._waiting(models, why, "approve")
        ready: dict[str, Hold] = {}
        together: set[str] = set()
        for members in tied(self._holds(), self._needs(), models):
            open_ = [h.model for h in members if group_of(h) is not None and h.model not in chosen]
            together |= {h.model for h in members}
            free = [h for h in members if not companions_of(h) or not set(companions_of(h)) & set(open_)]
            ready |= {h.model: h for h in free if h.cause == "approval" and (h.model in chosen or companions_of(h))}
        self._unmoved(ready, together)
        return self._record("approve", [self._said(h, "approved", why) for h in ready.values()], why)

    def reject(self, models: Collection[str], why: str) -> list[Hold]:
        """Keep these versions out; what only waited with them is tried again by itself. Returns the new holds."""
        chosen = self._waiting(models, why, "reject", ("approval", "approved"))
        waiting = {h.model for h in self._holds() if h.cause in ("approval", "approved")} - chosen.keys()
        freed = [
            h
            for members in tied(self._holds(), self._needs(), models)
            for h in members
            if companions_of(h) and not set(companions_of(h)) & waiting
        ]
        done = self._record("reject", [self._said(h, "rejected", why) for h in chosen.values()], why)
        if freed:
            text = f"what it waited with was rejected: {why}"
            self.registry.end_holds([h.id for h in freed], why=text, who=self.who, now=self.clock())
        return done

    def _holds(self) -> list[Hold]:
        return self.registry.holds(self.portfolio, self.stage)

    def _needs(self) -> Callable[[str], tuple[str, ...]]:
        ids = {h.version for h in self._holds() if h.version is not None}
        found = self.registry.versions(ids)
        return lambda version: tuple(n["model"] for n in found[version].manifest["needs"])

    def _waiting(
        self, models: Collection[str], why: str, act: str, causes: Collection[str] = ("approval",)
    ) -> dict[str, Hold]:
        """The holds that are decided. Raises UsageError without a reason, for others' models and wrong names."""
        if not why.strip():
            raise UsageError(f"say why you {act}", hint="Add --reason TEXT.")
        asked = {h.model: h for h in self._holds() if h.cause in causes and not companions_of(h)}
        for model in models:
            if model not in asked:
                raise UsageError(f"{model} does not wait for approval in stage {self.stage}", hint=self._hint(asked))
            group = group_of(asked[model]) or asked[model].detail.partition(": ")[0]
            if group not in self.groups:
                raise UsageError(f"{model} asks group {group}, which retinue.toml does not have", hint=add(group))
            if self.who not in self.groups[group]:
                members = ", ".join(self.groups[group])
                raise UsageError(
                    f"{self.who} is not of group {group}: only its members {act} {model}",
                    hint=f"Ask one of them: {members}.",
                )
        return {model: asked[model] for model in models}

    def _hint(self, asked: Mapping[str, Hold]) -> str:
        with_others = sorted({m for h in self._holds() if h.cause == "approval" for m in companions_of(h)})
        known = sorted({*asked, *with_others} & asked.keys())
        return f"These wait: {', '.join(known[:10])}." if known else "Nothing waits; `retinue status` lists holds."

    def _unmoved(self, ready: Mapping[str, Hold], together: Collection[str]) -> None:
        """Raise StateError unless an apply would land exactly these versions, once all that waits with them may."""
        try:
            plan = self.plan(tuple(sorted(together)))
        except UsageError as error:  # the file does not declare one of them any more
            raise StateError(f"the portfolio file moved: {error.message}", hint="Run `retinue plan`.") from error
        reused = {s.model: s.reuse for s in plan.steps if isinstance(s, Build)}
        moved = [model for model, hold in ready.items() if reused.get(model) != hold.version]
        if moved:
            raise StateError(
                f"{', '.join(moved)} moved since it was built: an apply would not land "
                f"{', '.join(short(str(ready[m].version)) for m in moved)} any more",
                hint="Run `retinue apply`: it builds and tests what the file says now, and asks again.",
            )

    def _said(self, hold: Hold, cause: str, why: str) -> Hold:
        group = group_of(hold) or (hold.detail.partition(": ")[0] if hold.cause == "approved" else None)
        now = self.clock()
        return replace(hold, cause=cause, detail=said_by(group, self.who, why), created=now, id=0)  # type: ignore[arg-type]

    def _record(self, act: str, holds: Sequence[Hold], why: str) -> list[Hold]:
        for hold in holds:  # first: what is done must be on record, whatever comes between
            what = f"{self.stage} {hold.model} {short(str(hold.version))}"
            self.registry.record(self.portfolio, AuditRow(hold.created, self.who, act, what, why, None))
        self.registry.hold(holds)  # replaces the waiting ones, all at once
        return list(holds)


def check_groups(portfolio: Portfolio, groups: Mapping[str, tuple[str, ...]]) -> None:
    """Raise PortfolioError for a model that asks a group nobody is in."""
    for template in portfolio.models.values():
        asked = [(template.spec.approval, template.spec.where)]
        asked += [(o.values.get("approval"), o.where) for o in template.overrides]
        for group, where in asked:
            if group is not None and not groups.get(group):
                raise PortfolioError(
                    f"model {template.spec.name}: approval is required by {group}, a group "
                    + ("that is empty" if group in groups else "that [approvers] of retinue.toml does not have"),
                    where=where,
                    hint=(did_you_mean(group, groups) if group not in groups else None) or add(group),
                )


def add(group: str) -> str:
    """How a group is made."""
    return f'Write under [approvers] of retinue.toml: {group} = ["NAME", …].'
