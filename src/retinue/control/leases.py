"""Leases beyond the registry's: who holds one, whether that process still lives, renewal, what the killed left.

A holder is named `ada@laptop pid 4711 [6f0c21d9-883120]`: the mark tells the machine as this boot and this
container know it, and when the process started. Whoever shares the machine can say whether it is gone, so a
killed apply never makes the next one wait for its lease to expire.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from retinue.core.errors import StateError
from retinue.core.identity import digest
from retinue.core.state import Lease
from retinue.store.base import Registry

LEASE_SECONDS = 60.0
_UNTOLD: dict[str, Lease] = {}
"""Apply id → its lease, of applies of this very process whose end the database did not take."""
_MARK = re.compile(r"pid (\d+) \[([0-9a-f]+)-(\d+)\]$")


def name_holder(who: str) -> str:
    """How this process is named in leases; without `/proc` there is no mark, and only time ends its leases."""
    pid = os.getpid()
    machine, started = _machine(), _started(pid)
    mark = f" [{machine}-{started}]" if machine and started is not None else ""
    return f"{who}@{socket.gethostname()} pid {pid}{mark}"


def is_gone(holder: str) -> bool:
    """Whether the process of that name is known to have ended; False also when this machine cannot tell."""
    mark = _MARK.search(holder)
    if mark is None or mark[2] != _machine():
        return False
    return _started(int(mark[1])) != int(mark[3])


def later(now: str, seconds: float) -> str:
    """The moment that many seconds after `now`."""
    moment = datetime.strptime(now, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def tidy(registry: Registry, portfolio: str, stage: str, holder: str, now: str) -> None:
    """End what killed applies left: their leases, and their records that still say "running".

    A record is taken for abandoned when its process is gone, or when it holds no lease and is not known to live.
    """
    running = registry.applies(portfolio, stage, "running")
    for record in running:
        if record.id in _UNTOLD:
            registry.free(_UNTOLD[record.id])
    held: set[str] = set()
    for lease in registry.leases(portfolio, stage, now):
        if is_gone(lease.holder):
            registry.free(lease)
        else:
            held.add(lease.holder)
    for record in running:
        theirs = str(record.plan.get("holder", ""))
        over = is_gone(theirs) or _UNTOLD.pop(record.id, None) is not None
        if over or (theirs not in held and (theirs == holder or not _MARK.search(theirs))):
            with contextlib.suppress(StateError):  # somebody else tidies at the same time
                registry.end_apply(record.id, status="interrupted", now=now, summary={"error": "killed"})


def untold(apply_id: str, lease: Lease) -> None:
    """Remember that this apply is over though its record and its lease could not be ended: `tidy` will."""
    _UNTOLD[apply_id] = lease


def _machine() -> str:
    """This boot of this machine, as this container sees its processes; empty where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return digest([boot, os.readlink("/proc/self/ns/pid")])[:8]
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none (a zombie is none either)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


class LeaseKeeper:
    """Renews the lease in a thread while the apply runs; landing is refused if it is lost all the same."""

    def __init__(
        self, registry: Registry, lease: Lease, clock: Callable[[], str], seconds: float = LEASE_SECONDS
    ) -> None:
        self.registry, self.lease, self.clock, self.seconds = registry, lease, clock, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._end.wait(self.seconds / 4):
            now = self.clock()
            try:
                self.lease = self.registry.renew(self.lease, now=now, expires=later(now, self.seconds))
            except StateError:
                continue  # lost or unreachable: the landing will say so with its reason

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join()
