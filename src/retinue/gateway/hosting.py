"""What a worker process is told and what is remembered of it: its start, its frames, whom its models killed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinue.core.errors import RetinueError

MAX_KILLS = 3
FORGET = 600.0  # seconds after which an earlier kill no longer counts
QUARANTINE = 60.0  # seconds until the first further chance; doubles
LONGEST_QUARANTINE = 3600.0
LOAD_TIMEOUT = 120.0  # seconds; importing a framework from a cold disk counts

Answer = Callable[[dict[str, Any] | None, RetinueError | None], None]


@dataclass(frozen=True, slots=True)
class Launch:
    """How the processes of an environment are started."""

    python: Path
    folder: Path
    log: Path


@dataclass(slots=True)
class Job:
    """One frame on its way: `attempts` counts the worker processes that died over it."""

    header: dict[str, Any]
    columns: dict[str, Any] | None  # kept until it is answered: it may have to be sent again
    answer: Answer
    timeout: float
    attempts: int = 0
    reload: bool = False  # repeated for the restarted process; nobody waits for it
    span: int = -1  # where its shared memory begins; -1 for none


@dataclass(slots=True)
class Hosted:
    """A model that processes host: its load frame, to repeat after a restart, and how often it killed one."""

    header: dict[str, Any]
    label: str
    kills: int = 0
    last_kill: float = 0.0
    reason: str | None = None
    until: float = 0.0  # the loop's time of its next chance
    sentence: float = QUARANTINE
    answer_bytes: int = 0  # of its last large answer

    def blame(self, what: str, now: float) -> None:
        """A process died of this model."""
        self.kills = 1 if now - self.last_kill > FORGET else self.kills + 1
        self.last_kill = now
        if self.kills >= MAX_KILLS:
            self.set_aside(f"quarantined: it {what} {self.kills} times", now)

    def set_aside(self, reason: str, now: float) -> None:
        """No run until its next chance, which comes later each time."""
        self.reason = reason
        self.until = now + self.sentence
        self.sentence = min(self.sentence * 2, LONGEST_QUARANTINE)

    def another_chance(self, now: float) -> bool:
        """Whether its time is over; then it is let in again, and one more kill is enough."""
        if now < self.until:
            return False
        self.reason = None
        self.kills, self.last_kill = MAX_KILLS - 1, now
        return True


def spawn(launch: Launch, link: int, memory: int) -> subprocess.Popen[bytes]:
    """Start the process with its end of the socket pair and the shared memory. Raises OSError."""
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    environment["OMP_NUM_THREADS"] = "1"
    command = [str(launch.python), "-I", str(launch.folder), "serve", "--fd", str(link), "--memory", str(memory)]
    with launch.log.open("ab") as log:
        return subprocess.Popen(
            command,
            pass_fds=(link, memory),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
