"""A process that applies on a real registry: `applier.py URL FOLDER MODELS QUALITY LEASE [STOP]`.

MODELS is `a,b`: chains of names joined by `+` need each other (`a+b`: b reads a); `c=4` gives c its own quality.
At the durable effect named STOP it says `at STOP` and goes on when it gets a line. It prints how the apply ended.
"""

# ruff: noqa: T201 - a script that talks to its test over standard output
from __future__ import annotations

import sys
from pathlib import Path

from tests.control.little import Builder, Wished, World

from retinue.control.apply import Applier
from retinue.control.effects import Effect
from retinue.control.leases import name_holder
from retinue.control.planfile import plan_id
from retinue.core.errors import RetinueError
from retinue.store.registry import SqlRegistry


def wishes(models: str, quality: int) -> dict[str, Wished]:
    """Models of that quality, chained."""
    found: dict[str, Wished] = {}
    for chain in models.split(","):
        before: tuple[str, ...] = ()
        names, _, own = chain.partition("=")
        for name in names.split("+"):
            found[name] = Wished(needs=before, quality=int(own or quality))
            before = (name,)
    return found


def main(url: str, folder: str, models: str, quality: str, lease: str, stop: str = "") -> None:
    world = World(Path(folder))
    world.registry = SqlRegistry(url)  # type: ignore[assignment]  # the real one
    wished = wishes(models, int(quality))
    plan = world.plan(wished)
    said = False

    def on_effect(effect: Effect, what: str) -> None:
        nonlocal said
        if effect.name == stop and not said:
            said = True
            print("at", stop, flush=True)
            sys.stdin.readline()

    builder = Builder(world.registry, wished)
    applier = Applier(
        world.registry, builder, world.folder, "ada", name_holder("ada"), workers=1, on_effect=on_effect,
        lease_seconds=float(lease),
    )  # fmt: skip
    try:
        print("release", applier.apply(plan, plan_id=plan_id(plan)).release)
    except RetinueError as error:
        print(type(error).__name__, error)


if __name__ == "__main__":
    main(*sys.argv[1:])
