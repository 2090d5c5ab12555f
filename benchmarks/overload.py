"""Twice the load that a gateway can carry: it goes on answering, its memory stays bounded, and it recovers at once.

Two models. A small one is bound by the door: parsing and answering cost more than the run. A slow one (about 2 ms a
row, however many rows a batch has) is bound by its run: its queue fills, and what is beyond it is refused with a
status and a Retry-After. The maximum is measured with a closed loop; then an open loop sends twice as much, whatever
is answered; then half of the maximum, to see that nothing lingers. Goodput and maximum are compared per CPU second of
the gateway, which other work on the machine changes little.

    python -m benchmarks.overload [--seconds 60] [--quick]

What it cannot show: the load shares the machine, so the door's maximum is that of one core; and a connection of ours
waits for its answer before it asks again, so the overload is at most one request a connection.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks._load import Traffic, program, traffic
from benchmarks._servers import cores, pin, started
from benchmarks._watch import Watch, megabytes
from benchmarks._world import FEATURES, Place, http, row, signature, trees

GOODPUT = 0.9  # of the maximum
QUEUE = 200
ROW_SECONDS = 0.002
ROOM = 256 * 1024**2  # bytes that memory may be higher under overload than before


def slow(seconds: float) -> bytes:
    """An ONNX graph y = f0 that spends about so many seconds on each row: a chain of sines over a wide tensor."""
    from onnx import TensorProto, helper

    links = max(1, int(seconds / _link_seconds()))
    return _chain(links, TensorProto, helper)


def _chain(links: int, types: Any, helper: Any, width: int = 2048) -> bytes:
    nodes = [helper.make_node("MatMul", ["X", "SPREAD"], ["t0"])]
    nodes += [helper.make_node("Sin", [f"t{n}"], [f"t{n + 1}"]) for n in range(links)]
    nodes += [
        helper.make_node("MatMul", [f"t{links}", "NONE"], ["nothing"]),
        helper.make_node("MatMul", ["X", "FIRST"], ["first"]),
        helper.make_node("Add", ["first", "nothing"], ["Y"]),
    ]
    k = len(FEATURES)
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("X", types.FLOAT, [None, k])],
        [helper.make_tensor_value_info("Y", types.FLOAT, [None, 1])],
        [
            helper.make_tensor("SPREAD", types.FLOAT, [k, width], [0.01 * (n % 97) for n in range(k * width)]),
            helper.make_tensor("NONE", types.FLOAT, [width, 1], [0.0] * width),
            helper.make_tensor("FIRST", types.FLOAT, [k, 1], [1.0] + [0.0] * (k - 1)),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def _link_seconds() -> float:
    """What one link of the chain costs for one row on this machine."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    rows = np.random.default_rng(0).random((8, len(FEATURES)), dtype=np.float32)
    session = onnxruntime.InferenceSession(_chain(50, TensorProto, helper), options)
    session.run(None, {"X": rows})
    began = time.perf_counter()
    for _ in range(5):
        session.run(None, {"X": rows})
    return (time.perf_counter() - began) / (5 * 8 * 50)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One run of load."""

    rate: float  # answers with status 200 a second
    per_cpu: float  # the same a second of the gateway's CPU time: what others do on this machine matters less
    failed: int
    refusals: float  # a second
    p50: float
    p99: float
    bad: str


def load(place: Place, what: Traffic, connections: int, seconds: float, rate: float = 0.0) -> Loaded:
    """Run the load generator; refusals are part of the answer. Raises RuntimeError when it does not run."""
    binary = program()
    if binary is None:
        raise RuntimeError("this benchmark needs a C compiler: an overload from Python would be none")
    with tempfile.NamedTemporaryFile() as file:
        file.write(what.packed())
        file.flush()
        numbers = [str(value) for value in (place.port, connections, seconds, 1.0, rate)]
        command = [str(binary), *numbers, what.wire, file.name, *map(str, place.pids)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=seconds + 120)
    if done.returncode:
        raise RuntimeError(f"the load generator ended with {done.returncode}")
    found = json.loads(done.stdout)
    refusals = found["failed"] / found["seconds"]
    per_cpu = found["answered"] / max(found["cpu"], 1e-9)
    return Loaded(found["rate"], per_cpu, found["failed"], refusals, found["p50"], found["p99"], found["bad"])


@contextmanager
def serving(folder: Path, name: str) -> Iterator[Place]:
    """A gateway with that model: its port and its processes. The slow one's queue is short, so that it fills."""
    from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel
    from retinue.gateway.main import settings_text
    from retinue.gateway.record import read_record
    from retinue.settings import Settings
    from retinue.store.artifacts import FsspecArtifacts
    from retinue.store.releasefile import point, write_release

    settings = Settings(folder, "none", f"file://{folder}/artifacts", port=0, admin_port=0)
    settings = replace(settings, max_queue=QUEUE) if name == "slow" else settings
    store = FsspecArtifacts(settings.artifacts, settings.cache)
    data = slow(ROW_SECONDS) if name == "slow" else trees()
    model = ServedModel(name, "v1", store.put(data), "onnx", signature(FEATURES), "none")
    image = ReleaseImage("bench", "prod", 1, {name: model}, {name: ServedEndpoint(name, name)})
    write_release(settings.releases("bench", "prod"), image)
    point(settings.releases("bench", "prod"), 1)
    driver = (
        "import sys; from retinue.gateway.main import _settings; from retinue.processes.serve import serve; "
        "serve(_settings(sys.argv[1]), 'bench', 'prod')"
    )
    with started([sys.executable, "-c", driver, settings_text(settings)], folder / "serve.log") as server:
        while "Serving" not in server.tail():
            if server.process.poll() is not None:
                raise RuntimeError(server.tail())
            time.sleep(0.05)
        record = read_record(settings.releases("bench", "prod"))
        assert record is not None
        yield Place(record.port, tuple(record.gateways))


def overload(name: str, place: Place, connections: int, seconds: float, quick: bool) -> bool:
    """Measure one model: maximum, twice of it, half of it; print it; whether all is as promised."""
    rng = random.Random(1)
    what = traffic([http(f"/predict/{name}", json.dumps(row(rng)).encode()) for _ in range(64)])
    some = max(2.0, seconds / 6)
    closed = [load(place, what, 64, some)]
    before = load(place, what, connections, some, closed[0].rate / 2)
    with Watch(lambda: place.pids, 0.1) as watch:
        over = load(place, what, connections, seconds, closed[0].rate * 2)
    after = load(place, what, connections, some, closed[0].rate / 2)
    closed.append(load(place, what, 64, some))  # the machine may have changed meanwhile
    most = statistics.fmean(found.per_cpu for found in closed)
    share = over.per_cpu / most
    growth = max(max(series.values) - series.values[0] for series in watch.memory.values())
    print(f"{name}: at most {closed[0].rate:,.0f} answers/s before and {closed[1].rate:,.0f} after")
    print(f"  twice that load for {seconds:g} s over {connections} connections: {over.rate:,.0f}/s good, ", end="")
    print(f"{over.refusals:,.0f}/s refused; goodput {share:.0%} of the maximum per CPU second")
    print(f"  p50 {over.p50:,.1f} ms, p99 {over.p99:,.1f} ms, memory at most {megabytes(growth)} higher")
    print(f"  half of it before: p99 {before.p99:,.1f} ms; and after: {after.rate:,.0f}/s, p99 {after.p99:,.1f} ms")
    told = not over.failed or (over.bad[:3] in ("503", "429") and "retry-after" in over.bad.lower())
    checks = {
        f"goodput is under {GOODPUT:.0%}": share >= GOODPUT or quick,  # of a few seconds, chance decides
        "memory is not bounded": growth <= ROOM,
        f"a refusal without status and Retry-After: {over.bad[:200]}": told,
        f"it did not recover at once: {after}": not after.failed,
    }
    for problem in (text for text, good in checks.items() if not good):
        print(f"  BROKEN: {problem}")
    return all(checks.values())


def main() -> int:
    """Serve, overload both models; the exit code is 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--models", nargs="*", default=["small", "slow"], choices=["small", "slow"])
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="five seconds each")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))  # inherited by the server too
    seconds = 5.0 if options.quick else options.seconds
    results = []
    allowed = os.sched_getaffinity(0)
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder), name) as place:
            pin(cores()[1])
            results.append(overload(name, place, options.connections, seconds, options.quick))
            os.sched_setaffinity(0, allowed)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
