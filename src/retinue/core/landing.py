"""Which proposals land together: nothing goes live without passing evidence beside the upstreams it will meet.

Pure functions over maps of model → version id. Used by `apply` (forward) and `rollback` (backward).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Needs = Callable[[str], tuple[str, ...]]
"""version id → names of the upstream models it reads"""
Passed = Callable[[str, Mapping[str, str]], bool]
"""(version id, all upstreams, direct or not → version id) → whether evidence says it passes with these"""


@dataclass(frozen=True, slots=True)
class Resolution:
    """`accepted` may land; `refused` maps each other proposal to the reason."""

    accepted: Mapping[str, str]
    refused: Mapping[str, str]


def resolve(live: Mapping[str, str], proposals: Mapping[str, str], needs: Needs, passed: Passed) -> Resolution:
    """The largest part of `proposals` that fits together with what stays live.

    A proposal without passing evidence beside the final upstreams is refused. A model that stays and has no
    passing evidence beside a changed upstream makes that upstream refused. Repeats until nothing moves; ends
    because `accepted` only shrinks.
    """
    accepted = dict(proposals)
    refused: dict[str, str] = {}
    while True:
        final = {**live, **accepted}
        for model, version in final.items():
            upstreams, missing = closure(version, final, needs)
            changed = [u for u in upstreams if u in accepted and accepted[u] != live.get(u)]
            if model not in accepted and not changed:
                continue
            if not missing and passed(version, {u: final[u] for u in upstreams}):
                continue
            if model in accepted:
                refused[model] = _why_refused(model, upstreams, missing, refused)
                del accepted[model]
            else:
                for upstream in changed:
                    refused[upstream] = f"{model} does not pass its gates with it"
                    del accepted[upstream]
            break
        else:
            return Resolution(accepted, refused)


def closure(version: str, final: Mapping[str, str], needs: Needs) -> tuple[tuple[str, ...], list[str]]:
    """(all upstreams of a version within a map, direct or not, sorted; those that the map does not have)."""
    found: set[str] = set()
    todo = list(needs(version))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            if name in final:
                todo.extend(needs(final[name]))
    return tuple(sorted(found)), sorted(name for name in found if name not in final)


def _why_refused(model: str, upstreams: tuple[str, ...], missing: list[str], refused: Mapping[str, str]) -> str:
    if missing:
        return f"needs {', '.join(missing)}, which is not in the release"
    blamed = [u for u in upstreams if u in refused]
    if blamed:
        return f"was built with the new {', '.join(blamed)}, which did not land"
    return "did not pass its gates"


def groups(changed: Mapping[str, str], needs: Needs) -> tuple[tuple[str, ...], ...]:
    """The sets of changed models that are tied by `needs` and therefore change as one, each sorted."""
    parent = {model: model for model in changed}

    def root(model: str) -> str:
        while parent[model] != model:
            parent[model] = parent[parent[model]]
            model = parent[model]
        return model

    for model, version in changed.items():
        for upstream in needs(version):
            if upstream in parent:
                parent[root(model)] = root(upstream)
    found: dict[str, list[str]] = {}
    for model in sorted(changed):
        found.setdefault(root(model), []).append(model)
    return tuple(tuple(members) for members in found.values())


def inverse(
    live: Mapping[str, str],
    previous: Mapping[str, str | None],
    wanted: tuple[str, ...],
    needs: Needs,
    passed: Passed,
) -> dict[str, str | None]:
    """The patch that takes `wanted` back to `previous`, with whatever changed together with them and would break.

    `previous` holds, for every model that could go back, the version it had before (None: it was absent).
    When a model and its upstream would meet without evidence, the one that can still go back does. The result
    may still hold a pair without evidence when neither can: `unproved` tells.
    """
    patch: dict[str, str | None] = {model: previous[model] for model in wanted}
    while True:
        final = _patched(live, patch)
        for model, version in final.items():
            upstreams, missing = closure(version, final, needs)
            if model not in patch and not any(u in patch for u in upstreams):
                continue
            if not missing and passed(version, {u: final[u] for u in upstreams}):
                continue
            more = [m for m in (model, *upstreams) if m in previous and m not in patch and previous[m] != live.get(m)]
            if more:
                patch[more[0]] = previous[more[0]]
                break
        else:
            return patch


def unproved(live: Mapping[str, str], patch: Mapping[str, str | None], needs: Needs, passed: Passed) -> list[str]:
    """Models of the patched map that touch the patch and have no passing evidence, or miss an upstream."""
    final = _patched(live, patch)
    found = []
    for model, version in final.items():
        upstreams, missing = closure(version, final, needs)
        if model not in patch and not any(u in patch for u in upstreams):
            continue
        if missing or not passed(version, {u: final[u] for u in upstreams}):
            found.append(model)
    return found


def _patched(live: Mapping[str, str], patch: Mapping[str, str | None]) -> dict[str, str]:
    merged: dict[str, str | None] = {**live, **patch}
    return {model: version for model, version in merged.items() if version is not None}
