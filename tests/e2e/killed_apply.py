"""Applies a portfolio and kills itself with SIGKILL right after the n-th durable effect: `killed_apply.py ROOT N NOTE`.

Before it dies it notes its descendants (pid and start time), so that a test can see whether they are gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from retinue.control.effects import Effect
from retinue.project import Project
from retinue.settings import load_settings


def descendants(pid: int) -> list[tuple[int, str]]:
    """(pid, start time) of every process below `pid`."""
    found: list[tuple[int, str]] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found.append((int(child), started(int(child)) or ""))
            found += descendants(int(child))
    return found


def started(pid: int) -> str | None:
    """When a process started; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def main(root: Path, last: int, note: Path) -> None:
    effects: list[str] = []

    def on_effect(effect: Effect, what: str) -> None:
        effects.append(effect.name)
        if len(effects) == last:
            note.write_text(json.dumps({"effects": effects, "below": descendants(os.getpid())}))
            os.kill(os.getpid(), signal.SIGKILL)

    Project(root, settings=load_settings(root, {})).apply(on_effect=on_effect)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
