"""One worker process: started, watched, restarted with back-off; its frames, sent in order and resent.

A worker answers in order, so the first unanswered frame is the one it is at. When the process dies, that frame is
tried once more after the restart, then fails; the frames behind it were never started and are resent. After a
restart a model is loaded again when a batch for it comes, the others one by one while there is nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
from collections import deque
from typing import Any, cast

from retinue.core.errors import InferenceError, RetinueError, UnavailableError
from retinue.gateway.demotion import out_of_memory_kills
from retinue.gateway.hosting import LOAD_TIMEOUT, Hosted, Job, Launch, spawn
from retinue_worker import frames, tensor
from retinue_worker.arena import SMALLEST, Arena

BACK_OFF = 10.0  # seconds at most between a death and the restart
REST = 10.0  # seconds without a batch after which the shared memory's pages are given back


class WorkerProcess:
    """One process and what was sent to it. Use on the loop's thread only."""

    def __init__(self, launch: Launch, hosted: dict[str, Hosted]) -> None:
        self._launch = launch
        self._hosted = hosted  # shared with the other processes of the environment
        self._loaded: set[str] = set()  # what this process has been told to load
        self._jobs: deque[Job] = deque()  # sent to the process, in the order of their answers
        self._waiting: list[Job] = []  # to be sent when the process is back
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._memory: Arena | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._starting = False  # under way, or waiting for the back-off
        self._failures = 0  # deaths since the last run that was answered: the back-off grows with them
        self._sequence = 0
        self._starved = out_of_memory_kills()  # as of the last death
        self._hung = False
        self._recycling = False
        self._closed = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    @property
    def load(self) -> int:
        """Frames that are before a new one; many when the process is not there."""
        return len(self._jobs) + len(self._waiting) + (0 if self._transport else 1000)

    def send(self, job: Job) -> None:
        """Send a frame, now or when the process is there; its model is loaded first if need be."""
        if self._closed:
            job.answer(None, UnavailableError("the gateway is stopping"))
            return
        if self._transport is None:
            self._waiting.append(job)
            if not self._starting:
                self._start()
            return
        model = job.header["model"]
        if job.header["op"] == "load":
            self._loaded.add(model)
        elif model not in self._loaded and model in self._hosted:
            self._reload(model)
        self._write(job)

    def forget(self, model: str) -> None:
        """Unload a model."""
        if model in self._loaded and self._transport is not None:
            self._loaded.discard(model)
            self._write(Job({"op": "unload", "model": model}, None, _ignore, LOAD_TIMEOUT))

    def recycle(self) -> None:
        """Replace the process by a fresh one, unless it is at something."""
        if self._transport is not None and not self._jobs:
            self._recycling = True
            self._transport.abort()

    def close(self) -> None:
        """End the process; what is in flight fails."""
        self._closed = True
        self._disarm()
        for timer in (self._restart, self._resting):
            if timer:
                timer.cancel()
        if self._transport:
            self._transport.abort()
        self._reap()
        self._fail([*self._jobs, *self._waiting], "the gateway is stopping")

    # ------------------------------------------------------------------------------------------------- the frames
    def _write(self, job: Job) -> None:
        assert self._transport is not None
        self._sequence += 1
        header = job.header = {"op": job.header["op"], "model": job.header["model"], **job.header}
        header["seq"] = self._sequence
        try:
            body = self._body(job)
        except tensor.TensorError as error:
            job.answer(None, InferenceError(str(error)))
            return
        self._jobs.append(job)
        self._transport.write(frames.encode(header, body))
        if len(self._jobs) == 1:
            self._arm()

    def _body(self, job: Job) -> bytes:
        """The batch for the frame; empty when it lies in shared memory."""
        if job.columns is None:
            return b""
        parts, size = tensor.pack(job.columns)
        hosted = self._hosted.get(job.header["model"])
        room = max(size, hosted.answer_bytes if hosted else 0)
        if room >= SMALLEST and self._memory is not None:
            start = self._memory.take(room)
            if start is not None:
                job.span = start
                job.header |= {"at": start, "size": self._memory.write(start, parts), "room": room}
                return b""
        return b"".join(parts)

    def received(self, header: dict[str, Any], body: bytes) -> None:
        """An answer to the first unanswered frame."""
        if not self._jobs or header.get("seq") != self._jobs[0].header["seq"]:
            self._kill()
            return
        job = self._jobs.popleft()
        self._arm()
        hosted = self._hosted.get(job.header["model"])
        try:
            outputs, error = self._outcome(job, header, body, hosted)
        finally:
            if job.span >= 0 and self._memory is not None:
                self._memory.give_back()
                self._rest_later()
        if not job.reload:
            self._failures = 0
        job.answer(outputs, error)
        if not self._jobs:
            self._reload_next()

    def _outcome(
        self, job: Job, header: dict[str, Any], body: bytes, hosted: Hosted | None
    ) -> tuple[dict[str, Any] | None, RetinueError | None]:
        if header.get("missing"):
            reason = hosted.reason if hosted and hosted.reason else "not loaded"
            return None, UnavailableError(f"the model is not available: {reason}")
        if "error" in header:
            return None, InferenceError(str(header["error"]))
        if hosted is not None:
            hosted.answer_bytes = header.get("large") or header.get("size") or 0
        try:
            if "size" in header and self._memory is not None and job.span >= 0:
                with self._memory.read(job.span, header["size"]) as view:
                    return tensor.decode(view), None
            return (tensor.decode(body) if body else {}), None
        except ValueError as error:
            return None, InferenceError(str(error))

    def _reload(self, model: str) -> None:
        hosted = self._hosted[model]

        def reloaded(_: dict[str, Any] | None, error: RetinueError | None) -> None:
            if error is not None:
                self._loaded.discard(model)
                hosted.set_aside(f"it does not load again: {error.message}", asyncio.get_running_loop().time())

        self._loaded.add(model)
        self._write(Job(dict(hosted.header), None, reloaded, LOAD_TIMEOUT, reload=True))

    def _reload_next(self) -> None:
        """With nothing else to do, load one more of the models that the restarted process lacks."""
        if self._transport is None or len(self._loaded) >= len(self._hosted):
            return
        for model, hosted in self._hosted.items():
            if model not in self._loaded and hosted.reason is None:
                self._reload(model)
                return

    # ------------------------------------------------------------------------------------------------ the process
    def _start(self) -> None:
        self._restart = None
        self._starting = True
        loop = asyncio.get_running_loop()
        if self._memory is None:
            self._memory = Arena()
        ours, theirs = socket.socketpair()
        try:
            self._process = spawn(self._launch, theirs.fileno(), self._memory.descriptor)
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
        """The socket is up: send what waited."""
        self._starting = False
        self._transport = transport
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            self.send(job)
        if not self._jobs:
            self._reload_next()

    def lost(self) -> None:
        """The process is gone: count it against the frame it was at, restart, resend the rest."""
        self._transport = None
        self._disarm()
        code = self._reap()
        if self._closed:
            return
        self._loaded.clear()
        self._failures += 0 if self._recycling else 1
        self.restarts += 0 if self._recycling else 1
        self._recycling = False
        jobs, self._jobs = self._jobs, deque()
        self._forget_spans(jobs)
        if jobs and not self._spare(jobs[0], code):
            jobs.popleft()
        self._hung = False
        self._waiting = [job for job in jobs if not job.reload and job.header["op"] != "unload"] + self._waiting
        self._keep_available()
        if self._waiting or any(hosted.reason is None for hosted in self._hosted.values()):
            self._starting = True
            delay = min(0.01 * 2**self._failures, BACK_OFF)
            self._restart = asyncio.get_running_loop().call_later(delay, self._start)

    def _forget_spans(self, jobs: deque[Job]) -> None:
        for job in jobs:
            if job.span >= 0 and self._memory is not None:
                self._memory.give_back()
            job.span = -1
            for key in ("at", "size", "room"):
                job.header.pop(key, None)

    def _spare(self, job: Job, code: int | None) -> bool:
        """Whether the frame the process died over may be tried once more; if not, it is answered here."""
        job.attempts += 1
        what = f"did not answer within {job.timeout:g} s" if self._hung else "ended its worker process"
        hosted = self._hosted.get(job.header["model"])
        if hosted is not None:
            # SIGKILL is also what operators send: it counts for a batch that it meets twice, or where memory ran out
            before, self._starved = self._starved, out_of_memory_kills()
            twice = job.header["op"] == "run" and job.attempts >= 2
            if self._hung or code != -signal.SIGKILL or twice or self._starved > before:
                hosted.blame(what, asyncio.get_running_loop().time())
        if job.reload or (job.attempts < 2 and not self._hung):
            return True
        job.answer(None, UnavailableError(f"the model {what}", hint=f"Its output is in {self._launch.log}."))
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

    def _rest_later(self) -> None:
        if self._resting is None:
            self._resting = asyncio.get_running_loop().call_later(REST, self._rest)

    def _rest(self) -> None:
        self._resting = None
        if self._memory is not None and not self._jobs:
            self._memory.rest()
        elif self._jobs:
            self._rest_later()

    def _kill(self) -> None:
        if self._process:
            self._process.kill()

    def _reap(self) -> int | None:
        """End what is left of the process; its exit code, negative for a signal, None when there was none."""
        process, self._process = self._process, None
        if self._closed and self._memory is not None:
            self._memory.close()
            self._memory = None
        if process is None:
            return None
        if not self._closed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.05)  # it is past closing its socket: this is a matter of microseconds
        process.kill()
        return process.wait()


class _Link(asyncio.Protocol):
    """The gateway's end of the socket pair."""

    def __init__(self, worker: WorkerProcess) -> None:
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


def _ignore(_: dict[str, Any] | None, __: RetinueError | None) -> None:
    return None


def _consume(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError, OSError):
        task.result()
