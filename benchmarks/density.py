"""Ten thousand models behind one server with a budget for a part of them: memory, hits, cold loads, neighbours.

Each model is an artifact of its own (100 different tree ensembles, each with a stamp). Traffic follows Zipf's law over
all of them, one row a request, JSON through `POST /predict/many`. In the same run: requests a second with 1, 1,000 and
all models; what the gateways really take, against the budget; how long a cold model's first answer takes, and what its
neighbours notice of loads.

    python -m benchmarks.density [--models 10000] [--budget 1GiB] [--gateways 1] [--seconds 5] [--rounds 3] [--quick]

Exits 1 when a request fails or the budget is not kept. Times are only printed: they depend on the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._load import Traffic, describe, load, traffic
from benchmarks._servers import cores, pin, started
from benchmarks._world import FEATURES, segments, signature, trees

DISTINCT = 100
HEAD_ROOM = 1.10  # of the budget, for what is measured once a second
SLACK = 16 * 2**20  # bytes: buffers and fragments, which count in a tiny budget


@dataclass(frozen=True, slots=True)
class Served:
    """A running server over some models."""

    port: int
    admin: int
    gateways: tuple[int, ...]

    def ask(self, path: str) -> Any:
        """A JSON document of the admin port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=30)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def cache(self) -> dict[str, float]:
        """The model caches of all gateways, summed."""
        total: dict[str, float] = {}
        for gateway in self.ask("/status")["gateways"]:
            for name, value in gateway["cache"].items():
                total[name] = total.get(name, 0) + value
        return total

    def taken(self) -> int:
        """Bytes of memory that are the gateways' own."""
        return sum(own(pid) for pid in self.gateways)


def own(pid: int) -> int:
    """Bytes of a process's own memory: Private_Clean and Private_Dirty."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


def publish(folder: Path, count: int, **settings: Any) -> Any:
    """A release of `count` models, each with an artifact of its own; the settings to serve it with."""
    from onnx import load_model_from_string

    from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel
    from retinue.settings import Settings
    from retinue.store.releasefile import point, write_release

    found = Settings(folder, "none", f"file://{folder}/artifacts", port=0, admin_port=0, **settings)
    graphs = [load_model_from_string(trees(count=20, depth=4, seed=seed)) for seed in range(min(count, DISTINCT))]
    models = {}
    for number in range(count):
        graph = graphs[number % len(graphs)]
        graph.doc_string = f"model {number}"
        data = graph.SerializeToString()
        digest = hashlib.sha256(data).hexdigest()
        path = folder / "artifacts" / digest[:2] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        name = f"member-s{number}"
        models[name] = ServedModel(name, f"{number:064x}", digest, "onnx", signature(FEATURES), "none", family="member")
    image = ReleaseImage("bench", "prod", 1, models, {"many": ServedEndpoint("many", "member-{segment}")})
    write_release(found.releases("bench", "prod"), image)
    point(found.releases("bench", "prod"), 1)
    return found


@contextmanager
def serving(folder: Path, count: int, **settings: Any) -> Iterator[Served]:
    """A server over `count` models."""
    from retinue.gateway.main import settings_text
    from retinue.gateway.record import read_record

    folder.mkdir(parents=True)
    found = publish(folder, count, **settings)
    driver = (
        "import sys; from retinue.gateway.main import _settings; from retinue.processes.serve import serve; "
        "serve(_settings(sys.argv[1]), 'bench', 'prod')"
    )
    with started([sys.executable, "-c", driver, settings_text(found)], folder / "serve.log") as server:
        while "Serving" not in server.tail():
            if server.process.poll() is not None:
                raise RuntimeError(server.tail())
            time.sleep(0.1)
        record = read_record(found.releases("bench", "prod"))
        assert record is not None
        yield Served(record.port, record.admin_port, tuple(record.gateways))


def fill(server: Served, what: Traffic, options: argparse.Namespace) -> None:
    """Load the server until its working set is loaded: the budget is used, or hardly anything new is asked for."""
    loads = -1000.0
    for _ in range(1 if options.quick else 30):
        cache = server.cache()
        if cache["evictions"] or cache["loads"] - loads < 0.01 * cache["loads"]:
            return
        loads = cache["loads"]
        load(server.port, what, connections=64, seconds=3.0)


def rates(folder: Path, sizes: list[int], options: argparse.Namespace) -> dict[int, float]:
    """Requests a second by number of models, all within the budget's working set, in turns; prints each."""
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for size in sizes:
        with serving(folder / f"rate-{size}", size, memory=options.budget, gateways=options.gateways) as server:
            what = traffic(segments("/predict/many", size), zipf=1.0)
            fill(server, what, options)
            for _ in range(options.rounds):
                run = load(server.port, what, connections=64, seconds=options.seconds)
                found[size].append(run.rate)
            cache = server.cache()
            print(
                f"{size:>7,} models   {statistics.median(found[size]):>9,.0f} requests/s "
                f"({min(found[size]):,.0f}–{max(found[size]):,.0f}), {cache['loaded']:,.0f} loaded, "
                f"{server.taken() / 2**20:,.0f} MiB"
            )
    return {size: statistics.median(values) for size, values in found.items()}


def unloaded(folder: Path, count: int, options: argparse.Namespace) -> float:
    """Bytes a gateway takes for each model that is registered and not loaded."""
    few = 300  # more than are loaded ahead
    taken = []
    for size in (few, few + count):
        with serving(folder / f"idle-{size}", size, memory=options.budget, gateways=1) as server:
            time.sleep(1.5)
            taken.append(server.taken())
    return (taken[1] - taken[0]) / count


def density(folder: Path, options: argparse.Namespace) -> list[str]:
    """Zipf traffic over all models within the budget; returns the promises that it broke."""
    from retinue.settings import parse_memory

    budget = parse_memory(options.budget, 0)
    with serving(folder / "density", options.models, memory=options.budget, gateways=options.gateways) as server:
        load(server.port, Traffic((segments("/predict/many", 1)[0],), (0,)), connections=4, seconds=1.0)
        empty = server.taken()  # with the runtime and one model: what the first one costs is not a model's memory
        what = traffic(segments("/predict/many", options.models), zipf=options.zipf, seed=5)
        began = time.perf_counter()
        fill(server, what, options)
        print(f"  filled in {time.perf_counter() - began:.0f} s: {server.cache()['loaded']:,.0f} models")
        before, most, failed = server.cache(), 0, 0
        for _ in range(max(options.rounds, 3)):
            run = load(server.port, what, connections=64, seconds=options.seconds, pids=server.gateways)
            failed += run.failed
            most = max(most, server.taken() - empty)
            after = server.cache()
            asked = run.answered
            misses, before = after["misses"] - before["misses"], after
            print(
                f"  {run.rate:>8,.0f} requests/s, {run.cpu / run.seconds:.0%} of a core, p99 {run.p99:.1f} ms, "
                f"hits {1 - misses / max(asked, 1):.1%}, "
                f"{after['loaded']:,.0f} loaded, {after['loads']:,.0f} loads, {after['evictions']:,.0f} evictions, "
                f"{(server.taken() - empty) / 2**20:,.0f} MiB of {budget / 2**20:,.0f}"
            )
        time.sleep(3.0)
        settled = server.taken() - empty
        cold(server, options)
        broken = []
        if failed:
            broken.append(f"{failed} requests failed")
        if settled > HEAD_ROOM * budget + SLACK:
            broken.append(f"the models take {settled / 2**20:,.0f} MiB, the budget is {budget / 2**20:,.0f}")
        print(f"  models take {settled / 2**20:,.0f} MiB at rest, {most / 2**20:,.0f} MiB at most under load, empty "
              f"gateways {empty / 2**20:,.0f} MiB")  # fmt: skip
        return broken


def cold(server: Served, options: argparse.Namespace) -> None:
    """First answers of models that are not loaded, and what a busy neighbour notices meanwhile; prints both."""
    texts = segments("/predict/many", options.models)
    hot = Traffic((texts[0],), (0,))
    alone, beside = [], []
    first: list[float] = []
    rng = random.Random(9)
    rate = 200.0  # an open loop far below what the server can do: only what loads add is seen
    for _ in range(options.rounds):
        alone.append(load(server.port, hot, connections=4, seconds=options.seconds, rate=rate).p99)
        stop = threading.Event()
        asker = threading.Thread(target=_ask_cold, args=(server.port, texts, rng, stop, first))
        asker.start()
        beside.append(load(server.port, hot, connections=4, seconds=options.seconds, rate=rate).p99)
        stop.set()
        asker.join()
    first.sort()
    p50, p99 = (first[int(len(first) * share)] * 1e3 for share in (0.5, 0.99))
    print(f"  cold models' first answers: p50 {p50:.2f} ms, p99 {p99:.2f} ms ({len(first)} of them, 20 a second)")
    told = [f"{min(values):.2f} ms (up to {max(values):.2f})" for values in (alone, beside)]
    print(f"  a neighbour's p99, best of {options.rounds}: {told[0]} alone, {told[1]} beside loads")


def _ask_cold(port: int, texts: list[bytes], rng: random.Random, stop: threading.Event, first: list[float]) -> None:
    """Ask rarely used models, 20 a second, on one connection."""
    import socket

    with socket.create_connection(("127.0.0.1", port)) as connection:
        while not stop.is_set():
            began = time.perf_counter()
            connection.sendall(texts[rng.randrange(len(texts) // 2, len(texts))])
            answer = connection.recv(65536)
            first.append(time.perf_counter() - began)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"the server answered {answer[:200]!r}")
            time.sleep(0.05)


def main() -> int:
    """Run all parts; 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--budget", default="1GiB")
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="400 models in 20 MiB, a second each")
    options = parser.parse_args()
    if options.quick:
        options.models, options.budget, options.seconds, options.rounds = 400, "20MiB", 1.0, 1
    server_core, load_core = cores()
    pin(load_core)
    print(f"{describe()}; gateways: {options.gateways} on core {server_core}, load on core {load_core}")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        each = unloaded(folder, options.models, options)
        print(f"a registered, unloaded model takes {each:,.0f} bytes of a gateway")
        print(f"{options.models:,} models within {options.budget}, Zipf {options.zipf:g}")
        broken = density(folder, options)
        sizes = [1, min(1000, options.models), options.models]
        found = rates(folder, list(dict.fromkeys(sizes)), options)
        print("requests/s against one model: " + ", ".join(f"{n:,}: {r / found[1]:.0%}" for n, r in found.items()))
    for line in broken:
        print(f"BROKEN: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
