"""A process of its own that uses a registry; started by the tests with a command and a database (file or URL).

land FILE MODEL OLD NEW GO     wait until file GO exists, then land one change; print the release or the error
many FILE MODEL N              land v0 … v(N-1) of one model, each from what the stage has; print the numbers
die FILE K                     begin a landing and be killed right before its K-th statement; exit 0 if it ended
lock FILE SECONDS              hold the database exclusively, say so, and wait
freeze FILE                    begin a landing, say "inside" in the middle of it, go on when told by a signal
fill FILE                      land releases until the disk refuses; print the error's class, text and hint
"""

# ruff: noqa: T201 - a script that talks to its test over standard output
from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event

from retinue.core.errors import ConflictError, RetinueError
from retinue.core.state import Definition, Entry, Hold, Landing, Snapshot, Version
from retinue.store.registry import SqlRegistry

NOW = "2026-01-31T12:00:00.000000Z"


def open_(file: str) -> SqlRegistry:
    """The registry in a SQLite file or at a URL."""
    return SqlRegistry(file if "://" in file else f"sqlite:///{file}")


def prepare(registry: SqlRegistry, model: str, count: int) -> None:
    """Register versions MODEL-0 … MODEL-(count-1)."""
    registry.put_snapshots([Snapshot("s", {})])
    registry.put_definitions([Definition(f"d-{model}-{n}", model, {}, "b") for n in range(count)])
    for n in range(count):
        registry.register(Version(f"{model}-{n}", "shop", model, f"d-{model}-{n}", "s", {}, NOW))


def patch(model: str, old: str | None, new: str, **changes: Any) -> Landing:
    """A landing of one model."""
    return Landing(
        "shop", "prod", {model: old}, {model: Entry(new)}, {}, ((model,),), "apply", "w", model, NOW, **changes
    )


def land(file: str, model: str, old: str, new: str, go: str) -> None:
    """One contender of a race."""
    registry = open_(file)
    lease = registry.acquire("shop", "prod", [f"lease-{os.getpid()}"], holder="x", now=NOW, expires=NOW)
    registry.free(lease)
    print("ready", flush=True)
    while not Path(go).exists():
        time.sleep(0.001)
    try:
        print("landed", registry.land(patch(model, old or None, new)).number)
    except ConflictError as error:
        print("conflict", error)


def many(file: str, model: str, count: str) -> None:
    """Many landings beside those of others."""
    registry = open_(file)
    prepare(registry, model, int(count))
    old = None
    for n in range(int(count)):
        print(registry.land(patch(model, old, f"{model}-{n}")).number)
        old = f"{model}-{n}"


def die(file: str, at: str) -> None:
    """Kill -9 within the landing's transaction; the last moment counted is right before COMMIT."""
    registry = open_(file)
    count = 0

    def tick(*_: Any) -> None:
        nonlocal count
        if count == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    event.listen(registry.engine, "before_cursor_execute", tick)
    event.listen(registry.engine, "commit", tick)
    hold = Hold("shop", "prod", "a", "d-a-0", "s", "a-0", "rollback", "slow", "g", NOW)
    registry.land(patch("a", "a-0", "a-1", holds=(hold,)))


def freeze(file: str) -> None:
    """Be within a transaction while the test stops this process, and say how it ended."""
    from retinue.store import registry_open

    registry_open.FROZEN = 1
    registry = open_(file)
    try:
        with registry._writing() as connection:
            connection.exec_driver_sql("UPDATE stages SET number = 1")
            print("inside", flush=True)
            time.sleep(0.5)  # it is stopped here
            connection.exec_driver_sql("SELECT 1")
    except RetinueError as error:
        print(type(error).__name__, error)


def lock(file: str, seconds: str) -> None:
    """Hold the database."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    print("locked", flush=True)
    time.sleep(float(seconds))
    connection.close()


def fill(file: str) -> None:
    """Land until the disk refuses."""
    registry = open_(file)
    prepare(registry, "a", 2)
    number = 0
    try:
        while number < 2_000:
            old = f"a-{number % 2}" if number else None
            noise = {"front": {"select": "late-{x}", "note": os.urandom(8_000).hex()}}
            landing = patch("a", old, f"a-{(number + 1) % 2}")
            landing = Landing(**{**{f: getattr(landing, f) for f in Landing.__slots__}, "endpoints": noise})
            number = registry.land(landing).number
    except RetinueError as error:
        print(number, type(error).__name__, error, error.hint, sep="\n")


COMMANDS: dict[str, Callable[..., None]] = {
    "land": land,
    "many": many,
    "die": die,
    "freeze": freeze,
    "lock": lock,
    "fill": fill,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
