"""Human approval as values: which version waits for whom, in the words of holds.

A version of a model with `approval: required by GROUP` is built and tested, then held with cause "approval". With it
is held all that changed together with it. Approved, the same holds have cause "approved", and the next apply lands
them; rejected, its own has cause "rejected". Only the very version that was approved may land.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from retinue.core.landing import Needs, groups
from retinue.core.state import Hold

ASKING = ("approval", "approved", "rejected")
"""Causes of holds that are about approval."""


def waits_by(group: str) -> str:
    """The detail of a hold whose version needs the approval of a group."""
    return f"by {group}"


def waits_with(models: Iterable[str]) -> str:
    """The detail of a hold on what changed together with models that need approval."""
    return f"with {', '.join(sorted(models))}"


def group_of(hold: Hold) -> str | None:
    """The group that a waiting hold asks; None for what only waits with another."""
    return hold.detail.removeprefix("by ") if hold.cause == "approval" and hold.detail.startswith("by ") else None


def companions_of(hold: Hold) -> tuple[str, ...]:
    """The models that a hold waits with."""
    return tuple(hold.detail.removeprefix("with ").split(", ")) if hold.detail.startswith("with ") else ()


def said_by(group: str | None, who: str, why: str) -> str:
    """The detail of an approved or rejected hold."""
    return f"{group or '-'}: {who}: {why}"


def approves(hold: Hold, group: str) -> bool:
    """Whether a hold is the approval of this very group."""
    return hold.cause == "approved" and hold.detail.partition(": ")[0] == group


def withheld(
    changed: Mapping[str, str], needs: Needs, required: Mapping[str, str], holds: Sequence[Hold]
) -> dict[str, str]:
    """What of `changed` (model → version) must not land yet → the detail of its hold.

    `required` maps models to the group that must approve. What changes as one waits as one.
    """
    given = {(h.model, h.version): h for h in holds if h.cause == "approved"}
    asks: dict[str, str] = {}
    for model, group in required.items():
        hold = given.get((model, changed.get(model, "")))
        if model in changed and (hold is None or not approves(hold, group)):
            asks[model] = group
    found: dict[str, str] = {}
    for members in groups(changed, needs):
        asking = [model for model in members if model in asks]
        if asking:
            found |= {m: waits_by(asks[m]) if m in asks else waits_with(asking) for m in members}
    return found


def tied(holds: Sequence[Hold], needs: Needs, models: Collection[str]) -> tuple[tuple[Hold, ...], ...]:
    """The waiting holds that were withheld as one with these models, a tuple per group."""
    waiting = {h.model: h for h in holds if h.cause in ("approval", "approved") and h.version is not None}
    changed = {model: str(hold.version) for model, hold in waiting.items()}
    return tuple(
        tuple(waiting[m] for m in members) for members in groups(changed, needs) if any(m in models for m in members)
    )


def hold_words(cause: str, detail: str) -> str:
    """Why a version is held, in words."""
    if cause == "approval":
        return f"waits for approval {detail}" if detail.startswith("by ") else f"waits {detail}, for approval"
    if cause in ("approved", "rejected"):
        group, _, rest = detail.partition(": ")
        who, _, why = rest.partition(": ")
        lands = "; the next apply lands it" if cause == "approved" else ""
        return f"{cause} by {who}{f' of {group}' if group != '-' else ''}{f': {why}' if why else ''}{lands}"
    return f"{cause}, {detail}" if detail else cause
