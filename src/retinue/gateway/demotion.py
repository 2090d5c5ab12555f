"""Versions that killed the gateway they ran in: counted, and from the second death on run in a worker process.

Kept in a small file beside the releases, so that a restarted supervisor does not have to learn it again. A version
is immutable, so it stays demoted; the next version of its model starts anew. Deleting the file forgives all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

DEATHS = 2  # from this one on it runs in a process of its own: one may be a fault of the machine
MAX_KEPT = 1000
FILE = "demoted.json"
_CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGFPE", "SIGBUS", "SIGILL", "SIGTRAP", "SIGSYS"})


@dataclass(frozen=True, slots=True)
class Death:
    """What is known of a version that gateways died of: how often, and of which signal last."""

    version: str
    deaths: int
    signal: str


class Demotions:
    """Counts deaths by version. `folder` is the stage's folder of releases."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._deaths: dict[str, Death] = _read(self._path)
        self._out_of_memory = out_of_memory_kills()

    @property
    def demoted(self) -> list[str]:
        """The versions that must not run inside a gateway."""
        return [death.version for death in self._deaths.values() if death.deaths >= DEATHS]

    @property
    def deaths(self) -> Sequence[Death]:
        """All that is known, the latest last."""
        return list(self._deaths.values())

    def blame(self, versions: Iterable[str], number: int, *, hung: bool) -> bool:
        """A gateway was ended by signal `number` while these versions ran in it. Returns whether one is now demoted.

        SIGKILL is what operators send: it counts only if the supervisor sent it to a gateway that hung, or if the
        kernel has killed for lack of memory since the last death.
        """
        before, self._out_of_memory = self._out_of_memory, out_of_memory_kills()
        name = signal.Signals(number).name if number in signal.valid_signals() else str(number)
        if number == signal.SIGKILL:
            name = "hung" if hung else "out of memory" if self._out_of_memory > before else ""
        if name not in _CRASHES and name not in ("hung", "out of memory"):
            return False
        demoted = self.demoted
        for version in versions:
            known = self._deaths.pop(version, None)
            self._deaths[version] = Death(version, known.deaths + 1 if known else 1, name)
        self._keep()
        return self.demoted != demoted

    def _keep(self) -> None:
        while len(self._deaths) > MAX_KEPT:
            del self._deaths[next(iter(self._deaths))]
        scratch = self._path.with_name(f".{FILE}.{os.getpid()}")
        try:
            scratch.write_bytes(orjson.dumps([asdict(death) for death in self._deaths.values()]))
            scratch.replace(self._path)
        except OSError:  # it holds for this supervisor's life at least
            scratch.unlink(missing_ok=True)


def out_of_memory_kills() -> int:
    """How many processes this kernel has killed for lack of memory since it started; 0 where that is not told."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def _read(path: Path) -> dict[str, Death]:
    """What an earlier supervisor learnt; nothing when the file is not there or damaged."""
    try:
        found = [Death(str(d["version"]), int(d["deaths"]), str(d["signal"])) for d in orjson.loads(path.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {death.version: death for death in found}
