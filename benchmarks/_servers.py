"""Starts servers on a core of their own and ends them for sure, whatever processes they have started meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def cores() -> tuple[int, int]:
    """The core for the servers and the core for the load; the same where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def pin(core: int) -> None:
    """This process and what it starts from now on run on this core."""
    os.sched_setaffinity(0, {core})


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


class Server:
    """A started server; its own are all processes of its session, or with its mark in their environment."""

    def __init__(
        self, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        """Start `command` on the servers' core, in a session of its own, with its output in `log`."""
        core = cores()[0]
        mark = uuid.uuid4().hex
        self._mark = mark.encode()  # some servers' children leave the session, others write over their environment
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environ or {}), "RETINUE_BENCHMARK": mark},
            )

    def pids(self) -> list[int]:
        """Its processes that run now."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ours = int(fields[3]) == self.process.pid or self._mark in (folder / "environ").read_bytes()
                if ours and fields[0] != "Z":
                    found.append(int(folder.name))
        return found

    def wait(self, port: int, patience: float = 120.0) -> None:
        """Until something accepts at `port`. Raises RuntimeError with the end of its log when nothing does."""
        ends = time.monotonic() + patience
        while time.monotonic() < ends:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"the server did not come up:\n{self.tail()}")

    def tail(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-2000:]

    def end(self) -> None:
        """Ask all its processes to end, then make them; some servers' children outlive the asking."""
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            ends = time.monotonic() + patience
            while time.monotonic() < ends:
                self.process.poll()
                if not self.pids():
                    self.process.wait()
                    return
                time.sleep(0.05)


@contextlib.contextmanager
def started(
    command: Sequence[str],
    log: Path,
    port: int | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Server]:
    """A server for as long as the block lasts; with `port`, once it accepts."""
    server = Server(command, log, environ, folder)
    try:
        if port is not None:
            server.wait(port)
        yield server
    finally:
        server.end()
