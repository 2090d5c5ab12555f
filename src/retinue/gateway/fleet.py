"""The gateway processes of one supervisor: started, heard, counted, replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from retinue.gateway.breadcrumb import Breadcrumbs, anonymous_notes
from retinue.gateway.control import Lines
from retinue.gateway.main import settings_text
from retinue.gateway.meter import Snapshot, merge, without_gauges
from retinue.settings import Settings

BACK_OFF = 5.0  # seconds at most between the death of a gateway and its replacement
UNRESPONSIVE = 30.0  # seconds without a report after which a gateway counts as hung
PROGRAM = ("-m", "retinue.gateway.main")


class GatewayProcess:
    """One gateway: its process, its lines, what it last said."""

    def __init__(self, process: subprocess.Popen[bytes], notes: int) -> None:
        self.process = process
        self.notes = notes  # descriptor of its breadcrumbs
        self.hung = False
        self.lines: Lines | None = None
        self.serving = False
        self.meter: Snapshot = {}
        self.workers: list[dict[str, Any]] = []
        self.cache: dict[str, Any] = {}
        self.journal: dict[str, Any] = {}  # what it says of its journal
        self.trouble: list[str] = []  # what a person should look at although requests are answered
        self.answered = 0  # the last poll it answered
        self.prepared: dict[int, dict[str, Any]] = {}  # what it said of each generation
        self.asked: set[int] = set()
        self.heard = asyncio.get_running_loop().time()

    def say(self, message: dict[str, Any]) -> None:
        """Tell it something."""
        if self.lines is not None:
            self.lines.say(message)

    def end(self) -> tuple[int, list[str]]:
        """Collect what is left of it: the signal that ended it (0 for none), the versions it was running."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.2)  # its lines have closed, so it is as good as gone
        self.process.kill()
        code = self.process.wait()
        crumbs = Breadcrumbs(self.notes)
        running = crumbs.running()
        crumbs.close()
        os.close(self.notes)
        return max(0, -code), running

    def retire(self, generation: int) -> None:
        """Tell it that releases before this generation are no longer needed."""
        self.prepared = {g: said for g, said in self.prepared.items() if g >= generation}
        self.asked = {g for g in self.asked if g >= generation}
        self.say({"op": "retire", "generation": generation})


class Fleet:
    """All gateways. `on_join` is called for each new one, `on_word` for what one says.

    `on_loss` is called when one has died: of which signal (0: none), while which versions ran in it.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        word: int,
        on_join: Callable[[GatewayProcess], None],
        on_word: Callable[[GatewayProcess, dict[str, Any]], None],
        on_loss: Callable[[GatewayProcess, int, list[str]], None],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._settings = settings
        self._listen = tuple(listener.fileno() for listener in listeners)
        self._word = word
        self._on_join, self._on_word, self._on_loss = on_join, on_word, on_loss
        self._program = program
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._left: Snapshot = {}  # the counters of gateways that have ended
        self._sequence = 0
        self._reported = asyncio.Event()
        self.members: list[GatewayProcess] = []
        self.restarts = 0
        self.failures = 0  # deaths since a gateway last served

    async def start(self) -> None:
        """Start one more gateway."""
        ours, theirs = socket.socketpair()
        listen, word = self._listen, self._word
        notes = anonymous_notes()
        command = [sys.executable, *self._program, "--control", str(theirs.fileno()), "--notes", str(notes)]
        command += ["--listen", *map(str, listen), "--word", str(word), "--settings", settings_text(self._settings)]
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220  a fork and exec, not a wait
                command,
                pass_fds=(theirs.fileno(), *listen, word, notes),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C goes to the supervisor alone
            )
        gateway = GatewayProcess(process, notes)
        lines = gateway.lines = Lines(lambda message: self._hear(gateway, message), lambda: self._lost(gateway))
        await self._loop.create_unix_connection(lambda: lines, sock=ours)
        self.members.append(gateway)
        self._on_join(gateway)

    def say(self, message: dict[str, Any]) -> None:
        """Tell all gateways."""
        for gateway in self.members:
            gateway.say(message)

    @property
    def serving(self) -> list[GatewayProcess]:
        """The gateways that accept connections."""
        return [gateway for gateway in self.members if gateway.serving]

    async def poll(self) -> None:
        """Ask all gateways for their counts and wait a moment for them; one that stays silent too long is killed."""
        self._sequence += 1
        self.say({"op": "stats", "seq": self._sequence})
        ends = self._loop.time() + 1.0
        asked = list(self.members)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ends):
                while any(g.serving and not self._answered(g) for g in asked):
                    self._reported.clear()
                    await self._reported.wait()
        for gateway in asked:
            if gateway.serving and self._loop.time() - gateway.heard > UNRESPONSIVE:
                gateway.hung = True
                gateway.process.kill()

    def total(self) -> Snapshot:
        """The counts of all gateways, with those of the ones that have ended."""
        return merge([self._left, *(gateway.meter for gateway in self.members)])

    async def stop(self, patience: float) -> None:
        """Let all finish what they run; after `patience` seconds they are killed."""
        self._stopping = True
        self.say({"op": "stop"})
        waits = [self._loop.run_in_executor(None, _wait, gateway.process, patience) for gateway in self.members]
        await asyncio.gather(*waits)

    def _answered(self, gateway: GatewayProcess) -> bool:
        return gateway not in self.members or gateway.answered >= self._sequence

    def _hear(self, gateway: GatewayProcess, message: dict[str, Any]) -> None:
        gateway.heard = self._loop.time()
        if message["op"] == "stats":
            gateway.meter = message["meter"]
            gateway.workers = message["workers"]
            gateway.cache = message["cache"]
            gateway.journal = message["journal"]
            gateway.trouble = message["trouble"]
            gateway.answered = message["seq"]
            self._reported.set()
            return
        if message["op"] == "serving":
            gateway.serving = True
            self.failures = 0
        self._on_word(gateway, message)

    def _lost(self, gateway: GatewayProcess) -> None:
        if self._stopping:
            return
        if gateway in self.members:
            self.members.remove(gateway)
        self._reported.set()
        number, running = gateway.end()
        self._left = merge([self._left, without_gauges(gateway.meter)])
        self.restarts += 1
        self.failures += 1
        self._on_loss(gateway, number, running)
        delay = min(0.05 * 2 ** (self.failures - 1), BACK_OFF)
        self._loop.call_later(delay, self._replace)

    def _replace(self) -> None:
        if not self._stopping:
            self._starting = self._loop.create_task(self.start())


def _wait(process: subprocess.Popen[bytes], patience: float) -> None:
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
