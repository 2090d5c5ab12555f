"""Compares what a portfolio wishes with what is recorded of a stage: from an opened portfolio to its plan.

Constant are the queries, small is what is parsed: the registry is asked for columns, and for bodies only of what
differs. Writes nothing but caches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from retinue.control.actual import add_candidates, add_definitions, read_actual, read_seconds, states, to_build
from retinue.control.collecting import without_collecting
from retinue.control.recorded import Recorded
from retinue.control.wish import Members, Wisher, find_members
from retinue.core.errors import UsageError
from retinue.core.plan import Build, Plan, Regate
from retinue.core.planner import forecast, make_plan
from retinue.core.portfolio import ModelSpec
from retinue.core.selectors import Chooser
from retinue.core.state import Version
from retinue.core.wish import Actual, Options
from retinue.store.base import RegistryReader


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks of a plan, as selectors and names; see `retinue plan --help`."""

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    refresh_data: bool = False
    allow_remove: tuple[str, ...] = ()
    allow_weaker: tuple[str, ...] = ()
    retry: tuple[str, ...] = ()
    rebuild: tuple[str, ...] = ()


def compare(registry: RegistryReader, wisher: Wisher, stage: str, asked: Asked, place: tuple[Path, int]) -> Plan:
    """The plan of what is asked for. `place`: the folder of caches, and how many models are built at once.

    Raises PortfolioError and DataError for what does not fit, UsageError for selectors that choose nothing.
    """
    with without_collecting():
        cache, workers = place
        actual, members, live = _gathered(registry, wisher, stage, cache)
        options = _options(asked, wisher, members, actual)
        wish = wisher.wish(members, actual, stage, options)
        actual = add_candidates(actual, registry, wisher.portfolio.name, to_build(wish, live, options))
        plan = make_plan(wish, actual, options)
        built = [s for s in plan.steps if isinstance(s, Build | Regate)]
        seconds = forecast(built, read_seconds(actual, registry, built)) if built else None
        return replace(plan, forecast=seconds / workers if seconds is not None else None)


def _gathered(
    registry: RegistryReader, wisher: Wisher, stage: str, cache: Path
) -> tuple[Actual, Members, dict[str, Version]]:
    """What is recorded, the models that the file means on today's data, and the versions that are live."""
    portfolio = wisher.portfolio
    actual = read_actual(registry, portfolio.name, stage, Recorded(cache, portfolio.name, stage))
    entries = actual.release.models if actual.release else {}
    live = {name: actual.versions[entry.version] for name, entry in entries.items()}
    members = find_members(portfolio, wisher.tables, live)
    return add_definitions(actual, registry, wisher.resolve(members)), members, live


def select_models(
    registry: RegistryReader,
    wisher: Wisher,
    stage: str,
    selectors: tuple[tuple[str, ...], tuple[str, ...]],
    cache: Path,
) -> dict[str, ModelSpec]:
    """The models that selectors choose, (chosen, excluded), as `plan` would choose them; upstreams first."""
    with without_collecting():
        actual, members, _ = _gathered(registry, wisher, stage, cache)
        chosen = _chooser(wisher, members, actual).choose(*selectors)
        return {name: spec for name, spec in members.specs.items() if name in chosen}


def _chooser(wisher: Wisher, members: Members, actual: Actual) -> Chooser:
    return Chooser(members.specs, members.graph, lambda: states(wisher, actual))


def _options(asked: Asked, wisher: Wisher, members: Members, actual: Actual) -> Options:
    chooser = _chooser(wisher, members, actual)
    selected = chooser.choose(asked.select, asked.exclude) if asked.select or asked.exclude else None
    refresh: frozenset[str] = frozenset()
    if asked.refresh_data:
        refresh = selected if selected is not None else frozenset(members.specs)
    live = set(actual.release.models) | set(actual.release.endpoints) if actual.release else set()
    for name in asked.allow_remove:
        if name not in live:
            raise UsageError(f"--allow-remove {name}: the release has no model or endpoint of that name")

    def named(selectors: tuple[str, ...]) -> frozenset[str]:
        return chooser.choose(selectors) if selectors else frozenset()

    return Options(
        selected=selected,
        refresh=refresh,
        allow_remove=frozenset(asked.allow_remove),
        allow_weaker=named(asked.allow_weaker),
        retry=named(asked.retry),
        rebuild=named(asked.rebuild),
    )
