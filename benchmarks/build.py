"""What building adds to training: 1,000 tiny models of one family on one table, with one worker and metric gates only.

    python -m benchmarks.build            1,000 models
    python -m benchmarks.build --quick    60 models; judged by nothing but that all are built
    python -m benchmarks.build --profile  the same, with the hot functions of apply's own process

Overhead is the wall time of `apply`, less what the user's training functions and the conversions took by the trainers'
own clocks, divided by the models. A plan and a first apply of one model go before: what is paid once is installed.
CPU is that of all processes together, trainers and the processes they fork too, less the same trainings and
conversions: on a machine with other work it says what wall time hides.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
PROMISE = 20.0  # ms a model
ROWS = 200  # of one model

PORTFOLIO = """\
portfolio: shops
format: 1
cutoff: last 20%

data:
  sales: {path: sales.parquet, time: moment, key: id}

environments:
  base: {requirements: base.txt}

defaults: {environment: base}

models:
  "returned-{shop}":
    for_each: {distinct: [shop], of: sales, min_rows: 100}
    train: shops:train
    data: {sales: {where: {shop: "{shop}"}}}
    task: binary
    features: [price, weekday, stars]
    target: returned
    params: {C: 1.0}
    gates:
      log_loss: {max: 5.0}
      accuracy: {min: 0.01, vs_champion: not_worse, margin: 20%}
"""

CODE = """\
import numpy as np
from sklearn.linear_model import LogisticRegression


def train(job):
    table = job.data["sales"]
    x = np.column_stack([table.column(name).to_numpy() for name in job.features])
    return LogisticRegression(C=job.params["C"]).fit(x, table.column(job.target).to_numpy())
"""


@dataclass
class Spent:
    """Seconds by the trainers' own clocks."""

    training: float = 0.0
    conversion: float = 0.0
    cpu: float = 0.0  # of both


def write(folder: Path, shops: int) -> None:
    """A portfolio of so many models, its environment shared by all runs."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(3)
    rows = np.arange(shops * ROWS)
    price, weekday, stars = rng.normal(size=len(rows)), rows // shops % 7, rng.normal(size=len(rows))
    table = {
        "id": rows,
        "moment": pa.array(np.datetime64("2026-01-01", "us") + rows // shops * np.timedelta64(1, "h")),
        "shop": [f"s{n:04}" for n in rows % shops],
        "price": price,
        "weekday": weekday,
        "stars": stars,
        "returned": price + 0.3 * weekday - stars + rng.normal(size=len(rows)) > 0.9,
    }
    pq.write_table(pa.table(table), folder / "sales.parquet")
    (folder / "portfolio.yaml").write_text(PORTFOLIO)
    (folder / "shops.py").write_text(CODE)
    (folder / "base.txt").write_text("scikit-learn==1.9.1\n")
    (folder / "retinue.toml").write_text("[build]\nworkers = 1\n")
    kept = HERE / ".cache" / "build"
    (kept / "environments").mkdir(parents=True, exist_ok=True)
    (folder / ".retinue").mkdir()
    os.symlink(kept / "environments", folder / ".retinue" / "environments")
    if (kept / "base.lock").exists():
        (folder / "base.lock").write_bytes((kept / "base.lock").read_bytes())


@contextmanager
def clocked() -> Iterator[Spent]:
    """Adds up what the trainers say of their time."""
    from retinue.build.train import Trainers

    spent, train = Spent(), Trainers.train

    def timed(self: Any, *given: Any, **named: Any) -> Any:
        result = train(self, *given, **named)
        spent.training += result.seconds
        spent.conversion += result.conversion_seconds
        spent.cpu += result.cpu_seconds
        return result

    with mock.patch.object(Trainers, "train", timed):
        yield spent


def cpu() -> float:
    """Seconds of user and system time of this process and of all that ended below it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measured(folder: Path, names: tuple[str, ...] = (), profile: bool = False) -> tuple[float, float, Spent, Any]:
    """(wall seconds, CPU seconds, trainings and conversions, outcome) of an apply."""
    from retinue.project import Asked, Project

    project = Project(folder)
    try:
        asked = Asked(select=names) if names else Asked()
        project.plan(asked)  # fingerprints and the lock: a plan's, not a build's
        with clocked() as spent:
            started, before = time.perf_counter(), cpu()
            outcome = profiled(lambda: project.apply(asked=asked)) if profile else project.apply(asked=asked)
            return time.perf_counter() - started, cpu() - before, spent, outcome
    finally:
        project.close()


def profiled(act: Any) -> Any:
    """Run it under the profiler of all threads and print the hottest functions."""
    import cProfile
    import pstats
    import threading

    from retinue.control.run import Run

    found: list[cProfile.Profile] = []
    work = Run._work

    def watched(self: Any, model: str) -> Any:
        mine = getattr(local, "profile", None)
        if mine is None:
            mine = local.profile = cProfile.Profile()
            found.append(mine)
        return mine.runcall(work, self, model)

    local = threading.local()
    main = cProfile.Profile()
    with mock.patch.object(Run, "_work", watched):
        outcome = main.runcall(act)
    for profile in (*found, main):
        pstats.Stats(profile).sort_stats("cumulative").print_stats(70)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--models", type=int, default=0)
    options = parser.parse_args()
    models = options.models or (60 if options.quick else 1_000)
    with tempfile.TemporaryDirectory(prefix="retinue-build-") as name:
        folder = Path(name)
        write(folder, models)
        measured(folder, ("returned-s0000",))
        (HERE / ".cache" / "build" / "base.lock").write_bytes((folder / "base.lock").read_bytes())
        wall, used, spent, outcome = measured(folder, profile=options.profile)
    count = len(outcome.models)
    built = sum(m.status == "built" for m in outcome.models)
    own = spent.training + spent.conversion
    each = (wall - own) / count * 1e3
    print(f"{count:,} models, {built:,} built, one worker; ms a model:")
    for what, seconds in (
        ("wall time of apply", wall),
        ("  training (the user's)", spent.training),
        ("  conversion", spent.conversion),
        ("overhead, wall", wall - own),
        ("CPU of all processes", used),
        ("overhead, CPU", used - spent.cpu),
    ):
        print(f"  {what:<28}{seconds / count * 1e3:>9.1f}")
    judged = not options.quick and not options.profile
    if judged:
        print(f"  at most {PROMISE:.0f} ms of overhead: {'met' if each <= PROMISE else 'MISSED'}")
    if built != count:
        print(next(m for m in outcome.models if m.status != "built"))
    return 0 if built == count and (each <= PROMISE or not judged) else 1


if __name__ == "__main__":
    sys.exit(main())
