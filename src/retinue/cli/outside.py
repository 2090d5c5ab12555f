"""What a name is that the release has no model of: an endpoint, or a model that waits, is held or is new."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retinue.core.errors import RetinueError
from retinue.core.family import could_be
from retinue.core.identity import short
from retinue.core.plan import Build

if TYPE_CHECKING:
    from retinue.core.plan import Plan
    from retinue.core.state import Release
    from retinue.project import Project

Json = Any


@dataclass(frozen=True, slots=True)
class Outside:
    """What it is, for people and for programs."""

    text: str
    facts: dict[str, Json]


def what_it_is(project: Project, name: str, say: Callable[[str], None]) -> Outside | None:
    """What `name` is if it is no model of the current release; None if it is one, or nothing is known of it.

    Plans, if the release alone does not tell: only the file and the data know who waits.
    """
    release = project.current()
    if release is None or name in release.models:
        return None
    if name in release.endpoints:
        return _endpoint(name, release.endpoints[name])
    try:
        plan = project.plan(say=say)
    except RetinueError:
        return None  # the file does not load: what is recorded has to do
    holds = {h.id: h.version for h in project.registry.holds(plan.portfolio, plan.stage)}
    return _planned(name, plan, release, holds)


def _endpoint(name: str, body: Json) -> Outside:
    when = " or ".join(body.get("fallback_when") or ())
    other = f"; when that model is {when}, {body['fallback']} answers" if body.get("fallback") else ""
    text = f"{name} is an endpoint: each row is answered by {body['select']}{other}."
    hint = f"`retinue why {body.get('fallback') or 'MODEL'}` tells of a model."
    return Outside(f"{text}\n{hint}", {"endpoint": name, **body})


def _planned(name: str, plan: Plan, release: Release, holds: Mapping[int, str | None]) -> Outside | None:
    fallbacks = [
        (endpoint, str(body["fallback"]))
        for endpoint, body in sorted(release.endpoints.items())
        if body.get("fallback") and could_be(str(body["select"]), name)
    ]
    told = "".join(f" Endpoint {e} answers with {f} for it meanwhile." for e, f in fallbacks)
    facts: dict[str, Json] = {"model": name, "fallbacks": dict(fallbacks)}
    for waiting in plan.waiting:
        if waiting.model == name:
            text = f"{name} waits: it has {waiting.rows:,} of {waiting.min_rows:,} rows, so it is not built yet.{told}"
            return Outside(text, {**facts, "waiting": {"rows": waiting.rows, "min_rows": waiting.min_rows}})
    for held in plan.held:
        if held.model == name:
            cause = held.cause + (f", {held.detail}" if held.detail else "")
            text = f"{name} is held ({cause}) and was never live in stage {plan.stage}.{told}"
            version = holds.get(held.hold) if held.cause != "upstream" else None
            if version is not None:
                text += f"\n`retinue show {name}@{short(version)}` shows what is held."
            return Outside(text, {**facts, "held": {"cause": held.cause, "detail": held.detail, "version": version}})
    if any(isinstance(step, Build) and step.model == name for step in plan.steps):
        text = f"{name} is in the portfolio file, but not yet in stage {plan.stage}: `retinue apply` builds it.{told}"
        return Outside(text, {**facts, "planned": True})
    return None
