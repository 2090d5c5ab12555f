"""Between gc and appliers: neither begins while the other is at work.

Each takes its own lease first and looks for the other's then, so that at least one of the two sees the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from retinue.control.leases import is_gone, later
from retinue.core.errors import LeaseHeldError, RetinueError
from retinue.core.state import Lease
from retinue.store.base import Registry

PLACE = ("*", "gc", "*")
"""Portfolio, stage and model of the lease that a gc holds: no portfolio can have that name."""
_LEASE = 600.0  # seconds


@contextlib.contextmanager
def alone(registry: Registry, portfolios: dict[str, list[str]], holder: str, now: str) -> Iterator[Lease]:
    """Hold the lease of a gc. Raises LeaseHeldError when another gc or an apply is at work in any stage."""
    portfolio, stage, model = PLACE
    for lease in registry.leases(portfolio, stage, now):
        if is_gone(lease.holder):
            registry.free(lease)
    lease = registry.acquire(portfolio, stage, [model], holder=holder, now=now, expires=later(now, _LEASE))
    try:
        for name, stages in portfolios.items():
            for other in stages if name != portfolio else ():
                held = [a for a in registry.leases(name, other, now) if not is_gone(a.holder)]
                if held:
                    raise LeaseHeldError(
                        f"{held[0].holder} is at work on {name}/{other} (until {held[0].expires} unless it goes on)",
                        hint="Run `retinue gc` again when that apply has ended.",
                    )
        yield lease
    finally:
        with contextlib.suppress(RetinueError):
            registry.free(lease)


def refuse_during_gc(registry: Registry, now: str) -> None:
    """Raise LeaseHeldError while a gc removes things: an apply might take up what it is removing."""
    portfolio, stage, _ = PLACE
    for lease in registry.leases(portfolio, stage, now):
        if not is_gone(lease.holder):
            raise LeaseHeldError(
                f"{lease.holder} removes garbage (until {lease.expires} at the latest)",
                hint="Run the same command again when `retinue gc` has ended.",
            )
