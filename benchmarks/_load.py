"""Loads a server and measures what its clients see: `_load.c`, compiled once at need, or a slower Python stand-in.

The C program is the real thing: it sends what any of our servers can answer with a third of a core, and it has an
open loop whose latencies count from when a request was due. Where there is no C compiler the Python loop is used,
closed loop only; then the load is the limit for the fastest servers, and every report says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
Wire = Literal["h1", "h2"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests and the order in which they are sent, over and over."""

    texts: tuple[bytes, ...]
    order: tuple[int, ...]
    wire: Wire = "h1"

    def packed(self) -> bytes:
        """As `_load.c` reads it."""
        parts = [struct.pack("<I", len(self.texts))]
        for text in self.texts:
            parts += [struct.pack("<I", len(text)), text]
        return b"".join([*parts, struct.pack(f"<I{len(self.order)}I", len(self.order), *self.order)])


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of load. Times are milliseconds; `cpu` and `load_cpu` CPU seconds of server and load."""

    answered: int
    failed: int
    late: int  # open loop: were due and had no answer at the end
    seconds: float
    rate: float  # answers a second
    cpu: float
    load_cpu: float
    p50: float
    p99: float
    max: float
    bad: str = ""

    @property
    def micros(self) -> float:
        """CPU microseconds of the server per answer."""
        return self.cpu / max(self.answered, 1) * 1e6


class LoadFailedError(Exception):
    """The server did not answer as it should."""


def traffic(texts: Sequence[bytes], *, zipf: float | None = None, seed: int = 0, wire: Wire = "h1") -> Traffic:
    """Texts in a fixed random order of 65,536 places, by Zipf's law with exponent `zipf` if given."""
    rng = random.Random(seed)
    weights = None if zipf is None else [1 / rank**zipf for rank in range(1, len(texts) + 1)]
    return Traffic(tuple(texts), tuple(rng.choices(range(len(texts)), weights, k=65_536)), wire)


@cache
def program() -> Path | None:
    """The compiled load generator; None where nothing compiles it."""
    source = HERE / "_load.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    found = CACHE / f"load-{digest}"
    if found.exists():
        return found
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder) / "load"
        if subprocess.run([compiler, "-O2", "-o", str(made), str(source)], check=False).returncode:
            return None
        made.rename(found)
    return found


def describe() -> str:
    """Which load generator is used, for the head of a report."""
    return "compiled load generator" if program() else "Python load generator (no C compiler: it may be the limit)"


def load(
    port: int,
    what: Traffic,
    *,
    connections: int,
    seconds: float,
    warmup: float = 0.2,
    rate: float = 0.0,
    pids: Sequence[int] = (),
) -> Measured:
    """Load 127.0.0.1:`port` from this process's cores; `rate` 0 is a closed loop. Raises LoadFailedError."""
    binary = program()
    if binary is None:
        if what.wire == "h2":
            raise LoadFailedError("gRPC is loaded by the compiled load generator only; install a C compiler")
        found = _load_in_python(port, what, connections, seconds, pids)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(what.packed())
            file.flush()
            numbers = [str(value) for value in (port, connections, seconds, warmup, rate)]
            command = [str(binary), *numbers, what.wire, file.name, *map(str, pids)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=seconds + warmup + 60)
        if done.returncode:
            raise LoadFailedError(f"the load generator ended with {done.returncode}")
        values = json.loads(done.stdout)
        found = Measured(**{name: values[name] for name in Measured.__slots__})
    if found.answered == 0 or found.failed > found.answered // 1000:
        raise LoadFailedError(f"{found.failed} of {found.answered + found.failed} requests failed: {found.bad}")
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU seconds these processes have used so far; one that has ended counts nothing."""
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime(~pid << 3 | 2)  # Linux: the CPU clock of another process
        except OSError:
            continue
    return total


def _load_in_python(port: int, what: Traffic, connections: int, seconds: float, pids: Sequence[int]) -> Measured:
    poll = select.epoll()
    lines: dict[int, tuple[socket.socket, list[float]]] = {}
    order, at = what.order, 0
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines[connection.fileno()] = (connection, [time.perf_counter()])
        poll.register(connection, select.EPOLLIN)
        connection.sendall(what.texts[order[at % len(order)]])
        at += 1
    waited: list[float] = []
    failed, bad = 0, ""
    cpu, own, began = cpu_seconds(pids), time.process_time(), time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        for descriptor, _ in poll.poll():
            connection, since = lines[descriptor]
            answer = _answer(connection)
            if answer.startswith(b"HTTP/1.1 200"):
                waited.append((now := time.perf_counter()) - since[0])
            else:
                failed, bad = failed + 1, answer[:300].decode("latin-1")
            since[0] = now
            connection.sendall(what.texts[order[at % len(order)]])
            at += 1
    taken = time.perf_counter() - began
    cpu, own = cpu_seconds(pids) - cpu, time.process_time() - own
    poll.close()
    for connection, _ in lines.values():
        connection.close()
    waited.sort()
    n = len(waited)
    p50, p99, most = (waited[min(int(share * n), n - 1)] * 1e3 if n else 0.0 for share in (0.5, 0.99, 1.0))
    return Measured(n, failed, 0, taken, n / taken, cpu, own, p50, p99, most, bad)


def _answer(connection: socket.socket) -> bytes:
    """One whole answer: to the length that its head says."""
    data = connection.recv(1 << 18)
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            missing = int(line[15:]) - len(body)
            while missing > 0:
                more = _more(connection)
                data, missing = data + more, missing - len(more)
    return data


def _more(connection: socket.socket) -> bytes:
    more = connection.recv(1 << 18)
    if not more:
        raise LoadFailedError("the server closed a connection in the middle of an answer")
    return more
