"""A small portfolio that is planned and built for real: 900 rows, an upstream, a family of three, a fallback.

`built()` gives the folder of one whose first apply is done; tests copy it, so that it is built once per session.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retinue.build import workshop
from retinue.build.environment import lock
from retinue.build.train import Trainers
from retinue.control.events import Outcome
from retinue.core.errors import Location
from retinue.core.plan import Build, Plan, Regate
from retinue.core.portfolio import EnvironmentSpec
from retinue.project import Asked, Project
from retinue.settings import Settings, load_settings

ENVIRONMENTS = Path(tempfile.gettempdir()) / "retinue-test-environments"
"""Kept between runs: what is installed once need not be installed again."""
MEMBERS = ("late-north", "late-south", "late-west")
MODELS = ("delay", "late-all", *MEMBERS)
REGIONS = {"north": 400, "south": 280, "west": 200, "east": 20}

PORTFOLIO = """\
portfolio: harbour
format: 1
cutoff: last 20%

data:
  calls:
    path: data/calls.parquet
    time: moment
    key: id
    available: {delay: 1h}
  judged:
    sql: |
      select c.*, c.delay > 1.0 as late  -- what the family predicts
      from calls c
    time: moment
    key: id
    available: {late: 1h, delay: 1h}

environments:
  base: {requirements: envs/base.txt}

defaults: {environment: base}

models:
  delay:
    train: harbour.delay:train
    data: calls
    task: regression
    features: [hour, swell]
    target: delay
    params: {alpha: 1.0}
    gates:
      mae: {vs_champion: not_worse, margin: 50%}
    owner: ada@example.org

  "late-{region}":
    for_each: {distinct: [region], of: judged, min_rows: 150, lapse: keep}
    train: harbour.late:train
    data: {judged: {where: {region: "{region}"}}}
    needs:
      delay: {output: delay, inputs: {hour: hour}}
    features: [wind, swell, delay]
    target: late
    task: binary
    params: {C: 1.0}
    gates:
      roc_auc: {min: 0.55}
      log_loss: {vs_champion: not_worse, margin: 40%, on_inconclusive: pooled}
    description: Will this ship be late?
    tags: [harbour]

  late-all:
    train: harbour.late:train
    data: judged
    task: binary
    features: [wind, swell]
    target: late
    params: {C: 1.0}
    gates:
      roc_auc: {min: 0.55}

endpoints:
  late:
    select: "late-{region}"
    fallback: {model: late-all, when: [unknown, unavailable]}
"""

DELAY = """\
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline


def train(job):
    table = job.data["calls"].to_pandas()
    model = make_pipeline(SimpleImputer(), Ridge(alpha=job.params["alpha"]))
    return model.fit(table[list(job.features)], table[job.target])
"""

LATE = """\
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def train(job):
    table = job.data["judged"].to_pandas()
    model = make_pipeline(SimpleImputer(), LogisticRegression(C=job.params["C"]))
    return model.fit(table[list(job.features)], table[job.target].astype(bool))
"""


def rows(counts: Mapping[str, int], *, seed: int = 7, first: int = 0, since: str = "2026-01-01") -> pa.Table:
    """Calls of ships, one every half hour from `since`; `delay` in hours follows the hour and the swell."""
    rng = np.random.default_rng(seed)
    region = rng.permutation(np.repeat(list(counts), list(counts.values())))
    n = len(region)
    moment = np.datetime64(since, "us") + np.arange(n) * np.timedelta64(1800, "s")
    hour = (np.arange(n) // 2) % 24
    swell, wind = rng.normal(size=n), rng.normal(size=n)
    delay = 1.0 + 0.1 * (hour - 12.0) + swell + 0.8 * wind + 0.3 * rng.normal(size=n)
    return pa.table(
        {
            "id": np.arange(first, first + n),
            "moment": pa.array(moment),
            "region": region,
            "hour": hour.astype(np.int64),
            "swell": swell,
            "wind": wind,
            "delay": delay,
        }
    )


class _SharedEnvironments(Settings):
    @property
    def environments(self) -> Path:
        return ENVIRONMENTS


class _LastingTrainers(Trainers):
    """Real trainers that outlive an apply: starting one costs seconds, and nothing here is about that."""

    def close(self) -> None:
        pass

    def end(self) -> None:
        super().close()


@functools.cache
def _trainers() -> Trainers:
    trainers = _LastingTrainers(2)
    atexit.register(trainers.end)
    return trainers


def _lasting(workers: int, scratch: Path | None = None) -> Trainers:
    return _trainers()


@dataclass(frozen=True)
class Harbour:
    """A portfolio's folder and what tests do with it."""

    root: Path
    stage: str = "prod"

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────

    def edit(self, old: str, new: str, name: str = "portfolio.yaml") -> None:
        """Replace text that stands in the file, all over."""
        path = self.root / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new))

    @property
    def data(self) -> Path:
        return self.root / "data" / "calls.parquet"

    def append(self, counts: Mapping[str, int], seed: int = 11) -> None:
        """Add later rows."""
        there = pq.read_table(self.data)
        since = str(there.column("moment")[-1].as_py() + np.timedelta64(1800, "s").astype(object)).replace(" ", "T")
        more = rows(counts, seed=seed, first=there.num_rows, since=since)
        pq.write_table(pa.concat_tables([there, more.cast(there.schema)]), self.data)

    def keep(self, wanted: Callable[[Any], Any]) -> None:
        """Keep the rows (a DataFrame in, a DataFrame out)."""
        frame = wanted(pq.read_table(self.data).to_pandas())
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), self.data)

    # ── acts, each as a fresh process would ─────────────────────────────────────────────────────────────────

    def project(self) -> Project:
        settings = load_settings(self.root, {})
        values = {field.name: getattr(settings, field.name) for field in fields(settings)}
        return Project(self.root, self.stage, settings=_SharedEnvironments(**values))

    def do(self, act: Callable[[Project], Any]) -> Any:
        """Do something with a project of its own, closed afterwards."""
        project = self.project()
        try:
            with mock.patch.object(workshop, "Trainers", _lasting):
                return act(project)
        finally:
            project.close()

    def plan(self, **asked: Any) -> Plan:
        plan: Plan = self.do(lambda p: p.plan(Asked(**asked)))
        return plan

    def apply(self, **asked: Any) -> Outcome:
        outcome: Outcome = self.do(lambda p: p.apply(asked=Asked(**asked)))
        return outcome

    def live(self) -> dict[str, str]:
        """Model → version id of the current release."""
        release = self.do(lambda p: p.current())
        return {name: entry.version for name, entry in release.models.items()} if release else {}

    def at(self, stage: str) -> Harbour:
        """The same at another stage."""
        return replace(self, stage=stage)

    def holds(self) -> dict[str, str]:
        """Model → cause of its active hold."""
        holds = self.do(lambda p: p.registry.holds("harbour", self.stage))
        return {hold.model: hold.cause for hold in holds}

    def number(self) -> int | None:
        release = self.do(lambda p: p.current())
        return release.number if release else None

    def recorded(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table of the registry."""
        import sqlite3

        found: dict[str, list[tuple[Any, ...]]] = {}
        connection = sqlite3.connect(f"file:{self.root / '.retinue' / 'state.db'}?mode=ro", uri=True)
        try:
            names = [n for (n,) in connection.execute("select name from sqlite_master where type = 'table'")]
            for name in sorted(names):
                found[name] = sorted(connection.execute(f"select * from {name}").fetchall(), key=repr)
        finally:
            connection.close()
        return found


def steps(plan: Plan) -> dict[str, str]:
    """Model → "build" or "regate", for the steps that do work."""
    kinds = {Build: "build", Regate: "regate"}
    return {s.model: kinds[type(s)] for s in plan.steps if isinstance(s, Build | Regate)}


def kinds(plan: Plan) -> set[str]:
    """The kinds of a plan's steps."""
    return {type(s).__name__ for s in plan.steps}


def statuses(outcome: Outcome) -> dict[str, str]:
    """Model → how it fared."""
    return {m.model: m.status for m in outcome.models}


@functools.cache
def _lock_text() -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "base.txt").write_text("scikit-learn==1.9.1\npandas==3.1.1\n")
        return lock(EnvironmentSpec("base", Location("portfolio.yaml"), "base.txt"), Path(folder)).text


def write(root: Path, portfolio: str = PORTFOLIO, files: Mapping[str, str] | None = None) -> Harbour:
    """A portfolio that nothing was applied of, in a new folder."""
    for name, text in {"harbour/__init__.py": "", "harbour/delay.py": DELAY, "harbour/late.py": LATE}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text((files or {}).get(name, text))
    (root / "portfolio.yaml").write_text(portfolio)
    (root / "retinue.toml").write_text("[build]\nworkers = 2\n")
    (root / "envs").mkdir()
    (root / "envs" / "base.txt").write_text("scikit-learn==1.9.1\npandas==3.1.1\n")
    (root / "envs" / "base.lock").write_text(_lock_text())
    (root / "data").mkdir()
    harbour = Harbour(root)
    pq.write_table(rows(REGIONS), harbour.data)
    ENVIRONMENTS.mkdir(exist_ok=True)
    return harbour


@functools.cache
def built() -> Path:
    """The folder of a portfolio whose first apply is done. Not to be changed: copy it."""
    folder = Path(tempfile.mkdtemp(prefix="retinue-harbour-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    harbour = write(folder / "built")
    outcome = harbour.apply()
    assert not outcome.failed, outcome
    return harbour.root


def copy(target: Path, source: Path | None = None) -> Harbour:
    """A copy of a built portfolio ."""
    shutil.copytree(source or built(), target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return Harbour(target)
