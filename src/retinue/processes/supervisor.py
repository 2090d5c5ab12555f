"""The release change: every gateway prepares beside the running release, then one shared word moves.

When all have prepared, every request admitted from then on, in any gateway, is in the new release. A release in
which a model fails to load that is healthy now is refused, and the running one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retinue.core.errors import CorruptArtifactError, RetinueError, UnavailableError
from retinue.gateway.control import WORD_SIZE, Word
from retinue.gateway.demotion import Demotions
from retinue.gateway.fleet import PROGRAM, Fleet, GatewayProcess
from retinue.gateway.logs import log_of
from retinue.gateway.meter import requests_and_errors
from retinue.processes.keeping import keep_artifacts, prune_artifacts
from retinue.processes.log_files import bound_worker_logs
from retinue.settings import Settings
from retinue.store.journal_days import lag
from retinue.store.releasefile import Pointer, ReleaseFile, pointer

WATCH = 0.05  # seconds between two looks at the release pointer
RETRY = 30.0  # seconds until a refused release is tried again
PREPARE_TIMEOUT = 300.0
GIVE_UP = 6  # gateways that die one after the other before the first ever served


@dataclass(frozen=True, slots=True)
class Served:
    """A release that gateways were told of. `path` is the supervisor's own name for its file."""

    generation: int
    pointer: Pointer
    path: Path
    models: frozenset[str]
    failed: dict[str, str]


class Supervisor:
    """One stage of one portfolio, served."""

    def __init__(
        self,
        settings: Settings,
        portfolio: str,
        stage: str,
        listeners: Sequence[socket.socket],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._settings = settings
        self._name = f"{portfolio}/{stage}"
        self._folder = settings.releases(portfolio, stage)
        self._journal = settings.journal(portfolio, stage)
        self._loop = asyncio.get_running_loop()
        self._shared = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the supervisor
        self._shared.truncate(WORD_SIZE)
        self._word = Word(self._shared.fileno(), writable=True)
        self.log = log_of(settings, "supervisor")
        self.fleet = Fleet(settings, listeners, self._shared.fileno(), self._joined, self._heard, self._died, program)
        self.demotions = Demotions(self._folder)
        self.served: Served | None = None
        self._generation = 0  # the last one that was given out
        self._wanted: Pointer | None = None
        self._refused: tuple[Pointer | None, str, float] | None = None
        self._seen: tuple[int, int, int] | None = None
        self._wake = asyncio.Event()  # something was heard
        self.stopping = asyncio.Event()

    # ------------------------------------------------------------------------------------------- release change
    async def watch(self) -> None:
        """Follow the release pointer until stopped."""
        while not self.stopping.is_set():
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH):
                    await self.stopping.wait()

    async def look(self) -> None:
        """One look at the pointer; changes the release when it names another one."""
        self.read_pointer()
        wanted = self._wanted
        if wanted is None or (self.served and self.served.pointer == wanted):
            return
        if self._refused and self._refused[0] == wanted and self._loop.time() < self._refused[2]:
            return
        try:
            await self._change(wanted)
            self._refused = None
        except RetinueError as error:
            self._refused = (wanted, str(error), self._loop.time() + RETRY)
            self.log.say("release.refused", str(error), release=wanted.number)
            self._admit_all()

    def read_pointer(self) -> None:
        """Learn which release is wanted, if the pointer has moved."""
        try:
            stat = (self._folder / "current").stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return
            self._wanted = pointer(self._folder)
            self._seen = seen
            if self.served and self.served.pointer == self._wanted:
                self._refused = None  # what was refused is no longer wanted
        except FileNotFoundError:
            return
        except (OSError, CorruptArtifactError) as error:
            self._seen = None
            self._refused = (self._wanted, str(error), self._loop.time() + RETRY)
            self.log.rarely("release.refused", str(error))

    async def _change(self, wanted: Pointer) -> None:
        """Prepare everywhere, then flip. Raises RetinueError when the release is refused."""
        generation, before = self._generation + 1, self.served
        path, actual = self._own(wanted, generation)
        if before is not None and actual != wanted:
            path.unlink(missing_ok=True)  # its file is being rewritten: the pointer will follow
            return
        self._generation = generation
        await self._keep(path)
        try:
            models, failed = await self._prepare(generation, path)
            self._refuse_loss(before, models, failed)
        except RetinueError:
            self.fleet.say({"op": "forget", "generation": generation})
            path.unlink(missing_ok=True)
            raise
        self.served = Served(generation, wanted, path, models, failed)
        self._word.set(generation)
        self.log.say("release.changed", f"release {wanted.number} is served", release=wanted.number)
        for model, why in failed.items():
            self.log.say("model.load_failed", f"{model}: {why}", model=model, release=wanted.number)
        for gateway in self.fleet.members:
            gateway.retire(generation)
        self._admit_all()
        if before is not None:
            before.path.unlink(missing_ok=True)
            self._pruning = self._loop.run_in_executor(None, prune_artifacts, self._settings)

    async def _keep(self, path: Path) -> None:
        """Once per host: copies of all artifacts, so that neither a request nor a restart needs the store."""
        missing = await self._loop.run_in_executor(None, keep_artifacts, self._settings, path)
        if missing:
            first = next(iter(missing.values()))
            self.log.say("artifacts.not_kept", f"{len(missing)} artifacts are not kept here: {first}")

    def _own(self, wanted: Pointer, generation: int) -> tuple[Path, Pointer]:
        """A name of our own for the release's file: replacing it leaves what late gateways prepare as it was."""
        source = self._folder / f"{wanted.number}.release"
        own = self._folder / "serving" / f"{os.getpid()}-{generation}.release"
        try:
            own.parent.mkdir(exist_ok=True)
            own.unlink(missing_ok=True)
            try:
                os.link(source, own)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without hard links
                shutil.copyfile(source, own)
        except OSError as error:
            raise CorruptArtifactError(f"release {wanted.number} cannot be read: {error}", where=str(source)) from error
        try:
            with ReleaseFile(own) as file:
                return own, Pointer(file.number, file.digest)
        except RetinueError:
            own.unlink(missing_ok=True)
            raise

    async def _prepare(self, generation: int, path: Path) -> tuple[frozenset[str], dict[str, str]]:
        """Have all gateways prepare; those that die meanwhile no longer count, late ones do."""
        ends = self._loop.time() + PREPARE_TIMEOUT
        while not self.stopping.is_set():
            self._wake.clear()
            for gateway in self._next(generation):
                self._ask(gateway, generation, path)
            answers = [gateway.prepared.get(generation) for gateway in self.fleet.members]
            if answers and all(answer is not None for answer in answers):
                return self._names(path), self._agree([answer for answer in answers if answer is not None])
            if self._loop.time() > ends:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
        raise UnavailableError("not all gateways could prepare the release in time")

    def _next(self, generation: int) -> list[GatewayProcess]:
        """Who prepares now: one goes first, while all others serve, for a model may kill the gateway that loads it."""
        members = self.fleet.members
        if self.served is None or any(generation in gateway.prepared for gateway in members):
            return members
        if any(generation in gateway.asked for gateway in members):
            return []
        return members[:1] if len(self.fleet.serving) >= max(1, self._settings.gateways) else []

    def _ask(self, gateway: GatewayProcess, generation: int, path: Path) -> None:
        if generation not in gateway.asked:
            gateway.asked.add(generation)
            gateway.say({"op": "prepare", "generation": generation, "path": str(path)})

    def _names(self, path: Path) -> frozenset[str]:
        """The models of a release, from its file: gateways need not send thousands of names."""
        with ReleaseFile(path) as file:
            return frozenset(file)

    def _agree(self, answers: list[dict[str, Any]]) -> dict[str, str]:
        for answer in answers:
            if "error" in answer:
                raise UnavailableError(str(answer["error"]))
        failed: dict[str, str] = {}
        for answer in answers:
            failed.update(answer["failed"])
        return failed

    def _refuse_loss(self, before: Served | None, models: frozenset[str], failed: dict[str, str]) -> None:
        if before is None:
            return
        lost = sorted(name for name in failed if name in before.models and name not in before.failed)
        if lost:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise UnavailableError(
                f"{lost[0]!r}{more}, healthy in release {before.pointer.number}, does not load: {failed[lost[0]]}",
                hint="Run `retinue rebuild` on it, or `retinue rollback`.",
            )

    # ---------------------------------------------------------------------------------------------- the gateways
    def _joined(self, gateway: GatewayProcess) -> None:
        gateway.say({"op": "demote", "versions": self.demotions.demoted})
        if self.served is not None:
            self._ask(gateway, self.served.generation, self.served.path)
        elif self._wanted is None or self._refused is not None:
            gateway.say({"op": "serve"})
        self._wake.set()

    def _heard(self, gateway: GatewayProcess, message: dict[str, Any]) -> None:
        if message["op"] == "prepared":
            gateway.prepared[message["generation"]] = message
            self._admit(gateway)
        self._wake.set()

    def _died(self, gateway: GatewayProcess, number: int, running: list[str]) -> None:
        """A gateway has ended; what it was running is held against that version if it was a crash."""
        pid, status = gateway.process.pid, gateway.process.returncode
        self.log.say("gateway.died", f"gateway {pid} ended with {status}", gateway=pid, running=running)
        if number and running and self.demotions.blame(running, number, hung=gateway.hung):
            demoted = self.demotions.demoted
            self.fleet.say({"op": "demote", "versions": demoted})
            text = f"gateways died of {demoted[-1]}: from now on it runs in a process of its own"
            self.log.say("model.demoted", text, version=demoted[-1])
        self._wake.set()

    def _admit_all(self) -> None:
        for gateway in self.fleet.members:
            self._admit(gateway)

    def _admit(self, gateway: GatewayProcess) -> None:
        """Let a gateway accept connections once it has the release that is served."""
        if gateway.serving:
            return
        if self.served is None:
            if self._refused is not None:
                gateway.say({"op": "serve"})
        elif self.served.generation not in gateway.prepared:
            self._ask(gateway, self.served.generation, self.served.path)
        else:
            gateway.say({"op": "serve"})

    async def all_serving(self) -> None:
        """Wait until every gateway accepts connections. Raises UnavailableError when they keep dying."""
        while len(self.fleet.serving) < max(1, self._settings.gateways) and not self.stopping.is_set():
            if self.fleet.failures >= GIVE_UP:
                raise UnavailableError("the gateways end as soon as they start", hint="Their errors are above.")
            await asyncio.sleep(0.01)

    async def poll(self) -> None:
        """Keep the last counts of each gateway at hand, and what workers print bounded, until stopped."""
        while not self.stopping.is_set():
            await self.fleet.poll()
            await self._loop.run_in_executor(None, bound_worker_logs, self._settings)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.stopping.wait()

    def close(self) -> None:
        """Give back the shared word and the supervisor's names of files."""
        if self.served is not None:
            self.served.path.unlink(missing_ok=True)
        self.log.close()
        self._word.close()
        self._shared.close()

    def status(self) -> dict[str, Any]:
        """What is served, wanted, refused and why; the processes and their counts."""
        gateways = []
        for gateway in self.fleet.members:
            requests, errors = requests_and_errors(gateway.meter)
            gateways.append(
                {
                    "pid": gateway.process.pid,
                    "serving": gateway.serving,
                    "requests": requests,
                    "errors": errors,
                    "workers": gateway.workers,
                    "cache": gateway.cache,
                    "journal": gateway.journal,
                    "trouble": gateway.trouble,
                }
            )
        refused = self._refused and {"release": self._refused[0] and self._refused[0].number, "why": self._refused[1]}
        return {
            "stage": self._name,
            "release": self.served.pointer.number if self.served else None,
            "wanted": self._wanted.number if self._wanted else None,
            "refused": refused,
            "models": len(self.served.models) if self.served else 0,
            "unavailable": self.served.failed if self.served else {},
            "gateways": gateways,
            "gateway_restarts": self.fleet.restarts,
            "journal_lag": lag(self._journal, time.time_ns()),
            "deaths": [asdict(death) for death in self.demotions.deaths],
            "demoted": self.demotions.demoted,
        }
