"""Mutated HTTP, JSON, binary-tensor and gRPC requests against a real server: no crash, no hang, no 5xx, no growth.

Valid requests of every kind are taken apart and put together wrongly: bytes flipped, cut, doubled, moved; header
fields added, repeated, contradicted (lengths, encodings, hosts, folded and bare-newline lines, chunk sizes, trailers);
JSON values replaced by other kinds; tensors whose shapes, types and lengths disagree; requests pipelined, cut by a
half-close, sent in drops. After each connection the server must have answered with whole responses of documented
statuses or have closed; a canary request on a connection of its own must be answered rightly again and again.

The same seed makes the same requests. A request that breaks a promise is made smaller as long as it still does, and
printed as Python bytes.

    python -m benchmarks.fuzz [--requests 200000] [--seed 0] [--quick] [--only http json tensor grpc]

What it cannot show: states that only long conversations reach, and what its own parser of answers does not see.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._mutant_messages import fuzz_messages
from benchmarks._mutants import KINDS, Mutant, mutants
from benchmarks._servers import started
from benchmarks._watch import Watch, megabytes

ALLOWED = frozenset(
    {200, 400, 401, 403, 404, 405, 406, 408, 411, 413, 414, 415, 417, 422, 429, 431, 501, 503, 504, 505}
)
"""Documented statuses; 500 is not among them, for no model here fails, nor 502. 503 and 504 are looked at apart."""
PATIENCE = 10.0  # seconds without a byte or an end: a hang
GROWTH = 32 * 1024**2
IN_A_ROW = 8  # mutants sent through one connection each before the canary sings


@dataclass
class Verdict:
    """What a run has shown."""

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def answers(data: bytes) -> list[int]:
    """The statuses of whole HTTP answers. Raises ValueError when the bytes are anything else."""
    found = []
    at = 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0 or not data.startswith(b"HTTP/1.1 ", at):
            raise ValueError(f"no answer: {data[at : at + 100]!r}")
        lines = data[at:end].split(b"\r\n")
        status = int(lines[0].split(b" ", 2)[1])
        lengths = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
        if status == 100:
            at = end + 4
            continue
        if len(lengths) != 1:
            raise ValueError(f"an answer with {len(lengths)} lengths: {lines!r}")
        at = end + 4 + lengths[0]
        if at > len(data) and b"HEAD" not in data:  # an answer to HEAD says a length and has no body
            at = end + 4 if data[end + 4 :].startswith(b"HTTP/1.1 ") or len(data) == end + 4 else at
        if at > len(data):
            raise ValueError(f"an answer of {lengths[0]} bytes was cut")
        found.append(status)
    return found


def send(port: int, mutant: Mutant) -> tuple[list[int], str]:
    """Send one mutant; the statuses that came back, and what was wrong with the answer ("" for nothing)."""
    data = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as link:
            with contextlib.suppress(ConnectionError):
                for part in mutant.parts:
                    link.sendall(part)
                    if len(mutant.parts) > 1:
                        time.sleep(0.0005)
                link.shutdown(socket.SHUT_WR)
            while True:
                got = link.recv(1 << 16)
                if not got:
                    break
                data += got
    except TimeoutError:
        return [], f"no answer and no end within {PATIENCE:g} s, after {data[:200]!r}"
    except ConnectionError:
        return [], ""  # cut off in the middle of what it sent: a server may
    except OSError as error:
        return [], f"{type(error).__name__}: {error}"
    try:
        statuses = answers(data)
    except ValueError as error:
        return [], "" if mutant.head else str(error)
    bad = [status for status in statuses if status not in ALLOWED]
    return statuses, f"status {bad[0]}: {data[:400]!r}" if bad else ""


def smaller(port: int, mutant: Mutant) -> Mutant:
    """The same mutant with as much left out as can be while it still breaks its promise."""
    data = b"".join(mutant.parts)
    step = max(len(data) // 2, 1)
    for _ in range(200):
        if step < 1:
            break
        for start in range(0, len(data), step):
            shorter = data[:start] + data[start + step :]
            if send(port, Mutant((shorter,), mutant.kind, mutant.head))[1]:
                data = shorter
                break
        else:
            step //= 2
    return Mutant((data,), mutant.kind, mutant.head)


class Canary:
    """A keep-alive connection whose question must always be answered rightly."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._link: socket.socket | None = None
        body = json.dumps({"rows": [{"x": 3}]}).encode()
        head = b"POST /predict/two HTTP/1.1\r\nhost: f\r\ncontent-length: %d\r\n\r\n"
        self._request = head % len(body) + body

    def sing(self) -> str:
        """ "" or what was wrong."""
        try:
            if self._link is None:
                self._link = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
            self._link.sendall(self._request)
            data = b""
            while b'"predictions"' not in data or not data.endswith(b"}"):
                got = self._link.recv(1 << 16)
                if not got:
                    raise ConnectionError("closed")
                data += got
        except OSError as error:
            self.close()
            return f"the canary was not answered: {type(error).__name__}: {error}"
        return "" if b'"predictions":[{"y":6.0}]' in data else f"the canary was answered {data[-300:]!r}"

    def close(self) -> None:
        """End the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None


def run(port: int, requests: int, seed: int, kinds: list[str], say: Callable[[str], None] = print) -> Verdict:
    """Send so many mutants; stops after five that broke a promise."""
    verdict, canary = Verdict(), Canary(port)
    began = time.monotonic()
    for number, mutant in enumerate(mutants(random.Random(seed), kinds)):
        if number >= requests or len(verdict.broken) >= 5:
            break
        statuses, problem = send(port, mutant)
        verdict.sent += 1
        verdict.statuses.update([str(status) for status in statuses] or ["closed"])
        if problem:
            small = smaller(port, mutant)
            verdict.broken.append(f"{mutant.kind} #{number}: {problem}\n    {b''.join(small.parts)!r}"[:3000])
        if number % IN_A_ROW == 0 and (wrong := canary.sing()):
            verdict.broken.append(f"after #{number}: {wrong}\n    {b''.join(mutant.parts)!r}"[:3000])
        if number and number % 20_000 == 0:
            say(f"  {number:,} sent, {number / (time.monotonic() - began):,.0f}/s")
    canary.close()
    return verdict


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[Any, Any]]:
    """A server to be fuzzed: its record, its processes."""
    from benchmarks._fuzzed import publish

    from retinue.gateway.main import settings_text
    from retinue.gateway.record import read_record

    settings = publish(folder, grpc_port=0)
    driver = (
        "import sys; from retinue.gateway.main import _settings; from retinue.processes.serve import serve; "
        "serve(_settings(sys.argv[1]), 'fuzz', 'prod')"
    )
    with started([sys.executable, "-c", driver, settings_text(settings)], folder / "serve.log") as server:
        while "Serving" not in server.tail():
            if server.process.poll() is not None:
                raise RuntimeError(server.tail())
            time.sleep(0.05)
        yield read_record(settings.releases("fuzz", "prod")), server


def fuzz(requests: int, seed: int, kinds: list[str], grpc: bool = True) -> list[str]:
    """Serve and fuzz, gRPC with a quarter as many calls; what was broken, with the report printed."""
    import httpx

    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (record, server):
        if kinds:
            run(record.port, min(requests, 500), seed + 1, kinds)  # what a server takes once, it takes before we look
        with Watch(lambda: record.gateways, 0.2) as watch:
            verdict = run(record.port, requests, seed, kinds) if kinds else Verdict()
            codes: Counter[str] = Counter()
            if grpc and record.grpc_port is not None:
                codes, problems = fuzz_messages(record.grpc_port, max(requests // 4, 1), seed)
                verdict.broken += problems
        status = httpx.get(f"{record.admin_url}/status", timeout=10).json()
        said = server.tail()
    broken = list(verdict.broken)
    if status["gateway_restarts"]:
        broken.append(f"{status['gateway_restarts']} gateways died")
    if "Traceback" in said:
        broken.append(f"the server said\n{said}")
    growth = max((max(series.values[-5:]) - series.values[0] for series in watch.memory.values()), default=0.0)
    if growth > GROWTH:
        broken.append(f"memory grew by {megabytes(growth)}")
    told = ", ".join(f"{name} × {count:,}" for name, count in verdict.statuses.most_common())
    print(f"{verdict.sent:,} mutants of seed {seed}: {told}; memory {megabytes(growth)} higher")
    if codes:
        told = ", ".join(f"{name} × {count:,}" for name, count in codes.most_common())
        print(f"{codes.total():,} gRPC calls: {told}")
    elif grpc:
        print("no gRPC door here")
    return broken


def main() -> int:
    """Fuzz; the exit code is 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[*KINDS, "grpc"], choices=[*KINDS, "grpc"])
    parser.add_argument("--quick", action="store_true", help="4,000 requests")
    options = parser.parse_args()
    kinds = [kind for kind in options.only if kind != "grpc"]
    broken = fuzz(4_000 if options.quick else options.requests, options.seed, kinds, "grpc" in options.only)
    for text in broken:
        print(f"BROKEN: {text}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
