"""Plans to and from JSON: what `plan --out` writes and `apply plan.json` reads, and what `-o json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from retinue.core.errors import StateError
from retinue.core.identity import digest
from retinue.core.plan import Build, Configure, Plan, Regate, Remove, Rename, Route, Step

Json = Any
FORMAT = 1
_STEPS: Mapping[str, type[Step]] = {
    "build": Build,
    "regate": Regate,
    "remove": Remove,
    "rename": Rename,
    "route": Route,
    "configure": Configure,
}
_NAMES = {kind: name for name, kind in _STEPS.items()}


def plan_json(plan: Plan) -> dict[str, Json]:
    """The plan as JSON values; every step carries its kind under `step`."""
    body: dict[str, Json] = {}
    for field in fields(Plan):
        value = getattr(plan, field.name)
        if field.name == "steps":
            body["steps"] = [{"step": _NAMES[type(s)], **msgspec.to_builtins(s)} for s in value]
        else:
            body[field.name] = msgspec.to_builtins(value)
    return {"format": FORMAT, **body}


def plan_id(plan: Plan) -> str:
    """What names a plan: the digest of everything in it but the forecast, which is only a guess."""
    return digest({k: v for k, v in plan_json(plan).items() if k != "forecast"})


def write_plan(plan: Plan, path: Path) -> None:
    """Save a plan."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plan_json(plan)), indent=2) + b"\n")


def read_plan(path: Path) -> Plan:
    """A saved plan. Raises StateError for a file that is none, or was written by another format of Retinue."""
    try:
        body = msgspec.json.decode(path.read_bytes())
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise StateError(
                f"{path} is no plan of this Retinue (format {FORMAT})", hint="Make it anew: `retinue plan --out FILE`."
            )
        return _plan(body)
    except FileNotFoundError as error:
        raise StateError(f"there is no plan {path}", hint="Make it: `retinue plan --out FILE`.") from error
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError) as error:
        raise StateError(
            f"{path} is not a whole plan: {error}", hint="Make it anew: `retinue plan --out FILE`."
        ) from error


def _plan(body: dict[str, Json]) -> Plan:
    steps = []
    for step in body.pop("steps"):
        kind = _STEPS[step.pop("step")]
        steps.append(msgspec.convert(step, kind))
    body.pop("format")
    bare: Plan = msgspec.convert({**body, "steps": []}, _Bare)
    values = {f.name: getattr(bare, f.name) for f in fields(Plan) if f.name != "steps"}
    return Plan(**values, steps=tuple(steps))


_Bare: Any = msgspec.defstruct(
    "_Bare",
    [
        (f.name, tuple[()] if f.name == "steps" else hint)  # steps are converted one by one, by their kind
        for f in fields(Plan)
        for hint in [get_type_hints(Plan)[f.name]]
    ],
)
