"""Where the microseconds of one request go: door, decode, check, run, encode, journal, write.

A whole gateway in this process, without sockets: requests are handed to its connections as bytes and the bytes of the
answers are taken from a transport that throws them away. Functions at the borders of the stages are wrapped with a
clock that counts the time of each without what it calls; what the clock itself costs is measured and taken off.

    python -m benchmarks.stages [--seconds 2] [--rounds 5] [--quick]

Columns: 64 requests at once (they share a batch, as under load) and one at a time (as when idle).

What it cannot show: system calls and the loop's own polling; that is the difference to CPU µs in `benchmarks.serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop
from benchmarks import _report, _world
from benchmarks._rounds import RESULTS
from benchmarks._servers import cores, pin

PATIENCE = 3000  # turns of the loop
REST = "everything between"
BORDERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "door: find the head, cut the body",
        ("gateway.connection:Connection.data_received", "gateway.doors:Doors.__call__"),
    ),
    (
        "decode: JSON to values",
        ("gateway.oip:read_object", "gateway.oip:parse", "gateway.oip_line:plain",
         "gateway.rows:table", "gateway.rows:only"),
    ),
    ("key: who asks, may they", ("gateway.access:Access.client",)),
    (
        "route: release, endpoint, member",
        ("gateway.release:PinnedRelease.choose", "gateway.release:PinnedRelease.plan",
         "gateway.release:PinnedRelease.select",
         "gateway.dataplane:DataPlane.admit", "gateway.quick:QuickPath.plan"),
    ),
    ("check: types and gaps of a row", ("gateway.values:RowCleaner.key", "gateway.plans:NodeReader.one")),
    (
        "admit: the call, its place in line",
        ("gateway.doors:Doors._predict", "gateway.doors:Doors._infer", "gateway.dataplane:DataPlane.infer",
         "gateway.quick:QuickPath.row", "gateway.quick:QuickPath.line"),
    ),
    ("queue", ("gateway.batcher:Batcher.add", "gateway.pool:LoadedModel.add")),
    (
        "batch: pick, assemble, hand back",
        ("gateway.batcher:Batcher._next", "gateway.batcher:Batcher._ran", "gateway.calls:NodeRun.ran",
         "gateway.quick:Quick.ran"),
    ),
    ("run: array and onnxruntime", ("gateway.runners:InlineRunner.run",)),
    (
        "answer: gather and encode",
        ("gateway.doors:Doors._predicted", "gateway.doors:Doors._inferred", "gateway.rows:answer", "gateway.oip:answer",
         "gateway.rows:answer_one", "gateway.doors:_Rows.body", "gateway.oip_line:Lines.body"),
    ),
    (
        "journal",
        ("gateway.recorder:Recorder.single", "gateway.recorder:Recorder.answered", "gateway.recorder:Recorder.flush"),
    ),
    ("metrics", ("gateway.dataplane:DataPlane.answered", "gateway.meter:Meter.answered", "gateway.meter:Meter.batch")),
    (
        "write: head and bytes of the answer",
        ("gateway.http:Exchange.reply", "gateway.connection:Connection.flush", "gateway.http:HttpServer._flush"),
    ),
)  # fmt: skip


class Clock:
    """CPU seconds by stage, each without those it calls; and how many calls were timed."""

    def __init__(self) -> None:
        self.spent = [0.0] * (len(BORDERS) + 1)
        self.calls = [0] * (len(BORDERS) + 1)
        self.made = [0] * (len(BORDERS) + 1)  # timed calls from here
        self._stack = [len(BORDERS)]
        self._last = 0.0

    def start(self) -> None:
        """Count from nothing."""
        self.spent[:] = [0.0] * len(self.spent)
        self.calls[:] = [0] * len(self.calls)
        self.made[:] = [0] * len(self.made)
        self._last = time.thread_time()

    def stop(self) -> None:
        """What has passed since the last border belongs to what runs now."""
        self.spent[self._stack[-1]] += time.thread_time() - self._last

    def timed(self, stage: int, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted for a stage."""
        spent, calls, made, stack, now = self.spent, self.calls, self.made, self._stack, time.thread_time

        def wrapped(*arguments: Any, **named: Any) -> Any:
            moment = now()
            caller = stack[-1]
            spent[caller] += moment - self._last
            self._last = moment
            made[caller] += 1
            stack.append(stage)
            calls[stage] += 1
            try:
                return function(*arguments, **named)
            finally:
                moment = now()
                spent[stack.pop()] += moment - self._last
                self._last = moment

        return wrapped

    def cost(self) -> tuple[float, float]:
        """Seconds that one timed call adds to its own stage, and to the one that calls it."""
        rounds = 50_000
        probe = self.timed(0, _nothing)
        self.start()
        for _ in range(rounds):
            probe()
        self.stop()
        inside, outside = self.spent[0] / rounds, self.spent[-1] / rounds
        began = time.thread_time()
        for _ in range(rounds):
            _nothing()
        return inside, max(0.0, outside - (time.thread_time() - began) / rounds)


def _nothing() -> None:
    """The function whose timing is timed."""


@contextmanager
def borders(clock: Clock) -> Iterator[list[str]]:
    """Wrap what stands at the borders; yields what is not there (any more)."""
    missing, undo = [], []
    for stage, (_, places) in enumerate(BORDERS):
        for place in places:
            module, _, path = place.partition(":")
            *owners, name = path.split(".")
            try:
                owner: Any = importlib.import_module(f"retinue.{module}")
                for part in owners:
                    owner = getattr(owner, part)
                original = vars(owner)[name]
            except (ImportError, AttributeError, KeyError):
                missing.append(place)
                continue
            if isinstance(original, staticmethod):
                setattr(owner, name, staticmethod(clock.timed(stage, original.__func__)))
            else:
                setattr(owner, name, clock.timed(stage, original))
            undo.append((owner, name, original))
    try:
        yield missing
    finally:
        for owner, name, original in undo:
            setattr(owner, name, original)


class Sink:
    """A transport that counts answers and keeps none."""

    def __init__(self) -> None:
        self.answers = 0
        self.last = b""

    def write(self, data: bytes) -> None:
        """Take the bytes of one or more answers."""
        self.answers += data.count(b"HTTP/1.1 200")
        self.last = data

    def writelines(self, parts: Sequence[bytes]) -> None:
        """Take them in pieces."""
        self.write(b"".join(parts))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known."""
        return default

    def is_closing(self) -> bool:
        """Never."""
        return False

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Whatever else a connection asks of it does nothing."""
        return lambda *arguments: None


@contextmanager
def _inside(folder: Path, members: int) -> Iterator[tuple[Any, socket.socket, Path, bytes]]:
    """A gateway of this process over a published release, our end of its control socket, the release, the key."""
    from retinue.gateway.control import WORD_SIZE, Word
    from retinue.gateway.main import Gateway

    settings = _world.publish(folder, members)
    header = _world.key(settings.releases("bench", "prod"))
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryFile() as file:
        file.truncate(WORD_SIZE)
        word = Word(file.fileno(), writable=True)
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        gateway = Gateway(settings, listener, word)
        gateway.control, gateway.word = theirs, word  # type: ignore[attr-defined]
        yield gateway, ours, settings.releases("bench", "prod") / "1.release", header
        ours.close()


async def _prepared(gateway: Any, control: socket.socket, release: Path) -> asyncio.Task[None]:
    running = asyncio.create_task(gateway.run(gateway.control))
    control.sendall(json.dumps({"op": "prepare", "generation": 1, "path": str(release)}).encode() + b"\n")
    control.setblocking(False)
    said = b""
    while b"prepared" not in said:
        said += await asyncio.get_running_loop().sock_recv(control, 4096)
    gateway.word.set(1)
    return running


async def _drive(gateway: Any, requests: Sequence[bytes], at_once: int, seconds: float) -> int:
    """Requests answered in about so many seconds, `at_once` on the way at a time."""
    connections, sink = [], Sink()
    for _ in range(at_once):
        connection = gateway._http.connection()
        connection.connection_made(sink)
        connections.append(connection)
    done, at, ends = 0, 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        before = sink.answers
        for connection in connections:
            connection.data_received(requests[at % len(requests)])
            at += 1
        turns = 0
        while sink.answers < before + at_once:
            await asyncio.sleep(0 if turns < PATIENCE else 0.001)  # a model that is being loaded needs the processor
            turns += 1
            if turns > 10 * PATIENCE:
                raise RuntimeError(f"no answer but {sink.last[:300]!r}")
        done += at_once
    for connection in connections:
        connection.connection_lost(None)
    return done


async def measure(folder: Path, options: argparse.Namespace, clock: Clock | None) -> dict[str, list[dict[str, float]]]:
    """Kind of traffic → what each round found: µs in all, or with a clock µs by stage."""
    found: dict[str, list[dict[str, float]]] = {}
    with _inside(folder, 30) as (gateway, control, release, header):
        running = await _prepared(gateway, control, release)
        gc.freeze()
        json_rows = _world.rows("/predict/score", headers=header)
        kinds = {
            "JSON ×64": (json_rows, 64),
            "JSON ×1": (json_rows, 1),
            "OIP ×64": (_world.tensors("/v2/models/score/infer", headers=header), 64),
            "upstream ×64": (_world.rows("/predict/graph", headers=header), 64),
        }
        for label, (requests, at_once) in kinds.items():
            await _drive(gateway, requests, at_once, options.seconds / 4)
            found[label] = []
            for _ in range(options.rounds):
                found[label].append(await _round(gateway, requests, at_once, options, clock))
        gateway._stop()
        await running
    return found


async def _round(
    gateway: Any, requests: Sequence[bytes], at_once: int, options: argparse.Namespace, clock: Clock | None
) -> dict[str, float]:
    seconds = options.seconds / options.rounds
    if clock is None:
        cpu = time.thread_time()
        done = await _drive(gateway, requests, at_once, seconds)
        return {"in all": (time.thread_time() - cpu) / done * 1e6}
    inside, outside = clock.cost()
    clock.start()
    done = await _drive(gateway, requests, at_once, seconds)
    clock.stop()
    values = {}
    for stage, (name, _) in enumerate(BORDERS):
        own = clock.spent[stage] - clock.calls[stage] * inside - clock.made[stage] * outside
        values[name] = max(0.0, own) / done * 1e6
    return values


def _together(
    whole: dict[str, list[dict[str, float]]], parts: dict[str, list[dict[str, float]]]
) -> dict[str, dict[str, float]]:
    found = {}
    for kind, rounds in whole.items():
        total = statistics.median(one["in all"] for one in rounds)
        values = {name: statistics.median(one[name] for one in parts[kind]) for name in parts[kind][0]}
        values[REST] = max(0.0, total - sum(values.values()))
        values["in all"] = total
        found[kind] = values
    return found


def main() -> int:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 0.2, 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    facts = _report.facts()
    pin(cores()[0])
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        whole = uvloop.run(measure(Path(folder) / "plain", options, None))
        with borders(clock) as missing:  # from the beginning: much is bound when a gateway is made
            parts = uvloop.run(measure(Path(folder) / "timed", options, clock))
    found = _together(whole, parts)
    kinds = list(found)
    print(f"{'µs per request':<38}" + "".join(f"{kind:>14}" for kind in kinds))
    for name in found[kinds[0]]:
        print(f"{name:<38}" + "".join(f"{found[kind][name]:>14.2f}" for kind in kinds))
    if missing:
        print(f"not there to be timed (counted with what calls it): {', '.join(missing)}")
    if not options.quick:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "stages.json").write_text(json.dumps({"facts": facts, "stages": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
