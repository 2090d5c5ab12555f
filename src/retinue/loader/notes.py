"""What is parsed and versioned but acts only in a later Retinue, told by `plan` so that nobody waits for it."""

from __future__ import annotations

from collections.abc import Iterator

from retinue.core.portfolio import ModelTemplate, Portfolio


def notes(portfolio: Portfolio) -> tuple[str, ...]:
    """One line per thing that does not act yet, in a fixed order."""
    return tuple(_notes(portfolio))


def _notes(portfolio: Portfolio) -> Iterator[str]:
    for name in portfolio.policies.get("rollout", {}):
        yield f"rollout policy `{name}`: steps act in a later Retinue; this build releases all at once"
    for name in portfolio.policies.get("retrain", {}):
        yield (
            f"retrain policy `{name}`: acts in a later Retinue; until then newer data is trained with --refresh-data"
        )
    for key, what in (("monitor", "is watched"), ("resources", "counts")):
        names = [name for name, template in portfolio.models.items() if key in _settings(template)]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"`{key}` of {names[0]}{more}: {what} in a later Retinue"
    for name, endpoint in portfolio.endpoints.items():
        if endpoint.fallback is not None and "stale_input" in endpoint.fallback_when:
            yield f"endpoint `{name}`: fallback on stale_input acts in a later Retinue"


def _settings(template: ModelTemplate) -> set[str]:
    found = set(template.spec.settings)
    for override in template.overrides:
        found |= set(override.values.get("settings", ()))
    return found
