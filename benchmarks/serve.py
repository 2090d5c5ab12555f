"""Requests through Retinue with everything on, against a bare echo on the same loop, and onnxruntime alone.

One core for the server, one for the load. Everything on: routing, key check, journal, metrics. The model is 100 trees
over 10 features in ONNX; a request is one row. Rounds take turns, so a slow moment hits all; ratios are taken within
a round. Latencies are those of an open loop at half of the rate that the same case could take a moment before.

    python -m benchmarks.serve [--rounds 5] [--seconds 2] [--members 1000] [--quick]

What it cannot show: two processes that share memory bandwidth, and often a physical core, are no network of machines.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import _load, _report, _rivals, _world
from benchmarks._install import PeerMissingError
from benchmarks._load import traffic
from benchmarks._rounds import Case, Effort, Line, Spread, Turns, keep, lined, table
from benchmarks._servers import cores, pin
from benchmarks._world import Place

BLOCK = 1000


def http_lines(echo: Place, gateway: Place, quiet: Place, members: int, effort: Effort) -> tuple[list[Line], str]:
    """All that goes over HTTP with one row a request; and how much of their core the servers had."""
    header = gateway.header
    friendly = traffic(_world.rows("/predict/score", headers=header))
    turns = Turns(
        [
            Case("bare echo", echo, traffic(_world.rows("/", headers=header))),
            Case("friendly JSON", gateway, friendly),
            Case("Open Inference JSON", gateway, traffic(_world.tensors("/v2/models/score/infer", headers=header))),
            Case(_zipf(members), gateway, traffic(_world.segments("/predict/many", members, header), zipf=1.0)),
            Case("one upstream", gateway, traffic(_world.rows("/predict/graph", headers=header))),
            Case("journal off", quiet, traffic(_world.rows("/predict/score", headers=quiet.header))),
        ],
        effort,
    ).run()
    found = [lined(turns, "bare echo", "bare echo")]
    targets = {"friendly JSON": 0.40, "Open Inference JSON": 0.40, _zipf(members): 0.30, "one upstream": 0.15}
    found += [lined(turns, label, "bare echo", target=target) for label, target in targets.items()]
    found.append(lined(turns, "journal off", "bare echo"))
    kept = turns.ratio("friendly JSON", "journal off")
    cost = Spread(1 - kept.high, 1 - kept.median, 1 - kept.low)
    micros = turns.cpu_ratio("friendly JSON", "journal off")
    spent = None if micros is None else Spread(1 - micros.high, 1 - micros.median, 1 - micros.low)
    found.append(Line("cost of the journal", cost, "%", "journal off", 0.25, at_most=True, cpu_ratio=spent))
    one = turns.ratio(_zipf(members), "friendly JSON")
    micros = turns.cpu_ratio(_zipf(members), "friendly JSON")
    found.append(Line(f"1 → {members:,} models, Zipf", one, "%", "one model", 0.60, cpu_ratio=micros))
    return found, turns.core_share()


def _zipf(members: int) -> str:
    return f"Zipf over {members:,} models"


def binary_line(gateway: Place, effort: Effort, rounds: int) -> Line:
    """1,000 rows × 20 features in a binary tensor: server time per request against run and copy alone."""
    request = _world.binary("/v2/models/wide/infer", BLOCK, headers=gateway.header)
    case = Case("binary 1,000 × 20", gateway, traffic([request]), connections=2)
    ratios, rates, micros = [], [], []
    with tempfile.NamedTemporaryFile(suffix=".onnx") as model:
        model.write(_world.trees(len(_world.WIDE)))
        model.flush()
        for _ in range(rounds):
            alone = _alone(model.name, effort.seconds / 2)
            found = Turns([case], Effort(1, effort.seconds)).run(half=False).full[case.label][0]
            ratios.append(1e6 / found.rate / alone)
            rates.append(found.rate)
            micros.append(found.micros)
    return Line(
        case.label,
        Spread.of(ratios),
        "×",
        "onnxruntime's run and one copy",
        1.3,
        at_most=True,
        rate=Spread.of(rates),
        micros=Spread.of(micros).median,
        note="time of a request at full load over that of the run itself, on the same core",
    )


def _alone(model: str, seconds: float) -> float:
    """Microseconds of onnxruntime's own run of the block and one copy of it, on the servers' core."""
    command = ["taskset", "-c", str(cores_of_all()[0]), sys.executable, "-m", "benchmarks._alone", model, str(seconds)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environ).stdout)


def cores_of_all() -> tuple[int, int]:
    """The cores as they were before this process was pinned."""
    return _CORES


_CORES = cores()


def grpc_lines(gateway: Place, folder: Path, effort: Effort, *, install: bool) -> Iterator[Line]:
    """gRPC beside MLServer's gRPC."""
    if gateway.grpc is None:
        print("gRPC: this server offers none")
        return
    if _load.program() is None:
        print("gRPC: needs a C compiler for its load generator")
        return
    mlserver = next(peer for peer in _rivals.PEERS if peer.name == "mlserver")
    ours = traffic([_world.grpc("score", gateway.header)], wire="h2")
    theirs = traffic([_world.grpc("trees")], wire="h2")
    with ExitStack() as stack:
        try:
            other = stack.enter_context(_rivals.serving(mlserver, folder / "mlserver", install=install))
        except PeerMissingError as why:
            print(f"gRPC beside MLServer's: skipped, {why}")
            return
        assert other.grpc is not None
        cases = [Case("gRPC", gateway, ours, gateway.grpc), Case("MLServer's gRPC", other, theirs, other.grpc)]
        turns = Turns(cases, effort).run()
    yield lined(turns, "gRPC", "MLServer's gRPC", form="×", target=2)


def asks_for_key(gateway: Place) -> bool:
    """Whether a request without a key is refused, so that the key check is part of what is measured."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request("POST", "/predict/score", b"{}")
    status = connection.getresponse().status
    connection.close()
    return status == 401


def main() -> int:
    """Start what is compared, take turns, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="one short round; peers only where installed")
    options = parser.parse_args()
    effort = Effort(1, 0.3, 0.1) if options.quick else Effort(options.rounds, options.seconds)
    members = 30 if options.quick else options.members
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        echo = stack.enter_context(_world.echo(folder))
        gateway = stack.enter_context(_world.gateway(folder / "on", members=members, grpc_port=0))
        quiet = stack.enter_context(_world.gateway(folder / "off", journal_enabled=False))
        facts = _report.facts()
        pin(_CORES[1])
        facts["key check"] = "on" if asks_for_key(gateway) else "OFF: this server does not ask for keys"
        print("\n".join(f"{key}: {value}" for key, value in facts.items()))
        lines, share = http_lines(echo, gateway, quiet, members, effort)
        facts["the servers' core"] = f"they had {share}"
        print(f"the servers' core: they had {share}")
        lines.append(binary_line(gateway, effort, effort.rounds))
        os.sched_setaffinity(0, set(_CORES))
        lines += grpc_lines(gateway, folder, effort, install=not options.quick)
    print(table(lines))
    if not options.quick:
        keep("serve", lines, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
