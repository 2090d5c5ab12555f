"""Plans made by hand and what a person reads of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from retinue.cli.render_plan import last_lines, render_plan
from retinue.core.errors import Location
from retinue.core.plan import (
    Build,
    Configure,
    Danger,
    Held,
    Plan,
    Regate,
    Remove,
    Rename,
    Route,
    Waiting,
    Why,
)
from retinue.core.portfolio import DataUse, ModelSpec, Need

FAMILY = "late-{origin}-{carrier}"
PAIRS = [f"{origin}-{carrier}" for origin in ("EWR", "JFK", "LGA") for carrier in ("9E", "AA", "B6", "DL", "EV", "MQ")]
LATE = [f"late-{pair}" for pair in PAIRS]


def version(name: str) -> str:
    return (name.encode().hex() * 8)[:64]


def spec(name: str, *needs: str, family: str | None = None) -> ModelSpec:
    return ModelSpec(
        name=name,
        where=Location("portfolio.yaml", 30),
        train="flights.late:train",
        environment="base",
        data=(DataUse("departures"),),
        features=("hour",),
        target="late",
        task="binary",
        needs=tuple(Need(upstream, "mean_delay", upstream) for upstream in needs),
        family=family,
    )


def build(name: str, *why: Why, family: str | None = None, live: bool = True, reuse: str | None = None) -> Build:
    return Build(name, why, version("d" + name), {}, family, None, reuse, version(name) if live else None)


def regate(name: str, *why: Why, family: str | None = FAMILY, else_build: bool = True) -> Regate:
    return Regate(name, why, version(name), version("d" + name), {}, else_build, family)


def plan(*steps: object, **more: object) -> Plan:
    specs = {"congestion": spec("congestion"), "late-global": spec("late-global", "congestion")}
    specs |= {name: spec(name, "congestion", family=FAMILY) for name in LATE}
    bare = Plan("flights", "prod", 811, (), specs=specs, forecast=38.0)
    return replace(bare, steps=steps, **more)  # type: ignore[arg-type]  # fields by name


UP = Why("UPSTREAM", "congestion")
ITER = Why("PARAMS", "max_iter 60 → 120")
CODE = Why("CODE", "flights/congestion.py: train")

PLANS: dict[str, Plan] = {
    "first_plan": plan(
        build("congestion", Why("ADD"), live=False),
        *(build(name, Why("ADD"), family=FAMILY, live=False) for name in LATE),
        build("late-global", Why("ADD"), live=False),
        Route("late", "add", FAMILY),
        base=None,
        stage="dev",
        forecast=None,
    ),
    "no_changes": plan(),
    "no_changes_but_newer_data": plan(
        newer_data=("congestion", *LATE),
        waiting=(Waiting("late-EWR-HA", 336, 600),),
        held=(Held("late-JFK-AA", "rollback", "complaints", 7, FAMILY, 811),),
    ),
    "upstream_code_family_regated": plan(
        build("congestion", CODE),
        build(LATE[0], ITER, UP, family=FAMILY),
        build(LATE[1], ITER, UP, family=FAMILY),
        *(regate(name, UP) for name in LATE[2:-1]),
        regate("late-global", UP, family=None),
        held=(Held(LATE[-1], "rollback", "", 3, FAMILY, 811),),
    ),
    "removal_blocks": plan(
        Remove("eta-acme", version("eta"), None, True),
        Route("eta", "remove", "eta-acme"),
        dangers=(
            Danger("remove endpoint eta: clients that call it get 404", "--allow-remove eta"),
            Danger("remove eta-acme (protected)", "--allow-remove eta-acme", None, ("eta-acme",)),
        ),
    ),
    "weaker_gate_of_a_family": plan(
        *(regate(name, Why("GATES", "gates edited"), else_build=False) for name in LATE),
        Configure(tuple(LATE), (Why("POLICY", "gates"),)),
        dangers=tuple(
            Danger(f"{n}: gate roc_auc min 0.6 → 0.55", f"--allow-weaker {n}", "portfolio.yaml:57", (n,)) for n in LATE
        ),
        forecast=None,
    ),
    "live_version_fails": plan(
        dangers=(Danger("late-JFK-B6 is live and fails its gates: roc_auc.min", None, "portfolio.yaml:57", LATE[8:9]),),  # type: ignore[arg-type]  # a list does
    ),
    "metadata_only": plan(
        Configure(tuple(LATE), (Why("METADATA", "description, owner"), Why("POLICY", "protect"))), forecast=None
    ),
    "reuse_of_a_version": plan(
        build("congestion", CODE, reuse="1a2b3c4d5e6f" + "0" * 52),
        build("late-global", Why("ADD"), live=False, reuse="aa2b3c4d5e6f" + "0" * 52),
        forecast=None,
    ),
    "rename_and_route": plan(
        Rename("arrivals", "late-global", version("late-global")),
        Route("late", "change", f"{FAMILY} → arrivals"),
        forecast=None,
    ),
    "refreshed_data": plan(
        build(LATE[0], Why("DATA", "newer data"), family=FAMILY),
        newer_data=tuple(LATE),
        forecast=1.4,
    ),
    "waiting_lapsed_notes_retries": plan(
        build(LATE[0], Why("ENVIRONMENT", "scikit-learn 1.6.1 → 1.7.0"), Why("FEATURES", "+ temp"), family=FAMILY),
        build(LATE[1], Why("ENVIRONMENT", "scikit-learn 1.6.1 → 1.7.0"), Why("FEATURES", "− dest"), family=FAMILY),
        build(LATE[2], Why("ENVIRONMENT", "scikit-learn 1.6.1 → 1.7.0"), Why("FEATURES", "+ hour"), family=FAMILY),
        waiting=(
            *(Waiting(f"late-EWR-{c}", rows, 600) for c, rows in (("HA", 12), ("OO", 599), ("YV", 336), ("F9", 0))),
            Waiting("late-LGA-9E", 480, 600, lapsed=True),
        ),
        notes=("rollout policies are recorded; all releases happen at once in this version",),
        retries=(4,),
        forecast=5400.0,
    ),
    "many_single_models": plan(
        *(build(f"churn_{c}", Why("ENVIRONMENT", "numpy 2.0 → 2.1")) for c in ("at", "ch", "de", "fr", "it", "uk")),
        build("fraud", CODE, Why("PARAMS", "depth 3 → 4")),
        specs={},
    ),
    "held_with_causes": plan(
        held=(
            Held("late-EWR-9E", "failed gate", "roc_auc.min", 1, FAMILY),
            Held("late-EWR-AA", "inconclusive", "log_loss.vs_champion", 2, FAMILY),
            Held("late-JFK-AA", "upstream", "was built with the new congestion, which did not land", 3, FAMILY),
            Held("congestion", "rollback", "complaints", 4, None, 812),
        ),
    ),
}


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_plan_is_told_in_words(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"plan_{name}", render_plan(PLANS[name]))


def test_all_lists_every_model(golden: Callable[[str, str], None]) -> None:
    golden("plan_all", render_plan(PLANS["upstream_code_family_regated"], every=True))


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("name", sorted(PLANS))
def test_the_first_line_names_the_stage_and_no_line_has_loose_ends(name: str, every: bool) -> None:
    text = render_plan(PLANS[name], every=every)
    first, *_ = text.split("\n")
    assert f"stage {PLANS[name].stage}" in first
    assert all(line == line.rstrip() for line in text.split("\n"))
    assert "\n\n\n" not in text


@pytest.mark.parametrize("name", sorted(PLANS))
def test_no_changes_is_said_exactly_when_there_is_nothing_to_do(name: str) -> None:
    assert ("No changes." in render_plan(PLANS[name])) == PLANS[name].empty


def test_with_all_every_touched_model_is_named() -> None:
    found = PLANS["upstream_code_family_regated"]
    text = render_plan(found, every=True)
    assert all(name in text for name in [*LATE, "congestion", "late-global"])


def test_many_held_members_of_a_family_are_named_by_its_selector_and_the_stage_too() -> None:
    held = tuple(Held(name, "failed gate", "mae.max", n, FAMILY) for n, name in enumerate(LATE))
    found = render_plan(replace(plan(held=held), stage="dev"))
    assert "`retinue unhold family:late --reason TEXT --to dev` tries again" in found


def test_status_borrows_the_last_lines_of_a_plan() -> None:
    assert last_lines(PLANS["no_changes_but_newer_data"]).split("\n")[0].startswith("newer data: 19 models")
