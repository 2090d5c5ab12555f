"""What the journal costs: microseconds a record, bytes a second, rows a second through compaction and back.

python -m benchmarks.journal [--requests 200000] [--quick]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from retinue.control.compact import compact
from retinue.control.query import query
from retinue.core.contract import Field
from retinue.gateway.recorder import Answered, NodeFacts, Ran, Recorder
from retinue.settings import Settings

TURN = 32  # requests of one turn of the loop
IDENTITY = "0190b5a4-0000-7000-8000-%012x"
OUTPUTS = [Field("label", "BOOL"), Field("probability", "FP64")]


def node(model: str, width: int) -> NodeFacts:
    return NodeFacts(model, "a" * 64, [Field(f"x{i}", "FP64") for i in range(width)], OUTPUTS)


def timed(work: Callable[[int], None], turns: int, per: int) -> list[float]:
    """Microseconds a request, of five rounds."""
    found = []
    for _ in range(5):
        begin = time.perf_counter()
        work(turns)
        found.append((time.perf_counter() - begin) / (turns * per) * 1e6)
    return found


def hot(folder: Path, requests: int) -> None:
    for budget, name in ((10**12, "all tensors kept"), (4 * 1024**2, "over budget, sampled")):
        recorder = Recorder(Settings(folder / name, "", "", journal_budget=budget, journal_rotate_bytes=1 << 28))
        recorder.follow(1, "shop", "prod", {})
        facts, rows = node("late-JFK", 10), [tuple(i * 1.1 for i in range(10))]
        outputs = {"label": [True], "probability": [0.73]}
        first = (IDENTITY % 1, "late", 1, "acme", None, 200, 1, 1_767_268_800_000_000_000, 0.0012)

        def single(turns: int, size: int = TURN) -> None:
            for _ in range(turns):
                for _ in range(size):
                    recorder.single(*first, facts, rows, outputs, 1e-4, 2e-4)  # noqa: B023
                recorder.flush()  # noqa: B023

        def answered(turns: int) -> None:
            for _ in range(turns):
                for _ in range(TURN):
                    recorder.answered(Answered(*first, (Ran(facts, None, rows, outputs, 1e-4, 2e-4),)))  # noqa: B023
                recorder.flush()  # noqa: B023

        turns = requests // TURN // 5
        say(f"single, turns of {TURN}, {name}", timed(single, turns, TURN))
        say(f"answered, turns of {TURN}, {name}", timed(answered, turns, TURN))
        say(f"single, turns of one, {name}", timed(lambda n: single(n, 1), turns * 4, 1))
        recorder.close()
    data = bytes(230)
    say("of it the CRC", timed(lambda n: [zlib.crc32(data) for _ in range(n)] and None, requests, 1))


def packed(folder: Path) -> None:
    recorder = Recorder(Settings(folder / "packed", "", "", journal_budget=10**12, journal_rotate_bytes=1 << 28))
    recorder.follow(1, "shop", "prod", {})
    facts, block, outputs = node("wide", 20), np.random.rand(1000, 20), {"probability": np.random.rand(1000)}

    def work(turns: int) -> None:
        for _ in range(turns):
            recorder.single("a", "wide", 1, None, None, 200, 1000, 1, 0.001, facts, block, outputs, 1e-4, 2e-4)
            recorder.flush()

    found = timed(work, 100, 1)
    say(f"packed 1,000 x 20, {168_000 / statistics.median(found):.0f} MB/s", found)
    recorder.close()


def folded(folder: Path, requests: int) -> None:
    settings = Settings(folder / "folded", "", "", journal_budget=10**12)
    recorder = Recorder(settings)
    recorder.follow(1, "shop", "prod", {})
    nodes = [node(f"late-{number}", 10) for number in range(100)]
    now = time.time_ns()
    for number in range(requests):
        rows = [tuple(random.random() for _ in range(10))]
        outputs = {"label": [True], "probability": [random.random()]}
        facts = nodes[int(random.random() ** 2 * 100)]
        recorder.single(IDENTITY % number, "late", 1, "acme", None, 200, 1, now, 1e-3, facts, rows, outputs, 1e-4, 2e-4)
        if number % TURN == 0:
            recorder.flush()
    recorder.close()
    place = settings.journal("shop", "prod")
    size = sum(path.stat().st_size for path in (place / "segments").iterdir())
    begin = time.perf_counter()
    query(place, "select count(*) from predictions")
    live = time.perf_counter() - begin
    begin = time.perf_counter()
    compact(place)
    took = time.perf_counter() - begin
    after = sum(path.stat().st_size for path in place.rglob("*.parquet"))
    begin = time.perf_counter()
    query(place, "select model, avg(probability) from predictions group by 1")
    later = time.perf_counter() - begin
    print(f"{requests:,} requests of 100 models: segments {size / 1e6:.1f} MB, Parquet {after / 1e6:.1f} MB")
    print(f"compaction {requests / took:,.0f} rows/s, {size / took / 1e6:.1f} MB/s")
    print(f"query before it {live:.2f} s, after it {later:.2f} s")


def say(what: str, found: list[float]) -> None:
    print(f"{what:45} {statistics.median(found):8.2f} us  ({min(found):.2f} to {max(found):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    options = parser.parse_args()
    requests = 20_000 if options.quick else options.requests
    with tempfile.TemporaryDirectory() as text:
        hot(Path(text), requests)
        packed(Path(text))
        folded(Path(text), requests)


if __name__ == "__main__":
    main()
