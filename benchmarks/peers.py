"""Requests through Retinue against other model servers: one core, the same trees in onnxruntime, JSON, one row.

Each peer is installed into an environment of its own (locked versions in `_peers/`), configured as fast as we know
it (`_peers/*_server.py`), started beside Retinue on the same core, and loaded in turns with it; while one is loaded
the other has nothing to do.
Retinue has key check, routing, ids, journal and metrics on; the peers do what they do by default.
Latencies are those of an open loop at half of the rate that each could take itself a moment before.

    python -m benchmarks.peers [NAME…] [--rounds 5] [--seconds 2] [--quick]

What it cannot show: servers that scale over many cores, or models whose run takes longer than all the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import _report, _rivals, _world
from benchmarks._install import PeerMissingError
from benchmarks._load import LoadFailedError, traffic
from benchmarks._rivals import PEERS, Peer
from benchmarks._rounds import Case, Effort, Line, Turns, keep, kept, lined, table
from benchmarks._servers import cores, pin
from benchmarks._world import Place

OURS = "Retinue"
QUICK = ["mosec", "mlserver"]  # they start in seconds


def against(peer: Peer, gateway: Place, folder: Path, effort: Effort, *, install: bool) -> list[Line]:
    """Retinue's line against this peer, and the peer's own. Raises PeerMissingError, RuntimeError, LoadFailedError."""
    ours = Case(OURS, gateway, traffic(_world.rows("/predict/score", headers=gateway.header)))
    both = cores()
    with _rivals.serving(peer, folder, install=install) as place:
        try:
            pin(both[1])
            turns = Turns([ours, Case(peer.label, place, traffic(peer.requests()))], effort).run()
        finally:
            os.sched_setaffinity(0, set(both))
    beside = lined(turns, OURS, peer.label, form="×", target=peer.target)
    return [beside, lined(turns, peer.label, OURS, form="%")]


def main() -> int:
    """One peer after the other, each in turns with Retinue."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(peer.name for peer in PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--quick", action="store_true", help="one short round with two peers, if they are installed")
    options = parser.parse_args()
    effort = Effort(1, 0.3, 0.1) if options.quick else Effort(options.rounds, options.seconds, 0.5)
    names = options.names or (QUICK if options.quick else [peer.name for peer in PEERS])
    wanted = [peer for peer in PEERS if peer.name in names]
    facts, lines = _report.facts(), []
    with tempfile.TemporaryDirectory() as name, _world.gateway(Path(name) / "retinue") as gateway:
        for peer in wanted:
            print(f"… {peer.label}", flush=True)
            try:
                lines += against(peer, gateway, Path(name) / peer.name, effort, install=not options.quick)
            except (PeerMissingError, RuntimeError, LoadFailedError) as error:
                print(f"  skipped: {error}")
    if not lines:
        print("no peer was measured")
        return 0
    print(table(lines))
    slower = [line.label for line in lines if line.label != OURS and _behind(line, lines)]
    print(f"Retinue's p99 at half load is the lowest of all: {'no, ' + ', '.join(slower) if slower else 'yes'}")
    if not options.quick:
        old = [] if not options.names else _others(kept("peers")[0], lines)
        keep("peers", [*old, *lines], facts)
    return 0


def _behind(line: Line, lines: list[Line]) -> bool:
    """Whether Retinue's p99, measured beside this peer, is higher than the peer's."""
    ours = next(other for other in lines if other.label == OURS and other.against == line.label)
    return ours.p99 is not None and line.p99 is not None and ours.p99 > line.p99


def _others(old: list[Line], new: list[Line]) -> list[Line]:
    """What an earlier run found of peers that this one left alone."""
    again = {line.label for line in new} - {OURS}
    return [line for line in old if (line.against if line.label == OURS else line.label) not in again]


if __name__ == "__main__":
    sys.exit(main())
