"""Rollback: the inverse patch of chosen models, or the content of an older release. No build; history only grows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from retinue.control.evidence import EvidenceBook
from retinue.core.errors import StateError, UsageError
from retinue.core.landing import groups, inverse, unproved
from retinue.core.state import Entry, Evidence, Hold, Landing, Release, Version
from retinue.store.base import Registry, RegistryReader


@dataclass(frozen=True, slots=True)
class Act:
    """Who does it, when (UTC), and why."""

    who: str
    now: str
    why: str
    whole: Callable[[Version], bool] = lambda version: True  # whether what a version consists of is still stored


def roll_back(registry: Registry, portfolio: str, stage: str, models: tuple[str, ...], act: Act) -> Release:
    """Take `models` back to the version each had before its last change, with what would break otherwise.

    Raises UsageError for a model that is not in the release or never changed, StateError when the result would
    put models together that were never tested together.
    """
    release = _current(registry, portfolio, stage)
    live = {name: entry.version for name, entry in release.models.items()}
    previous = previous_versions(registry, release, live)
    for model in models:
        if model not in live:
            raise UsageError(f"{model} is not in release {release.number}", hint="`retinue status` lists the models.")
        if model not in previous:
            raise UsageError(
                f"{model} has no earlier version to go back to",
                hint=f"`retinue history {model}` shows its changes; to take it out, remove it from the file.",
            )
    book = EvidenceBook.load(registry, set(live.values()) | {v for v in previous.values() if v is not None})
    patch = inverse(live, previous, models, book.needs, book.ever_passed)
    loose = unproved(live, patch, book.needs, book.ever_passed)
    if loose:
        raise StateError(
            f"{', '.join(loose[:5])} would run beside versions it was never tested with",
            hint=f"Go back as a whole: `retinue rollback --to {release.parent or release.number}`.",
        )
    return _land(registry, release, patch, {}, act)


def roll_back_to(registry: Registry, portfolio: str, stage: str, number: int, act: Act) -> Release:
    """Make a new release with the content of release `number`: models and endpoints."""
    release = _current(registry, portfolio, stage)
    target = registry.release(portfolio, stage, number)
    patch: dict[str, str | None] = {
        name: (target.models[name].version if name in target.models else None)
        for name in {*release.models, *target.models}
        if release.models.get(name) != target.models.get(name)
    }
    routes: dict[str, Mapping[str, object] | None] = {
        name: target.endpoints.get(name)
        for name in {*release.endpoints, *target.endpoints}
        if release.endpoints.get(name) != target.endpoints.get(name)
    }
    if not patch and not routes:
        raise UsageError(
            f"release {release.number} already has the content of {number}", hint="`retinue history` lists releases."
        )
    return _land(registry, release, patch, routes, act)


def _current(registry: Registry, portfolio: str, stage: str) -> Release:
    release = registry.current(portfolio, stage)
    if release is None:
        raise StateError(f"stage {stage} has no release", hint="Run `retinue apply` first.")
    return release


def previous_versions(registry: RegistryReader, release: Release, live: Mapping[str, str]) -> dict[str, str | None]:
    """For every live model, the version it had before the change that made it what it is."""
    # A rollback is no step to go back over: going back twice goes further back, not forth again.
    found = registry.before(release.portfolio, release.stage, live)
    return {model: old for model, old in found.items() if old is not None}


def _land(
    registry: Registry,
    release: Release,
    patch: Mapping[str, str | None],
    routes: Mapping[str, Mapping[str, object] | None],
    act: Act,
) -> Release:
    live = {name: entry.version for name, entry in release.models.items()}
    gone = registry.versions({live[m] for m in patch if m in live})
    book = EvidenceBook.load(registry, {v for v in patch.values() if v is not None})
    changed = {m: v for m, v in patch.items() if v is not None}
    lost = [m for m, version in registry.versions(changed.values()).items() if not act.whole(version)]
    if lost:
        raise StateError(
            f"{len(lost)} of the versions to go back to have no artifacts any more: `retinue gc` removed them",
            hint="Put the old definition back into the file and apply, or restore a backup.",
        )
    entries = {
        model: None if version is None else Entry(version, _protect(release, model)) for model, version in patch.items()
    }
    evidence = registry.evidence(set(gone))
    holds = tuple(
        _hold(release, model, gone[live[model]], evidence[live[model]], act)
        for model in sorted(patch)
        if model in live and live[model] != patch[model]
    )
    return registry.land(
        Landing(
            portfolio=release.portfolio,
            stage=release.stage,
            expected={**live, **{model: live.get(model) for model in patch}},  # what fits was seen on the whole release
            models=entries,
            endpoints={name: dict(body) if body is not None else None for name, body in routes.items()},
            groups=groups(changed, book.needs),
            cause="rollback",
            why=act.why,
            who=act.who,
            now=act.now,
            holds=holds,
        )
    )


def _protect(release: Release, model: str) -> bool:
    return release.models[model].protect if model in release.models else False


def _hold(release: Release, model: str, version: Version, rows: Sequence[Evidence], act: Act) -> Hold:
    return Hold(
        portfolio=release.portfolio,
        stage=release.stage,
        model=model,
        definition=version.definition,
        snapshot=version.snapshot,
        version=version.id,
        cause="rollback",
        detail=act.why or f"rolled back from release {release.number}",
        gates=rows[0].gates if rows else "",
        created=act.now,
    )
