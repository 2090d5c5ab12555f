"""The JSON twins of what is printed: the same facts as plain values."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from retinue.control.events import Outcome
    from retinue.project import Project

Json = Any


def outcome_json(outcome: Outcome) -> dict[str, Json]:
    """An outcome; errors as message, where and hint."""
    return {
        "plan": outcome.plan,
        "release": outcome.release,
        "before": outcome.before,
        "settings": outcome.settings,
        "seconds": outcome.seconds,
        "failed": outcome.failed,
        "checks": [c.to_json() for c in outcome.checks],
        "models": [
            {
                "model": m.model,
                "status": m.status,
                "text": m.text,
                "version": m.version,
                "seconds": m.seconds,
                "error": (
                    {"message": m.error.message, "where": m.error.where, "hint": m.error.hint, "fault": m.error.fault}
                    if m.error is not None
                    else None
                ),
                "gates": [dict(r) for r in m.results],
            }
            for m in outcome.models
        ],
    }


def to_json(value: object) -> Json:
    """A dataclass of state values as JSON."""
    return msgspec.to_builtins(value)


def no_release_yet(project: Project) -> str | None:
    """A line for a stage without a release when other stages have one: a stage may be new, or misspelled."""
    lost = lost_database(project)
    if lost is not None:
        return f"stage {project.stage}: {lost}"
    stages = project.registry.stages(project.name)
    if project.stage in stages or not stages:
        return None
    return f"stage {project.stage} has no release yet; other stages: {', '.join(sorted(stages))}"


def lost_database(project: Project) -> str | None:
    """A line if gateways are pointed at a release that the database does not know: it was lost, or is another one."""
    from retinue.core.errors import RetinueError
    from retinue.store.releasefile import current

    try:
        number = current(project.releases)
    except RetinueError:
        return None
    if number is None or project.current() is not None:
        return None
    return (
        f"gateways serve release {number}, which the database does not know: it was lost or is another one. "
        "Restore it (`retinue restore FILE`), or correct [state] database"
    )


def server(project: Project) -> dict[str, Json] | None:
    """What the running server of this stage says of itself; None when none runs.

    {"url", "pid", …} of its record; with "status" as the admin port answers, or "silent" with the reason.
    """
    from retinue.gateway.record import read_record

    record = read_record(project.releases)
    if record is None:
        return None
    found: dict[str, Json] = {"url": record.url, "admin_url": record.admin_url, "pid": record.pid}
    try:
        with urllib.request.urlopen(f"{record.admin_url}/status", timeout=2) as answer:  # noqa: S310 - our own address
            found["status"] = json.load(answer)
    except (OSError, ValueError) as error:
        found["silent"] = str(error)
    return found
