"""The first controller loop: compacts the journal, enforces its retention, and never disturbs the gateways.

The supervisor keeps one child, `python -m retinue.processes.controller`, nice and restarted with back-off. It only
looks; a round with work to do is a process of its own, whose memory is gone when it ends. It ends with its supervisor:
its standard input is a pipe that nobody else holds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from retinue.settings import Settings
from retinue.store.journal import list_segments
from retinue.store.journal_write import close_orphans

LOOK = 5.0  # seconds between two looks
RETAIN = 3600.0  # seconds between two rounds of retention
BACK_OFF = 60.0  # seconds at most between the controller's death and its replacement
NICE = 15

Say = Callable[[str], None]


class Controller:
    """The supervisor's side: keeps the process alive until it is stopped."""

    def __init__(self, settings: Settings, portfolio: str, stage: str, say: Say) -> None:
        self._command = [sys.executable, "-m", "retinue.processes.controller", portfolio, stage]
        self._command += ["--settings", json.dumps(asdict(settings), default=str)]
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        """Begin to keep it alive."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """End it: between two effects a kill is safe, but it is asked first."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        process = self._process
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 5.0)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _keep(self) -> None:
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
                await self._hear(self._process)
                code = await self._process.wait()
                self._say(f"the controller ended with {code} and is started again")
            except OSError as error:
                self._say(f"the controller cannot be started: {error}")
            self.restarts += 1
            failures = 0 if asyncio.get_running_loop().time() - began > BACK_OFF else failures + 1
            await asyncio.sleep(min(0.5 * 2**failures, BACK_OFF))

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        """Log what it and its rounds print, until they have ended."""
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # longer than any line of ours
                continue
            if not line:
                return
            self._say(line.decode(errors="replace").rstrip())


class Loop:
    """The process's side: look, and have a round done when there is something to do."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._folder = folder
        self._command = command
        self._retained = 0.0
        self._wait = LOOK

    def run(self, ended: Callable[[float], bool]) -> None:
        """Until `ended(seconds)`, which waits so long, says so."""
        while not ended(self._wait):
            self._wait = LOOK if self.look() else min(self._wait * 2, BACK_OFF)

    def look(self) -> bool:
        """One look; False when a round failed."""
        close_orphans(self._folder)
        now = time.monotonic()
        due = not self._retained or now - self._retained > RETAIN
        if not due and not list_segments(self._folder, closed=True):
            return True
        done = subprocess.run(self._command, stdin=subprocess.DEVNULL, check=False).returncode == 0
        if done and due:
            self._retained = now
        return done


def options(arguments: list[str]) -> tuple[Settings, str, str]:
    """Settings, portfolio and stage of a controller's command line."""
    parser = argparse.ArgumentParser(prog="python -m retinue.processes.controller")
    parser.add_argument("portfolio")
    parser.add_argument("stage")
    parser.add_argument("--settings", required=True)
    found = parser.parse_args(arguments)
    values = json.loads(found.settings)
    return Settings(**{**values, "directory": Path(values["directory"])}), found.portfolio, found.stage


def _parent_gone(seconds: float) -> bool:
    """Wait so long; True as soon as the supervisor has closed our standard input."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready)


def main(arguments: list[str]) -> int:
    """Run the loop until the supervisor has gone; returns the exit code."""
    settings, portfolio, stage = options(arguments)
    os.nice(NICE)
    with contextlib.suppress(AttributeError, OSError):  # where there is such a class: it gets what nobody else wants
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    command = [sys.executable, "-m", "retinue.processes.compacting", *arguments]
    Loop(settings.journal(portfolio, stage), command).run(_parent_gone)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
