"""What to do about another's lease: say who holds it, since when and until when, or wait for its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from retinue.control.leases import is_gone
from retinue.core.errors import LeaseHeldError
from retinue.core.state import Lease
from retinue.store.base import Registry

LOOK = 0.5  # seconds between two looks at the leases


def holders_of(registry: Registry, portfolio: str, stage: str, models: Collection[str], now: str) -> list[Lease]:
    """Leases of living processes, other than expired ones, that cover any of these models."""
    wanted = set(models)
    held = registry.leases(portfolio, stage, now)
    return [lease for lease in held if wanted & set(lease.models) and not is_gone(lease.holder)]


def refusal(registry: Registry, lease: Lease, models: Collection[str]) -> LeaseHeldError:
    """Why these models cannot be had: who is at work on them, since when and until when."""
    common = sorted(set(models) & set(lease.models))
    named = ", ".join(common[:5]) + (f" and {len(common) - 5} more" if len(common) > 5 else "")
    running = registry.applies(lease.portfolio, lease.stage, "running")
    since = next((record.created for record in running if record.plan.get("holder") == lease.holder), None)
    return LeaseHeldError(
        f"{lease.holder} is at work on {named}{f' since {since}' if since else ''} "
        f"(its lease ends {lease.expires} unless it goes on)",
        hint="Wait until it has ended: `retinue apply --wait 600` does; `retinue status` names it.",
    )


def wait_for(
    registry: Registry,
    place: tuple[str, str],
    models: Mapping[str, str | None],
    *,
    seconds: float,
    say: Callable[[str], None],
    clock: Callable[[], str],
    sleep: Callable[[float], None],
) -> bool:
    """Wait until nobody else holds any of these models in `place`, (portfolio, stage); whether there was any waiting.

    Raises LeaseHeldError when somebody still does after `seconds`.
    """
    waited, told = 0.0, ""
    while held := holders_of(registry, *place, models, clock()):
        why = refusal(registry, held[0], models)
        if waited >= seconds:
            raise why
        if held[0].holder != told:
            say(f"waiting: {why.message}")
            told = held[0].holder
        sleep(LOOK)
        waited += LOOK
    return waited > 0
