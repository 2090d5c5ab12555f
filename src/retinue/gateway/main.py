"""One gateway process: `python -m retinue.gateway.main`, started by the supervisor with inherited descriptors."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import signal
import socket
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from retinue.core.errors import RetinueError
from retinue.core.state import ServedModel
from retinue.gateway.access import Access
from retinue.gateway.breadcrumb import Breadcrumbs
from retinue.gateway.control import Lines, Word
from retinue.gateway.dataplane import DataPlane
from retinue.gateway.doors import Doors
from retinue.gateway.extensions import Beside
from retinue.gateway.grpc_describe import Describer
from retinue.gateway.grpc_server import GrpcServer
from retinue.gateway.http import HttpServer, Limits
from retinue.gateway.logs import log_of
from retinue.gateway.meter import Meter
from retinue.gateway.pool import Pool
from retinue.gateway.recorder import Recorder
from retinue.gateway.release import PinnedRelease, prepare
from retinue.gateway.repository import Repository
from retinue.gateway.tls import HANDSHAKE, certificate_of
from retinue.gateway.tracing import tracing_of
from retinue.settings import Settings
from retinue.store.artifacts import FsspecArtifacts

COLLECT = (50_000, 20, 100)
"""Net new containers before a collection: requests in flight are thousands of them, and none is in a circle."""


class Gateway:
    """The parts of one gateway, wired, and its half of the conversation with the supervisor."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        word: Word,
        notes: Breadcrumbs | None = None,
        grpc_listener: socket.socket | None = None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._grpc_listener = grpc_listener
        self._word = word
        self._loop = asyncio.get_running_loop()
        self._releases: dict[int, PinnedRelease] = {}  # by generation
        self._log = log_of(settings, "gateway")
        self._access = Access(self._log.say, anonymous=settings.anonymous)
        self._certificate = certificate_of(settings, self._log.say)
        self._meter = Meter()
        self._pool = Pool(
            FsspecArtifacts(settings.artifacts, settings.cache / "artifacts"), settings, self._meter.batch, notes=notes
        )
        self._recorder = Recorder(settings, tell=self._log.say)
        self._plane = DataPlane(
            self._pin,
            self._meter,
            self._recorder,
            max_queue=settings.max_queue,
            max_rows=settings.max_rows,
            timeout=settings.request_timeout,
        )
        self._pool.statistics.looks = self._plane.answers.looks
        self._plane.tracing = tracing_of(settings, self._log.rarely)
        self._pool.on_load = self._loaded
        self._restarts = 0
        self._quarantined: set[str] = set()
        self._plane.slow_after, self._plane.slow = self._log.slow_after, self._log.slow
        self._beside = Beside(self._pool.statistics, Repository(settings.repository_control))
        self._meter.in_flight = lambda: self._plane.in_flight
        limits = Limits(body=settings.max_body, request=settings.request_timeout)
        self._http = HttpServer(Doors(self._plane, self._meter, self._access, self._log, self._beside), limits)
        self._http.before_flush.append(self._recorder.flush)
        self._server: asyncio.Server | None = None
        self._grpc: GrpcServer | None = None
        self._lines = Lines(self._hear, self._stop)
        self._preparing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.ended = asyncio.Event()

    async def run(self, control: socket.socket) -> None:
        """Serve until told to stop, or until the supervisor is gone."""
        await self._loop.create_unix_connection(lambda: self._lines, sock=control)
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self._recorder.rotate)  # an erasure wants closed segments
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)  # a terminal's Ctrl-C is the supervisor's to act on
        self._clock()
        await self.ended.wait()
        self._lines.close()
        self._pool.close()
        self._recorder.close()
        if self._plane.tracing is not None:
            self._plane.tracing.close()
        self._log.close()

    def _loaded(self, served: ServedModel, seconds: float, why: str | None) -> None:
        if why is not None:
            self._log.say("model.load_failed", f"{served.name}: {why}", model=served.name, version=served.version)
        if self._plane.tracing is not None:
            self._plane.tracing.loaded(served.name, served.version, seconds, why)

    def _note_workers(self, workers: list[dict[str, Any]]) -> None:
        """Log what happened to worker processes since the last look."""
        restarts = sum(worker["restarts"] for worker in workers)
        if restarts > self._restarts:
            self._log.say("worker.died", f"{restarts - self._restarts} worker processes replace dead ones")
        self._restarts = restarts
        now = {model: why for worker in workers for model, why in worker["quarantined"].items()}
        for model in now.keys() - self._quarantined:
            self._log.say("model.quarantined", f"{model}: {now[model]}", model=model)
        self._quarantined = set(now)

    def _pin(self) -> PinnedRelease | None:
        return self._releases.get(self._word.get())

    def _clock(self) -> None:
        self._plane.expire()
        self._pool.tick()
        self._recorder.tick()
        self._access.tick()
        if self._certificate is not None:
            self._certificate.tick()
        self._loop.call_later(0.25, self._clock)

    def _hear(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "prepare":
                self._task(self._prepare(message["generation"], Path(message["path"])))
            case "serve":
                self._task(self._serve())
            case "retire":
                for generation in [g for g in self._releases if g < message["generation"]]:
                    del self._releases[generation]
                self._plane.answers.retire(release.digest for release in self._releases.values())
            case "forget":
                self._releases.pop(message["generation"], None)
            case "demote":
                self._pool.demote(message["versions"])
            case "stats":
                self._lines.say(self._stats(message["seq"]))
            case "stop":
                self._stop()

    def _task(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self, generation: int, path: Path) -> None:
        said: dict[str, Any] = {"op": "prepared", "generation": generation}
        async with self._preparing:
            try:
                release = await prepare(path, self._pool, self._pin())
                self._access.watch(self._settings.releases(release.portfolio, release.stage))
                self._recorder.follow(release.number, release.portfolio, release.stage, release.endpoints)
                self._releases[generation] = release
                said |= {"number": release.number, "digest": release.digest, "failed": release.failed}
                said["models"] = len(release.models)
            except RetinueError as error:
                said["error"] = str(error)
            except Exception as error:  # noqa: BLE001  the running release must go on being served
                said["error"] = f"{type(error).__name__}: {error}"
        self._lines.say(said)

    async def _serve(self) -> None:
        if self._server is None and not self._stopping:
            backlog = 1024  # the listener's own: without it the loop would set a shorter one
            self._server = await self._loop.create_server(
                self._http.connection,
                sock=self._listener,
                backlog=backlog,
                ssl=self._certificate.context if self._certificate is not None else None,
                ssl_handshake_timeout=HANDSHAKE if self._certificate is not None else None,
            )
            if self._grpc_listener is not None:
                await self._serve_grpc(self._grpc_listener)
            gc.freeze()  # what a gateway is made of need not be looked at by every collection
            gc.set_threshold(*COLLECT)
        self._lines.say({"op": "serving"})

    async def _serve_grpc(self, listener: socket.socket) -> None:
        describer = Describer(self._plane, self._access, self._beside)
        self._grpc = GrpcServer(self._plane, self._meter, self._access, describer, self._http)
        await self._grpc.start(listener, self._certificate.grpc_context if self._certificate is not None else None)

    def _stats(self, sequence: int) -> dict[str, Any]:
        workers = self._pool.status()
        self._note_workers(workers)
        return {
            "op": "stats",
            "seq": sequence,
            "meter": {
                **self._meter.snapshot(sum(worker["restarts"] for worker in workers)),
                **self._pool.metrics(),
                **self._recorder.metrics(),
                **self._plane.answers.metrics(),
            },
            "workers": workers,
            "journal": self._recorder.status(),
            "cache": self._pool.cache_status(),
            "trouble": [text for text in self._trouble() if text],
        }

    def _trouble(self) -> list[str | None]:
        certificate = self._certificate.trouble if self._certificate is not None else None
        return [self._access.trouble, certificate, self._recorder.trouble]

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._task(self._drain())

    async def _drain(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._grpc is not None:
            self._grpc.close()
        await self._http.drain(self._settings.request_timeout + 1)
        self.ended.set()


def settings_text(settings: Settings) -> str:
    """Settings as one command-line argument."""
    return json.dumps({field.name: getattr(settings, field.name) for field in fields(settings)}, default=str)


def _settings(text: str) -> Settings:
    values = json.loads(text)
    return Settings(**{**values, "directory": Path(values["directory"])})


async def _run(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as owned:
        control = owned.enter_context(socket.socket(fileno=options.control))
        listeners = [owned.enter_context(socket.socket(fileno=number)) for number in options.listen]
        word = Word(options.word, writable=False)
        try:
            notes = Breadcrumbs(options.notes) if options.notes is not None else None
            await Gateway(_settings(options.settings), listeners[0], word, notes, *listeners[1:]).run(control)
        finally:
            word.close()


def main(arguments: list[str]) -> int:
    """Run one gateway; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m retinue.gateway.main")
    parser.add_argument("--listen", type=int, nargs="+", required=True, help="of the ports of HTTP and, maybe, gRPC")
    for name in ("control", "word"):
        parser.add_argument(f"--{name}", type=int, required=True, help="number of an inherited descriptor")
    parser.add_argument("--notes", type=int, help="number of the inherited file that outlives a crash")
    parser.add_argument("--settings", required=True)
    options = parser.parse_args(arguments)
    sys.setswitchinterval(0.0005)  # a thread that loads a model needs its turns beside a busy loop, and gives them back
    try:
        import uvloop
    except ImportError:  # Windows has none
        asyncio.run(_run(options))
    else:
        uvloop.run(_run(options))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
