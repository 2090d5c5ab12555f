"""Worker processes: one per environment, many models each, over one socket pair; restarted, watched, resent.

A worker answers its frames in order, so the first unanswered frame is the one it is at. When the process dies,
that frame is tried once more after the restart, then fails; the frames behind it were never started and are resent.
A model that kills its worker `MAX_KILLS` times is quarantined; its siblings go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import retinue_worker
from retinue.core.errors import InferenceError, RetinueError, UnavailableError
from retinue_worker import frames, tensor

MAX_KILLS = 3
FORGET = 600.0  # seconds after which an earlier kill no longer counts
LOAD_TIMEOUT = 120.0  # seconds; importing a framework from a cold disk counts
_START = "from retinue_worker.__main__ import main\nimport sys\nsys.exit(main(sys.argv[1:]))\n"

Answer = Callable[[dict[str, Any] | None, RetinueError | None], None]


@dataclass(slots=True)
class Job:
    """One frame on its way: `attempts` counts the worker processes that died over it."""

    header: dict[str, Any]
    body: bytes
    answer: Answer
    timeout: float
    attempts: int = 0
    reload: bool = False  # repeated for the restarted process; nobody waits for it


@dataclass(slots=True)
class Hosted:
    """A model that a worker hosts: its load frame, to repeat after a restart, and how often it killed the process."""

    header: dict[str, Any]
    kills: int = 0
    last_kill: float = 0.0
    reason: str | None = None


def worker_folder(cache: Path) -> Path:
    """A folder that holds `retinue_worker` and nothing else, runnable by `python -I FOLDER`; made once per content."""
    source = Path(retinue_worker.__file__).parent
    files = sorted(source.glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    folder = cache / "worker" / digest.hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
        (new / "retinue_worker").mkdir()
        for file in files:
            shutil.copy(file, new / "retinue_worker" / file.name)
        (new / "__main__.py").write_text(_START, encoding="utf-8")
        try:
            new.rename(folder)
        except OSError:  # another gateway was first
            shutil.rmtree(new)
    return folder


@dataclass(slots=True)
class Worker:
    """The worker process of one environment as its gateway sees it. Use on the loop's thread only."""

    python: Path
    folder: Path
    log: Path
    run_timeout: float
    restarts: int = 0
    _hosted: dict[str, Hosted] = field(default_factory=dict)
    _jobs: deque[Job] = field(default_factory=deque)  # sent to the process, in the order of their answers
    _waiting: list[Job] = field(default_factory=list)  # to be sent when the process is back
    _process: subprocess.Popen[bytes] | None = None
    _transport: asyncio.Transport | None = None
    _watchdog: asyncio.TimerHandle | None = None
    _starting: bool = False  # under way, or waiting for the back-off
    _restart: asyncio.TimerHandle | None = None
    _failures: int = 0  # deaths since the last answer: the back-off grows with them
    _sequence: int = 0
    _hung: bool = False
    _closed: bool = False

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    async def load(self, model: str, path: Path, format: str, signature: dict[str, Any]) -> None:
        """Load a model, then run it once on synthetic rows. Raises UnavailableError saying why it cannot serve."""
        header = {"op": "load", "model": model, "path": str(path), "format": format, "signature": signature}
        self._hosted[model] = Hosted(header)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def loaded(_: dict[str, Any] | None, error: RetinueError | None) -> None:
            if ready.done():
                return
            if error is None:
                ready.set_result(None)
            else:
                self._hosted.pop(model, None)
                ready.set_exception(UnavailableError(error.message, hint=error.hint))

        self._send(Job(header, b"", loaded, LOAD_TIMEOUT))
        await ready

    def run(self, model: str, columns: dict[str, Any], answer: Answer) -> None:
        """Run one batch; `answer` gets the outputs, InferenceError, or UnavailableError when the worker is lost."""
        hosted = self._hosted.get(model)
        if hosted is None or hosted.reason:
            reason = hosted.reason if hosted else "not loaded"
            answer(None, UnavailableError(f"the model is not available: {reason}"))
            return
        self._send(Job({"op": "run", "model": model}, tensor.encode(columns), answer, self.run_timeout))

    def unload(self, model: str) -> None:
        """Forget a model."""
        if self._hosted.pop(model, None) and self._transport is not None:
            self._send(Job({"op": "unload", "model": model}, b"", _ignore, LOAD_TIMEOUT))

    def close(self) -> None:
        """End the process; what is in flight fails."""
        self._closed = True
        self._disarm()
        if self._restart:
            self._restart.cancel()
        if self._transport:
            self._transport.abort()
        self._reap()
        self._fail([*self._jobs, *self._waiting], "the gateway is stopping")

    # ------------------------------------------------------------------------------------------------ the process
    def _send(self, job: Job) -> None:
        if self._transport is None:
            self._waiting.append(job)
            if not self._starting and not self._closed:
                self._start()
            return
        self._sequence += 1
        job.header["seq"] = self._sequence
        self._jobs.append(job)
        self._transport.write(frames.encode(job.header, job.body))
        if len(self._jobs) == 1:
            self._arm()

    def _start(self) -> None:
        self._restart = None
        self._starting = True
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if key in os.environ
        }
        environment["OMP_NUM_THREADS"] = "1"
        command = [str(self.python), "-I", str(self.folder), "serve", "--fd", str(theirs.fileno())]
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
        except OSError as error:
            ours.close()
            self._starting = False
            jobs, self._waiting = self._waiting, []
            self._fail(jobs, f"its environment's python does not start: {error}")
            return
        finally:
            theirs.close()
        task = loop.create_task(loop.create_unix_connection(lambda: _Link(self), sock=ours))
        task.add_done_callback(_consume)

    def connected(self, transport: asyncio.Transport) -> None:
        """The socket is up: reload what was hosted, then send what waited."""
        self._starting = False
        self._transport = transport
        waiting, self._waiting = self._waiting, []
        new = {job.header["model"] for job in waiting if job.header["op"] == "load"}
        for model, hosted in list(self._hosted.items()):
            if model not in new and hosted.reason is None:
                self._send(Job(dict(hosted.header), b"", _reloaded(hosted), LOAD_TIMEOUT, reload=True))
        for job in waiting:
            self._send(job)

    def received(self, header: dict[str, Any], body: bytes) -> None:
        """An answer to the first unanswered frame."""
        if not self._jobs or header.get("seq") != self._jobs[0].header["seq"]:
            self._kill()
            return
        job = self._jobs.popleft()
        self._failures = 0
        self._arm()
        if "error" in header:
            job.answer(None, InferenceError(str(header["error"])))
            return
        try:
            job.answer(tensor.decode(body) if body else {}, None)
        except tensor.TensorError as error:
            job.answer(None, InferenceError(str(error)))

    def lost(self) -> None:
        """The process is gone: count it against the frame it was at, restart, resend the rest."""
        self._transport = None
        self._disarm()
        self._reap()
        if self._closed:
            return
        self.restarts += 1
        self._failures += 1
        jobs, self._jobs = self._jobs, deque()
        if jobs and not self._spare(jobs[0]):
            jobs.popleft()
        self._hung = False
        self._waiting = [job for job in jobs if not job.reload] + self._waiting
        self._keep_available()
        delay = min(0.02 * 2**self._failures, 10.0)
        if self._waiting or any(hosted.reason is None for hosted in self._hosted.values()):
            self._starting = True
            self._restart = asyncio.get_running_loop().call_later(delay, self._start)

    def _spare(self, job: Job) -> bool:
        """Whether the frame the process died over may be tried once more; if not, it is answered here."""
        job.attempts += 1
        what = f"did not answer within {job.timeout:g} s" if self._hung else "ended its worker process"
        hosted = self._hosted.get(job.header["model"])
        if hosted is not None:
            now = asyncio.get_running_loop().time()
            hosted.kills = 1 if now - hosted.last_kill > FORGET else hosted.kills + 1
            hosted.last_kill = now
            if hosted.kills >= MAX_KILLS:
                hosted.reason = f"quarantined: it {what} {hosted.kills} times"
        if job.reload or (job.attempts < 2 and not self._hung):
            return True
        job.answer(None, UnavailableError(f"the model {what}", hint=f"Its output is in {self.log}."))
        return False

    def _keep_available(self) -> None:
        """Runs of quarantined models that wait are answered now."""
        keep: list[Job] = []
        for job in self._waiting:
            hosted = self._hosted.get(job.header["model"])
            if job.header["op"] == "run" and (hosted is None or hosted.reason):
                reason = hosted.reason if hosted else "not loaded"
                job.answer(None, UnavailableError(f"the model is not available: {reason}"))
            else:
                keep.append(job)
        self._waiting = keep

    def _fail(self, jobs: list[Job], why: str) -> None:
        self._jobs.clear()
        self._waiting = []
        for job in jobs:
            job.answer(None, UnavailableError(why))

    def _arm(self) -> None:
        self._disarm()
        if self._jobs:
            self._watchdog = asyncio.get_running_loop().call_later(self._jobs[0].timeout, self._bark)

    def _disarm(self) -> None:
        if self._watchdog:
            self._watchdog.cancel()
            self._watchdog = None

    def _bark(self) -> None:
        self._hung = True
        self._kill()

    def _kill(self) -> None:
        if self._process:
            self._process.kill()

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()


class _Link(asyncio.Protocol):
    """The gateway's end of the socket pair."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._decoder = frames.Decoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._worker.connected(self._transport)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        try:
            for header, body in self._decoder.feed(data):
                self._worker.received(header, body)
        except frames.FrameError:
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has gone."""
        self._worker.lost()


def _reloaded(hosted: Hosted) -> Answer:
    def answer(_: dict[str, Any] | None, error: RetinueError | None) -> None:
        if error is not None:
            hosted.reason = error.message

    return answer


def _ignore(_: dict[str, Any] | None, __: RetinueError | None) -> None:
    return None


def _consume(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError, OSError):
        task.result()
