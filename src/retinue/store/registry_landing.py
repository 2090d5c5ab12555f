"""What a registry decides, as pure functions: each one stores what these say, and refuses in the same words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from retinue.core.errors import ConflictError, LeaseHeldError, StateError
from retinue.core.identity import short
from retinue.core.state import AuditRow, Entry, Hold, Json, Landing, Lease, Release, SettingsRevision, Version

REPLACED = "replaced by a newer hold"
_NAMED = 5  # models named in one error


def named(models: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = sorted(models)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def check_landing(landing: Landing, current: Release | None, fences: Mapping[str, int]) -> None:
    """Whether the landing may land on `current`; `fences` are those of the leases now on the affected models.

    Raises StateError for a landing that contradicts itself, ConflictError when lease, `expected` or `beside` is stale.
    """
    unnamed = landing.models.keys() - landing.expected.keys()
    if unnamed:
        raise StateError(f"`expected` does not name {named(unnamed)}, which the landing changes")
    place = (landing.portfolio, landing.stage)
    if any((hold.portfolio, hold.stage) != place for hold in landing.holds):
        raise StateError("a hold of the landing belongs to another portfolio or stage")
    if landing.lease is not None:
        _check_lease(landing, fences)
    moved = {}
    for model, expected in {**landing.beside, **landing.expected}.items():
        entry = current.models.get(model) if current else None
        actual = entry.version if entry else None
        if actual != expected:
            moved[model] = (expected, actual)
    if moved:
        raise ConflictError(f"{named(moved)} moved since the plan was made: {_told(moved)}")


def _check_lease(landing: Landing, fences: Mapping[str, int]) -> None:
    lease = landing.lease
    assert lease is not None
    if (lease.portfolio, lease.stage) != (landing.portfolio, landing.stage):
        raise StateError(f"the lease is on {lease.portfolio}/{lease.stage}, not on {landing.portfolio}/{landing.stage}")
    lost = [model for model in landing.expected if fences.get(model) != lease.fence]
    if lost:
        raise lease_lost(lease, lost)


def _told(moved: Mapping[str, tuple[str | None, str | None]]) -> str:
    model = min(moved)
    expected, actual = (short(version) if version else "absent" for version in moved[model])
    return f"{model} was {expected}, now {actual}"


def patched(landing: Landing, current: Release | None) -> tuple[dict[str, Entry], dict[str, Mapping[str, Json]]]:
    """The models and endpoints of the next release.

    Raises StateError when nothing would change, or when a removed model is still what an endpoint answers with.
    """
    old_models = current.models if current else {}
    old_endpoints = current.endpoints if current else {}
    models = _patch(old_models, landing.models)
    endpoints = _patch(old_endpoints, landing.endpoints)
    if models == old_models and endpoints == old_endpoints:
        number = f"release {current.number}" if current else "no release"
        raise StateError(
            f"nothing would change: {landing.portfolio}/{landing.stage} at {number} already is what should land"
        )
    removed = old_models.keys() - models.keys()
    for name, endpoint in sorted(endpoints.items()):
        needed = removed & {endpoint.get("select"), endpoint.get("fallback")}
        if needed:
            raise StateError(
                f"{named(needed)} cannot be removed: endpoint {name} answers with it",
                hint="Remove the endpoint or point it at another model in the same apply.",
            )
    return models, endpoints


def _patch(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**old, **patch}
    return {name: value for name, value in merged.items() if value is not None}


def next_release(landing: Landing, current: Release | None) -> Release:
    """The release the landing makes. Raises as `patched`."""
    models, endpoints = patched(landing, current)
    return Release(
        portfolio=landing.portfolio,
        stage=landing.stage,
        number=current.number + 1 if current else 1,
        models=models,
        endpoints=endpoints,
        groups=landing.groups,
        parent=current.number if current else None,
        cause=landing.cause,
        why=landing.why,
        who=landing.who,
        plan=landing.plan,
        created=landing.now,
    )


def version_changes(release: Release, current: Release | None) -> list[tuple[str, str | None, str | None]]:
    """(model, old version, new version) for each model whose version differs, by name."""
    before = {model: entry.version for model, entry in current.models.items()} if current else {}
    after = {model: entry.version for model, entry in release.models.items()}
    return [
        (model, before.get(model), after.get(model))
        for model in sorted(before.keys() | after.keys())
        if before.get(model) != after.get(model)
    ]


def landed_holds(landing: Landing, number: int) -> list[Hold]:
    """The landing's holds; one made by a rollback names the release that rolled back."""
    return [
        replace(hold, release=number) if hold.cause == "rollback" and hold.release is None else hold
        for hold in landing.holds
    ]


def landing_audit(landing: Landing, release: Release, changed: int) -> AuditRow:
    """The audit row of a landing."""
    what = f"{release.stage} release {release.number}: {changed} model{'' if changed == 1 else 's'} changed"
    return AuditRow(landing.now, landing.who, landing.cause, what, landing.why, landing.plan)


def lease_held(held: Mapping[str, Mapping[str, Any]]) -> LeaseHeldError:
    """`held`: model → row with holder and expires."""
    first = held[min(held)]
    return LeaseHeldError(f"{first['holder']} is at work on {named(held)} (until {first['expires']} unless it goes on)")


def lease_lost(lease: Lease, models: Collection[str]) -> ConflictError:
    """The lease on these models is another's, or nobody's."""
    return ConflictError(
        f"the lease of {lease.holder} on {named(models)} was lost: it expired or was given back",
        hint="Run `retinue plan` again, then `retinue apply`: what was built is kept and used.",
    )


def settings_moved(expected: int, actual: int) -> ConflictError:
    """Somebody wrote settings meanwhile."""
    return ConflictError(f"the settings moved since the plan was made: revision was {expected}, now {actual}")


def unhold_audit(hold: Hold, *, why: str, who: str, now: str) -> AuditRow:
    """The audit row of one ended hold."""
    return AuditRow(now, who, "unhold", f"{hold.stage} hold {hold.id} on {hold.model} ({hold.cause})", why, None)


def unregistered(ids: Collection[str]) -> StateError:
    """These versions are not in the registry."""
    return StateError(f"not registered: version {named(short(version) for version in ids)}")


def same_build(there: Version, version: Version) -> Version:
    """The recorded version of the same id. Raises StateError when its manifest names another pair."""
    if (there.definition, there.snapshot) != (version.definition, version.snapshot):
        raise StateError(f"version {short(version.id)} is registered for another definition and snapshot")
    return there


def no_release(portfolio: str, stage: str, number: int) -> StateError:
    """There is no release of that number."""
    return StateError(f"{portfolio}/{stage} has no release {number}", hint="`retinue history` lists the releases.")


def no_hold(ids: Collection[int]) -> StateError:
    """There is no hold of these numbers."""
    return StateError(f"no hold {min(ids)} is recorded", hint="`retinue plan` lists the holds.")


def not_recorded(kind: str, key: str, version: Version) -> StateError:
    """A version's definition or snapshot is missing."""
    return StateError(f"{kind} {short(key)} of version {short(version.id)} of {version.model} is not recorded")


def cannot_end(apply_id: str, status: str | None) -> StateError:
    """An apply that is not running cannot end (`status` None: it is not recorded at all)."""
    if status is None:
        return StateError(f"no apply {apply_id} is recorded")
    return ConflictError(f"apply {apply_id} is already recorded as {status}")


def settings_audit(revision: SettingsRevision, *, why: str, who: str) -> AuditRow:
    """The audit row of a settings revision."""
    return AuditRow(revision.created, who, "settings", f"revision {revision.revision}", why, None)


def client_moved(name: str) -> ConflictError:
    """A client's record is not what it was when it was read."""
    return ConflictError(f"client {name} was changed by somebody else meanwhile", hint="Run the same command again.")
