"""Batch scoring, Parquet to Parquet on one core: against a hand-written loop, and LightGBM's own predict.

The model is 100 trees over 10 features in onnxruntime, the same file for both. The loop is what one would write by
hand: pyarrow reads batches, a float32 matrix is filled, onnxruntime runs it, pyarrow writes the answers. Rounds
alternate; ratios are of the same round. `--memory ROWS` instead scores so many rows and prints the peak of memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks import _world

BATCH = 65_536
LIMIT = 1024  # MiB that a run may take, however many rows


def table(path: Path, rows: int, seed: int = 0) -> None:
    """A Parquet file of so many rows: an id and ten features."""
    rng = np.random.default_rng(seed)
    schema = pa.schema([("id", pa.int64()), *((name, pa.float64()) for name in _world.FEATURES)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 1_000_000):
            count = min(1_000_000, rows - start)
            columns = [np.arange(start, start + count), *(rng.random(count) for _ in _world.FEATURES)]
            writer.write_table(pa.table(columns, schema=schema))


def place(folder: Path, data: bytes) -> Any:
    """A release of that model in `folder`, as batch scoring sees it."""
    from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel
    from retinue.scoring.place import Place
    from retinue.settings import Settings
    from retinue.store.artifacts import FsspecArtifacts
    from retinue.store.releasefile import point, write_release

    settings = Settings(folder, "none", f"file://{folder}/artifacts")
    store = FsspecArtifacts(settings.artifacts, settings.cache)
    model = ServedModel("trees", "v1", store.put(data), "onnx", _world.signature(_world.FEATURES), "none")
    image = ReleaseImage("bench", "prod", 1, {"trees": model}, {"score": ServedEndpoint("score", "trees")})
    write_release(settings.releases("bench", "prod"), image)
    point(settings.releases("bench", "prod"), 1)
    return Place(settings, "bench", "prod", folder, store, _nothing, lambda: ({}, _nothing()))


def _nothing() -> Any:
    return None


def scored(where: Any, source: Path, out: Path, columns: tuple[str, ...] = ("id",)) -> Any:
    """Score it on one core."""
    from retinue.scoring.job import Ask

    return where.score(Ask("score", str(source), out, columns=columns, restart=True))


def by_hand(data: bytes, source: Path, target: Path) -> None:
    """The loop that one would write."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    schema = pa.schema([("id", pa.int64()), ("y", pa.float64())])
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, schema) as writer:
        for batch in file.iter_batches(BATCH, use_threads=False):
            matrix = np.empty((batch.num_rows, len(_world.FEATURES)), dtype=np.float32)
            for index, name in enumerate(_world.FEATURES):
                matrix[:, index] = batch.column(name).to_numpy()
            answers = session.run(["Y"], {"X": matrix})[0].ravel().astype(np.float64)
            writer.write_batch(pa.record_batch([batch.column("id"), pa.array(answers)], schema=schema))


def alone(data: bytes, rows: int) -> None:
    """onnxruntime with nothing around it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    matrix = np.random.default_rng(0).random((BATCH, len(_world.FEATURES)), dtype=np.float32)
    for start in range(0, rows, BATCH):
        session.run(["Y"], {"X": matrix[: min(BATCH, rows - start)]})


def booster(rows: int) -> Callable[[], object]:
    """LightGBM's own predict on as many trees of as many leaves, from a matrix to an array."""
    import lightgbm

    rng = np.random.default_rng(0)
    matrix = rng.random((rows, len(_world.FEATURES)))
    target = matrix[:20_000] @ rng.random(len(_world.FEATURES)) + rng.random(min(20_000, rows))
    settings = {"num_leaves": 32, "max_depth": 5, "verbosity": -1, "num_threads": 1}
    model = lightgbm.train(settings, lightgbm.Dataset(matrix[:20_000], target), 100)
    return lambda: model.predict(matrix, num_threads=1)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process: on a busy machine they tell more than the wall clock."""
    began = time.process_time()
    work()
    return time.process_time() - began


def speed(rows: int, rounds: int) -> int:
    """Rounds of all in turn; prints rows per second of CPU and ratios, median (lowest to highest)."""
    data = _world.trees()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.parquet"
        table(source, rows)
        where = place(folder / "state", data)
        works: dict[str, Callable[[], object]] = {
            "retinue score": lambda: scored(where, source, folder / "out"),
            "by hand": lambda: by_hand(data, source, folder / "hand.parquet"),
            "onnxruntime alone": lambda: alone(data, rows),
        }
        try:
            works["LightGBM predict"] = booster(rows)
        except ImportError:
            print("LightGBM is not installed: left out")
        found: dict[str, list[float]] = {label: [] for label in works}
        for number in range(rounds + 1):
            for label, work in works.items():
                took = seconds(work)
                if number:  # the first round warms caches and imports
                    found[label].append(took)
    for label, times in found.items():
        rates = sorted(rows / took for took in times)
        ratios = sorted(theirs / ours for theirs, ours in zip(times, found["retinue score"], strict=True))
        print(f"{label:<20} {statistics.median(rates):>12,.0f} rows/s per core ({rates[0]:,.0f} to {rates[-1]:,.0f})"
              f"   retinue is {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})")  # fmt: skip
    return 0


def memory(rows: int) -> int:
    """The peak of resident memory while so many rows are scored, less nothing: the whole process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.parquet"
        child = os.fork()  # writing the table must not count
        if child == 0:
            table(source, rows)
            os._exit(0)
        os.waitpid(child, 0)
        where = place(folder / "state", _world.trees(count=1))  # memory does not depend on the trees, time does
        outcome = scored(where, source, folder / "out")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{outcome.rows:,} rows, {outcome.seconds:.1f} s, peak {peak:,.0f} MiB (promised: {LIMIT} MiB)")
        return 0 if outcome.rows == rows and peak <= LIMIT else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="few rows, one round: only to see that it works")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, metavar="ROWS", help="the peak of memory for so many rows instead")
    options = parser.parse_args()
    if options.memory:
        return memory(options.memory)
    if options.quick:
        return speed(20_000, 1) or memory(50_000)
    return speed(options.rows, options.rounds)


if __name__ == "__main__":
    sys.exit(main())
