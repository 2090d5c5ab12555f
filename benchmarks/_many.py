"""A portfolio of many small models whose state is really recorded, but whose training is left out.

The real loader, catalog, planner, applier and registry run; only the builder registers tiny artifacts instead of
training. `make(folder, stores, products)` gives `stores × (products + 1) + stores × mixes` models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec

from retinue import compose
from retinue.control.apply import Applier
from retinue.control.events import utc_now
from retinue.control.planfile import plan_id
from retinue.core.contract import outputs_of
from retinue.core.gates import gates_digest, passed
from retinue.core.identity import digest
from retinue.core.portfolio import Metadata
from retinue.core.state import BUILD_SECONDS, GATES_SECONDS, Evidence, Snapshot, Version
from retinue.core.wish import snapshot_hash
from retinue.project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retinue.build.chain import Beside
    from retinue.build.pipeline import Built, Champion
    from retinue.core.plan import Build, Regate
    from retinue.core.portfolio import ModelSpec
    from retinue.store.base import Registry

ROWS = 12  # of each pair of store and product

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
  "level-{store}":
    for_each: {distinct: [store], of: sales, min_rows: 5}
    train: shops:train
    data: {sales: {where: {store: "{store}"}}}
    task: regression
    features: [price, weekday]
    target: units
    tags: [levels]
    gates: {mae: {max: 1000}}

  "demand-{store}-{product}":
    for_each: {distinct: [store, product], of: sales, min_rows: 5}
    override: {"s0000,p0000": {params: {depth: 4}}}
    train: shops:train
    data: {sales: {where: {store: "{store}", product: "{product}"}}}
    task: regression
    features: [price, weekday]
    target: units
    params: {depth: 3}
    gates:
      mae: {max: 1000, vs_champion: not_worse, margin: 10%}
    retrain: weekly
    owner: shops@example.org
    description: How many are sold?

  "mix-{store}-{product}":
    for_each: {distinct: [store, product], of: MIXED, min_rows: 5}
    train: shops:train
    data: {sales: {where: {store: "{store}", product: "{product}"}}}
    needs:
      "level-{store}": {output: units, column: level}
    task: regression
    features: [price, weekday, level]
    target: units
    gates: {mae: {max: 1000}}

policies:
  retrain:
    weekly: {when: [schedule], schedule: "0 2 * * SUN", budget: 20 per day}

endpoints:
  demand: {select: "demand-{store}-{product}"}
"""

CODE = "def train(job):\n    raise SystemExit('never trained')\n"


@dataclass(frozen=True)
class Registrar:
    """Stands where the pipeline stands: registers a version for every step, with evidence that passes."""

    registry: Registry
    portfolio: str
    artifact: str
    lock: str

    def build(
        self, step: Build | Regate, spec: ModelSpec, beside: Beside, champion: Champion | None, *, sibling: bool = False
    ) -> Built:
        """Record snapshot and version."""
        from retinue.build.pipeline import Built

        upstreams = {m: v.id for m, v in beside.items()}
        snapshot = snapshot_hash(step.data, upstreams)
        manifest = self._manifest(step, spec, snapshot)
        self.registry.put_snapshots([Snapshot(snapshot, {**step.data, "upstreams": upstreams})])
        made = Version(digest(manifest), self.portfolio, spec.name, step.definition, snapshot, manifest, utc_now())
        version = self.registry.register(made, sibling=sibling)
        return Built(version, self._evidence(version, spec, upstreams), None, False)

    def regate(self, step: Regate, spec: ModelSpec, beside: Beside, champion: Champion) -> Built:
        """The same version with new evidence."""
        from retinue.build.pipeline import Built

        upstreams = {m: v.id for m, v in beside.items()}
        return Built(champion.version, self._evidence(champion.version, spec, upstreams), None, True)

    def _evidence(self, version: Version, spec: ModelSpec, upstreams: Mapping[str, str]) -> Evidence:
        names = ("mae.max", "contract.schema", "contract.order", "contract.single", BUILD_SECONDS, GATES_SECONDS)
        results = tuple(replace(passed(name, "as simulated"), estimate=0.5).to_json() for name in names)
        gates = gates_digest(spec.gates, spec.task)
        return Evidence(version.id, dict(upstreams), gates, "pass", results, None, utc_now())

    def _manifest(self, step: Build | Regate, spec: ModelSpec, snapshot: str) -> dict[str, Any]:
        field = {"dtype": "FP64", "nullable": False, "width": 1}
        signature = {
            "task": spec.task,
            "target": spec.target,
            "classes": None,
            "inputs": [{"name": name, **field} for name in spec.features],
            "outputs": [msgspec.to_builtins(f) for f in outputs_of(spec.task, spec.target, "FP64", 0)],
            "container": "array",
            "trusted": [],
            "onnx": {"inputs": [{"name": "X", "features": list(spec.features), "dtype": "FP32"}], "outputs": {}},
        }
        stored = {"digest": self.artifact, "format": "onnx", "size": 1_000, "signature": signature}
        seen = {"missing": 0.0, "low": 0.0, "high": 1.0, "mean": 0.5, "std": 0.25, "categories": None}
        return {
            "model": spec.name,
            "family": spec.family,
            "key": [list(part) for part in spec.key],
            "definition": step.definition,
            "snapshot": snapshot,
            "spec": msgspec.to_builtins(replace(spec, metadata=Metadata())),
            "needs": [
                {"model": n.model, "output": n.output, "column": n.column, "inputs": dict(n.inputs)} for n in spec.needs
            ],
            "artifact": stored,
            "native": stored,
            "compiled": {"reason": None, "parity": None},
            "environment": self.lock,
            "profile": [{"name": name, **seen} for name in spec.features],
            "rows": {"train": ROWS - 2, "holdout": 2, "dropped": {}},
            "logged": {},
            "files": {},
            "toolchain": {"retinue": "0"},
        }


def make(folder: Path, stores: int, products: int, mixes: int) -> Project:
    """A project in `folder` whose models are all live: level-*, demand-* and the first `mixes` products as mix-*."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    count = stores * products * ROWS
    rows = np.arange(count)
    store, product = rows // (products * ROWS), rows // ROWS % products
    table = pa.table(
        {
            "id": rows,
            "moment": pa.array(np.datetime64("2026-01-01", "us") + rows % ROWS * np.timedelta64(1, "D")),
            "store": [f"s{n:04}" for n in store],
            "product": [f"p{n:04}" for n in product],
            "price": (rows % 97) / 7,
            "weekday": rows % 7,
            "units": (rows % 31).astype("float64"),
        }
    )
    pq.write_table(table, folder / "sales.parquet")
    pq.write_table(table.filter(pa.array(product < mixes)), folder / "mixed.parquet")
    text = PORTFOLIO.replace("of: MIXED", "of: mixed")
    text = text.replace("environments:", "  mixed: {path: mixed.parquet, time: moment, key: id}\n\nenvironments:", 1)
    (folder / "portfolio.yaml").write_text(text)
    (folder / "shops.py").write_text(CODE)
    (folder / "base.txt").write_text("numpy\n")
    lock_without_installing(folder)
    for file in folder.iterdir():  # as files are that nobody has just written
        if file.is_file():
            os.utime(file, (1_760_000_000, 1_760_000_000))
    project = Project(folder)
    apply_all(project)
    return project


def lock_without_installing(folder: Path) -> None:
    """Write the lock by hand: resolving one needs a package index, and no plan looks at what is in it."""
    import sys

    from retinue.build import environment

    wishes = digest([*environment._wishes(folder / "base.txt"), *environment.IMPLIED, None])
    python = ".".join(map(str, sys.version_info[:3]))
    header = environment._HEADER.format(name="base.txt", wishes=wishes, python=python)
    (folder / "base.lock").write_text(f"{header}numpy==2.0.0 --hash=sha256:{'0' * 64}\n")


def apply_all(project: Project, plan: Any = None) -> Any:
    """Carry a plan out with the real applier, training left out."""
    plan = plan or project.plan()
    lock = next(iter(project._locks(lambda text: None).values()))
    builder = Registrar(project.registry, plan.portfolio, project.artifacts.put(b"a tiny model"), lock.digest)
    bundles = {d: project.artifacts.put(b"a bundle") for d in plan.definitions}
    with without_syncing(project):
        return Applier(
            registry=project.registry,
            builder=builder,
            releases=project.releases,
            who=compose.who(),
            holder="benchmark",
            workers=1,
        ).apply(replace(plan, bundles=bundles), plan_id=plan_id(plan))


@contextmanager
def without_syncing(project: Project) -> Iterator[None]:
    """Ten thousand versions are made in one go here: the disk's latency is no part of what is measured later."""
    from sqlalchemy import event

    engine = getattr(project.registry, "engine", None)

    def relax(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    if engine is None or engine.dialect.name != "sqlite":
        yield
        return
    with mock.patch.object(os, "fsync"):
        event.listen(engine, "connect", relax)
        engine.dispose()
        try:
            yield
        finally:
            event.remove(engine, "connect", relax)
            engine.dispose()
