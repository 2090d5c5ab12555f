"""Requests per second of one gateway against a bare httptools echo on the same loop, with the spread over rounds.

Two cores: one for the server, one for the load; echo and gateway take turns, so that a slow moment hits both. The
model is an ONNX ensemble of 100 trees; a request is one row of 10 features as JSON through `POST /predict`, with
routing, release pin, batching, ids and metrics, as any client gets it (no journal, no keys: they do not exist yet).

    python benchmarks/serve_smoke.py [--seconds 2] [--rounds 5] [--connections 64]

What it cannot show: the load is a Python process, so requests per second may be the load's limit, above all for the
echo; therefore CPU microseconds of the server per request are printed too, and their ratio is the fairer one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FEATURES = [f"f{n}" for n in range(10)]


def trees(count: int = 100, depth: int = 5, seed: int = 0) -> bytes:
    """A regression ensemble of full random trees over the features, as ONNX."""
    from onnx import TensorProto, helper

    rng = random.Random(seed)
    nodes: dict[str, list[Any]] = {
        key: [] for key in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    targets: dict[str, list[Any]] = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    inner = 2**depth - 1
    for tree in range(count):
        for node in range(2 ** (depth + 1) - 1):
            leaf = node >= inner
            row = (tree, node, rng.randrange(len(FEATURES)), rng.random(), "LEAF" if leaf else "BRANCH_LEQ")
            for key, value in zip(nodes, (*row, 0 if leaf else 2 * node + 1, 0 if leaf else 2 * node + 2), strict=True):
                nodes[key].append(value)
            if leaf:
                for key, value in zip(targets, (tree, node, 0, rng.random() / count), strict=True):
                    targets[key].append(value)
    attributes: dict[str, Any] = {f"nodes_{key}": values for key, values in nodes.items()}
    attributes |= {f"target_{key}": values for key, values in targets.items()}
    ensemble = helper.make_node("TreeEnsembleRegressor", ["X"], ["Y"], domain="ai.onnx.ml", n_targets=1, **attributes)
    graph = helper.make_graph(
        [ensemble],
        "trees",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, len(FEATURES)])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def publish(folder: Path) -> Any:
    """One release with one model in `folder`; returns the settings to serve it with."""
    from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel
    from retinue.settings import Settings
    from retinue.store.artifacts import FsspecArtifacts
    from retinue.store.releasefile import point, write_release

    settings = Settings(folder, "none", f"file://{folder}/artifacts", port=0, admin_port=0)
    digest = FsspecArtifacts(settings.artifacts, settings.cache).put(trees())
    signature = {
        "task": "regression",
        "target": "y",
        "inputs": [{"name": name, "dtype": "FP64", "nullable": True, "width": 1} for name in FEATURES],
        "outputs": [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}],
        "onnx": {"inputs": [{"name": "X", "features": FEATURES, "dtype": "FP32"}], "outputs": {"y": "Y"}},
    }
    model = ServedModel("trees", "v1", digest, "onnx", signature, "none")
    image = ReleaseImage("bench", "prod", 1, {"trees": model}, {"score": ServedEndpoint("score", "trees")})
    write_release(settings.releases("bench", "prod"), image)
    point(settings.releases("bench", "prod"), 1)
    return settings


def request_bytes(path: str) -> bytes:
    """One row as a request."""
    rng = random.Random(1)
    body = json.dumps({name: round(rng.random(), 4) for name in FEATURES}).encode()
    return b"POST %s HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


def echo(descriptor: int) -> None:
    """The bare echo: parse with httptools, answer with the body, one write per request."""
    import httptools
    import uvloop

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.parser = httptools.HttpRequestParser(self)

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, body: bytes) -> None:
            self.body = body

        def on_message_complete(self) -> None:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(self.body)
            self.transport.write(head + self.body)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, sock=socket.socket(fileno=descriptor))
        await server.serve_forever()

    uvloop.run(run())


def load(port: int, request: bytes, connections: int, seconds: float) -> float:
    """Requests per second over keep-alive connections, each with one request on the way (a closed loop)."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN)
        connection.send(request)
    done = 0
    began = time.perf_counter()
    ends = began + seconds
    while time.perf_counter() < ends:
        for descriptor, _ in poll.poll():
            connection = sockets[descriptor]
            answer = connection.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"the server answered {answer[:200]!r}")
            done += 1
            connection.send(request)
    taken = time.perf_counter() - began
    poll.close()
    for connection in sockets.values():
        connection.close()
    return done / taken


@dataclass
class Side:
    """One of the two servers: where it is, and what its rounds gave."""

    name: str
    port: int
    pid: int
    request: bytes
    rates: list[float]
    micros: list[float]

    def cpu(self) -> float:
        """CPU seconds the server process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def round(self, connections: int, seconds: float) -> None:
        """One round of load."""
        before = self.cpu()
        rate = load(self.port, self.request, connections, seconds)
        self.rates.append(rate)
        self.micros.append((self.cpu() - before) / (rate * seconds) * 1e6)


def measure(sides: list[Side], options: argparse.Namespace) -> None:
    """Warm up, then take turns."""
    for side in sides:
        side.round(options.connections, 0.5)
        side.rates.clear()
        side.micros.clear()
    for _ in range(options.rounds):
        for side in sides:
            side.round(options.connections, options.seconds)


def report(sides: list[Side]) -> None:
    """The table: min, median, max over the rounds."""
    print(f"{'':24}{'min':>10}{'median':>10}{'max':>10}")

    def line(name: str, values: list[float], form: Callable[[float], str]) -> None:
        print(f"{name:24}" + "".join(f"{form(f(values)):>10}" for f in (min, statistics.median, max)))

    for side in sides:
        line(f"{side.name} requests/s", side.rates, lambda value: f"{value:,.0f}")
        line(f"{side.name} CPU µs/request", side.micros, lambda value: f"{value:.1f}")
    bare, gateway = sides
    ratios = [g / e for g, e in zip(gateway.rates, bare.rates, strict=True)]
    line("requests/s ratio", ratios, lambda value: f"{value:.0%}")
    cpu = [e / g for g, e in zip(gateway.micros, bare.micros, strict=True)]
    line("CPU ratio", cpu, lambda value: f"{value:.0%}")


def main() -> None:
    """Start both servers, load them in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo is not None:
        echo(options.echo)
        return
    from retinue.gateway.main import settings_text
    from retinue.gateway.record import read_record

    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        settings = publish(Path(folder))
        driver = (
            "import sys; from retinue.gateway.main import _settings; from retinue.processes.serve import serve; "
            "serve(_settings(sys.argv[1]), 'bench', 'prod')"
        )
        os.sched_setaffinity(0, cores[:1])  # inherited by both servers
        command = [sys.executable, "-c", driver, settings_text(settings)]
        supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        handle = listener.fileno()
        bare = subprocess.Popen([sys.executable, __file__, "--echo", str(handle)], pass_fds=(handle,))
        os.sched_setaffinity(0, cores[-1:])
        try:
            assert supervisor.stdout is not None
            supervisor.stdout.readline()
            record = read_record(settings.releases("bench", "prod"))
            assert record is not None
            sides = [
                Side("echo", listener.getsockname()[1], bare.pid, request_bytes("/"), [], []),
                Side("gateway", record.port, record.gateways[0], request_bytes("/predict/score"), [], []),
            ]
            print(f"{options.rounds} rounds of {options.seconds:g} s, {options.connections} connections, 100 trees,")
            print(f"server on core {cores[0]}, load on core {cores[-1]}{' (the same!)' if len(cores) < 2 else ''}")
            measure(sides, options)
            report(sides)
        finally:
            supervisor.terminate()
            bare.terminate()
            supervisor.wait()
            bare.wait()


if __name__ == "__main__":
    main()
