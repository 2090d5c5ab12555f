"""Load for a quarter of an hour while the release changes every ten seconds: nothing fails, nothing grows.

Clients in threads ask through keep-alive connections, one row and many rows, a compiled model with an upstream and a
family, and check every answer: its values and its versions belong to the release that it says. Meanwhile memory and
file descriptors of all processes are sampled; a straight line through means of blocks, with its 95 % interval, tells
whether they grow.

    python -m benchmarks.soak [--minutes 15] [--every 10] [--clients 4] [--gateways 2] [--quick]

What it cannot show: leaks slower than its interval is wide, and what only other clients or models do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._servers import Server, cores, pin, started
from benchmarks._watch import Series, Watch, megabytes

KEYS = ("a", "b", "c")
GROWTH = 0.02  # of a process's memory in the whole run: less than this is flat, whatever the interval says
SLACK = 2 * 1024**2
SHORTEST = 180.0  # seconds from which on growth is judged: before, warming up looks the same


def publish(settings: Any, number: int) -> None:
    """Release `number`: every answer is number × 1001, the thousands from the upstream, the ones from the member."""
    from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel, ServedNeed
    from retinue.store.artifacts import FsspecArtifacts
    from retinue.store.releasefile import point, write_release

    store = FsspecArtifacts(settings.artifacts, settings.cache)
    phase = number % 7 + 1  # artifacts come again, versions do not
    up = store.put(linear(1, [0.0], float(phase)))
    down = store.put(linear(2, [1000.0, 0.0], float(phase)))
    models = {"up": ServedModel("up", f"up-{number}", up, "onnx", _signature(("x",), "u"), "none")}
    need = ServedNeed("up", "u", "u", {})
    for key in KEYS:
        name = f"down-{key}"
        signature = _signature(("u", "x"), "y")
        models[name] = ServedModel(name, f"{key}-{number}", down, "onnx", signature, "none", (need,), family="down")
    image = ReleaseImage("soak", "prod", number, models, {"chain": ServedEndpoint("chain", "down-{k}", "down-a")})
    write_release(settings.releases("soak", "prod"), image)
    point(settings.releases("soak", "prod"), number)


def expected(release: int) -> float:
    """What every row of that release is answered."""
    return (release % 7 + 1) * 1001.0


def linear(width: int, slopes: list[float], offset: float) -> bytes:
    """An ONNX graph y = x · slopes + offset over a packed float64 input [n, width]."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["P"]), helper.make_node("Add", ["P", "B"], ["Y"])],
        "linear",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor_value_info("Y", TensorProto.DOUBLE, [None, 1])],
        [
            helper.make_tensor("W", TensorProto.DOUBLE, [width, 1], slopes),
            helper.make_tensor("B", TensorProto.DOUBLE, [1], [offset]),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def _signature(features: tuple[str, ...], target: str) -> dict[str, Any]:
    return {
        "task": "regression",
        "target": target,
        "inputs": [{"name": name, "dtype": "FP64", "nullable": True, "width": 1} for name in features],
        "outputs": [{"name": target, "dtype": "FP64", "nullable": False, "width": 1}],
        "onnx": {"inputs": [{"name": "X", "features": list(features), "dtype": "FP64"}], "outputs": {target: "Y"}},
    }


@dataclass
class Client:
    """One client: a keep-alive connection, what it was answered, what was wrong."""

    port: int
    rows: int
    answers: int = 0
    releases: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        body = json.dumps({"rows": [{"x": row, "k": KEYS[row % len(KEYS)]} for row in range(self.rows)]}).encode()
        request = b"POST /predict/chain HTTP/1.1\r\nhost: s\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as link, link.makefile("rb") as file:
            while not stop.is_set() and len(self.wrong) < 10:
                try:
                    link.sendall(request)
                    status, answer = _read(file)
                except (OSError, ValueError) as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                    return
                self._check(status, answer)

    def _check(self, status: int, answer: dict[str, Any]) -> None:
        self.answers += 1
        release = answer.get("release", 0)
        values = {row.get("y") for row in answer.get("predictions", [{}])}
        versions = {model["version"].rpartition("-")[2] for model in answer.get("models") or [] if model}
        if status != 200 or values != {expected(release)} or versions != {str(release)}:
            self.wrong.append(f"{status} {json.dumps(answer)[:300]}")
        self.releases.add(release)


def _read(file: Any) -> tuple[int, dict[str, Any]]:
    line = file.readline()
    if not line:
        raise ConnectionError("the connection was closed")
    length = 0
    while (header := file.readline()) not in (b"\r\n", b""):
        if header.lower().startswith(b"content-length:"):
            length = int(header[15:])
    return int(line.split()[1]), json.loads(file.read(length))


def _verdict(name: str, series: Series, limit: float, show: Any) -> tuple[str, bool]:
    """A line of the table, and whether it grows: its interval is above zero, and the growth is more than `limit`."""
    slope, half = series.slope()
    span = series.times[-1] - series.times[0] if series.times else 0.0
    grows = span >= SHORTEST and slope - half > 0 and slope * span > limit
    text = f"{show(slope * 3600)}/h ± {show(half * 3600)}" if half != float("inf") else "too few samples"
    line = f"{name:30}{show(series.values[0]):>14}{show(series.values[-1]):>14}{show(max(series.values)):>14}  {text}"
    return line + ("  GROWS" if grows else ""), grows


def report(server: Server, watch: Watch, clients: list[Client], releases: int, restarts: int) -> bool:
    """Print the table; whether all is well."""
    wrong = [text for client in clients for text in client.wrong]
    answers, seen = sum(client.answers for client in clients), set().union(*(client.releases for client in clients))
    print(f"{answers:,} answers, {len(wrong)} wrong or missing, {restarts} restarts")
    print(f"{releases} releases published, {len(seen)} seen by clients")
    for text in wrong[:5]:
        print(f"  {text}")
    print(f"{'':30}{'first':>14}{'last':>14}{'most':>14}  change")
    broken = bool(wrong) or restarts > 0 or len(seen) < max(1, releases - 2)
    watched = max(series.times[-1] - series.times[0] for series in watch.memory.values())
    longest = max(len(series.values) for series in watch.memory.values())
    passing = [series for series in watch.memory.values() if len(series.values) < 0.6 * longest]
    for pid, series in watch.memory.items():
        if series in passing:
            continue
        role = "supervisor" if pid == server.process.pid else "process"
        line, grows = _verdict(f"{role} {pid} memory", series, GROWTH * series.values[-1] + SLACK, megabytes)
        print(line)
        broken |= grows
        line, grows = _verdict(f"{role} {pid} descriptors", watch.files[pid], 3, lambda value: f"{value:,.1f}")
        print(line)
        broken |= grows
    if passing:  # a round of the journal's compaction is a process of its own
        most = max(max(series.values) for series in passing)
        print(f"{len(passing)} processes that came and went, the largest {megabytes(most)}")
    print(
        "BROKEN" if broken else "no failure, flat" if watched >= SHORTEST else "no failure; too short to judge growth"
    )
    return not broken


def main() -> int:
    """Serve, load, change, watch; the exit code is 1 when something fails or grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two releases")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute, a release each second")
    options = parser.parse_args()
    seconds, every = (15.0, 1.0) if options.quick else (options.minutes * 60, options.every)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if soak(Path(folder), seconds, every, options.clients, options.gateways) else 1


def soak(folder: Path, seconds: float, every: float, count: int, gateways: int) -> bool:
    """One run; whether all is well."""
    import httpx

    from retinue.gateway.main import settings_text
    from retinue.gateway.record import read_record
    from retinue.settings import Settings

    settings = Settings(folder, "none", f"file://{folder}/artifacts", port=0, admin_port=0, gateways=gateways)
    publish(settings, 1)
    driver = (
        "import sys; from retinue.gateway.main import _settings; from retinue.processes.serve import serve; "
        "serve(_settings(sys.argv[1]), 'soak', 'prod')"
    )
    with started([sys.executable, "-c", driver, settings_text(settings)], folder / "serve.log") as server:
        while "Serving" not in server.tail():
            if server.process.poll() is not None:
                raise RuntimeError(server.tail())
            time.sleep(0.05)
        record = read_record(settings.releases("soak", "prod"))
        assert record is not None
        pin(cores()[1])
        clients = [Client(record.port, (1, 1, 30, 7)[n % 4]) for n in range(count)]
        stop = threading.Event()
        threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
        with Watch(server.pids) as watch:
            for thread in threads:
                thread.start()
            number, ends = 1, time.monotonic() + seconds
            while time.monotonic() < ends and not any(client.wrong for client in clients):
                with contextlib.suppress(TimeoutError):
                    stop.wait(every)
                number += 1
                publish(settings, number)
            time.sleep(min(every, 2.0))
            stop.set()
            for thread in threads:
                thread.join(60)
        status = httpx.get(f"{record.admin_url}/status", timeout=10).json()
        workers = [worker for gateway in status["gateways"] for worker in gateway["workers"]]
        restarts = status["gateway_restarts"] + sum(worker["restarts"] for worker in workers)
        return report(server, watch, clients, number, restarts)


if __name__ == "__main__":
    sys.exit(main())
