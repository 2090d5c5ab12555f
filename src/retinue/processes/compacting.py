"""One round of the controller, `python -m retinue.processes.compacting`: compact the journal, enforce its retention.

A process of its own, because what it imports and uses is gone when it ends.
"""

from __future__ import annotations

import sys
import time

from retinue.control.compact import compact, retain
from retinue.core.errors import LeaseHeldError, RetinueError
from retinue.processes.controller import options
from retinue.settings import Settings


def compact_once(settings: Settings, portfolio: str, stage: str) -> None:
    """One round. Raises RetinueError and OSError; nothing is lost."""
    folder = settings.journal(portfolio, stage)
    done = compact(folder)
    for name in done.damaged:
        sys.stderr.write(f"journal: segment {name} could be read in part only; it is kept as {name}.damaged\n")
    for day in retain(folder, time.time(), settings.journal_retain_days, settings.journal_retain_bytes):
        sys.stderr.write(f"journal: {day} is past its retention and was removed\n")


def main(arguments: list[str]) -> int:
    """Run one round; returns the exit code."""
    try:
        compact_once(*options(arguments))
    except LeaseHeldError:
        return 0  # somebody does it by hand
    except (RetinueError, OSError) as error:
        sys.stderr.write(f"journal: not compacted, tried again soon: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
