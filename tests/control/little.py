"""A little world for the laws of planning and applying: real planner, applier and rollback, models made of numbers.

A model of quality q passes a gate of at most q. One that was built beside upstreams of a certain parity passes
beside upstreams of that parity only, so that upstream changes sometimes force a rebuild.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retinue.build.chain import Beside
from retinue.build.pipeline import Built, Champion
from retinue.control.actual import add_candidates, read_actual
from retinue.control.apply import Applier
from retinue.control.effects import OnEffect, ignore
from retinue.control.events import Outcome, utc_now
from retinue.control.planfile import plan_id
from retinue.core.contract import Field, Schema
from retinue.core.declaration import hashed_body
from retinue.core.errors import Location, TrainingError
from retinue.core.gates import gates_digest
from retinue.core.identity import digest
from retinue.core.plan import Build, Plan, Regate
from retinue.core.planner import make_plan
from retinue.core.portfolio import (
    CutoffSpec,
    DataUse,
    Gates,
    Metadata,
    MetricGate,
    ModelSpec,
    Need,
    Portfolio,
    TableSpec,
)
from retinue.core.settings_body import settings_body
from retinue.core.state import Evidence, Snapshot, Verdict, Version
from retinue.core.wish import Options, Wish, WishedModel, snapshot_hash
from retinue.store.fake import MemoryRegistry

WHERE = Location("portfolio.yaml", 1)
TABLES = {"t": TableSpec("t", WHERE, path="t.parquet", time="moment")}


@dataclass(frozen=True)
class Wished:
    """What the file says of one model."""

    needs: tuple[str, ...] = ()
    quality: int = 3
    parity: int = 0
    gate: int = 0
    owner: str = "ada"
    raises: bool = False
    was: str | None = None


def spec_of(name: str, wished: Wished) -> ModelSpec:
    return ModelSpec(
        name=name,
        where=WHERE,
        train="m:f",
        environment="base",
        data=(DataUse("t"),),
        features=("x", *wished.needs),
        target="y",
        task="regression",
        params={"name": name, "quality": wished.quality, "parity": wished.parity},
        needs=tuple(Need(up, "y", up) for up in wished.needs),
        gates=Gates((MetricGate("r2", minimum=float(wished.gate)),)),
        metadata=Metadata(owner=wished.owner),
        was=wished.was,
    )


SCHEMA = Schema((Field("x", "FP64"),), (Field("y", "FP64", nullable=False),))


@dataclass
class Builder:
    """Builds and tests in no time, by the rules above."""

    registry: MemoryRegistry
    wished: Mapping[str, Wished]
    trained: list[str] = field(default_factory=list)

    def build(
        self, step: Build | Regate, spec: ModelSpec, beside: Beside, champion: Champion | None, *, sibling: bool = False
    ) -> Built:
        if self.wished[spec.name].raises:
            raise TrainingError(f"{spec.name} raises")
        upstreams = {m: v.id for m, v in beside.items()}
        snapshot = snapshot_hash(step.data, upstreams)
        found = self.registry.versions_of_pairs("p", [(step.definition, snapshot)])
        version = found.get((step.definition, snapshot))
        if version is None or sibling:
            self.trained.append(spec.name)
            manifest = {
                "model": spec.name,
                "family": None,
                "key": [],
                "definition": step.definition,
                "snapshot": snapshot,
                "needs": [{"model": n.model, "output": "y", "column": n.column, "inputs": {}} for n in spec.needs],
                "artifact": {"digest": "0" * 64, "format": "onnx", "signature": {}},
                "environment": "e",
                "params": dict(spec.params),
                "suits": _parities(beside),
                "try": len(self.trained) if sibling else 0,
            }
            self.registry.put_snapshots([Snapshot(snapshot, {**step.data, "upstreams": upstreams})])
            made = Version(digest(manifest), "p", spec.name, step.definition, snapshot, manifest, utc_now())
            version = self.registry.register(made, sibling=sibling)
        return self._tested(version, spec, beside)

    def regate(self, step: Regate, spec: ModelSpec, beside: Beside, champion: Champion) -> Built:
        return self._tested(champion.version, spec, beside)

    def _tested(self, version: Version, spec: ModelSpec, beside: Beside) -> Built:
        minimum = spec.gates.metrics[0].minimum or 0.0
        good = version.manifest["params"]["quality"] >= minimum and version.manifest["suits"] == _parities(beside)
        verdict: Verdict = "pass" if good else "fail"
        results = ({"gate": "r2.min", "metric": "r2", "verdict": verdict},)
        gates = gates_digest(spec.gates, spec.task)
        ids = {m: v.id for m, v in beside.items()}
        return Built(version, Evidence(version.id, ids, gates, verdict, results, None, utc_now()), None)


def _parities(beside: Beside) -> dict[str, int]:
    return {name: version.manifest["params"]["parity"] for name, version in sorted(beside.items())}


class World:
    """A registry and the files that were wished of it, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = MemoryRegistry()
        self.trained: list[str] = []

    def wish(self, wished: Mapping[str, Wished], rows: int = 1, stage: str = "prod") -> Wish:
        specs = {name: spec_of(name, w) for name, w in wished.items()}
        release = self.registry.current("p", stage)
        models: dict[str, WishedModel] = {}
        for name, spec in specs.items():
            body = hashed_body(
                spec,
                code={"m.py": "0"},
                lock="l",
                tables=TABLES,
                cutoff=CutoffSpec(),
                schemas=dict.fromkeys(specs, SCHEMA),
            )
            fresh = {"cutoff": "2026", "sources": {"t": str(rows)}, "tables": [_table(rows)]}
            models[name] = WishedModel(
                spec, digest(body), body, "b", gates_digest(spec.gates, spec.task), fresh, self._pinned(release, spec)
            )
        portfolio = Portfolio("p", "/", "portfolio.yaml", CutoffSpec(), TABLES, {}, {}, {}, {})
        return Wish("p", stage, models, {}, TABLES, settings_body(portfolio, specs.values()))

    def _pinned(self, release: Any, spec: ModelSpec) -> dict[str, Any] | None:
        entries = release.models if release else {}
        entry = entries.get(spec.name) or entries.get(spec.was)
        if entry is None:
            return None
        version = self.registry.versions([entry.version])[entry.version]
        body = self.registry.snapshots([version.snapshot])[version.snapshot].body
        return {k: v for k, v in body.items() if k != "upstreams"}

    def plan(
        self, wished: Mapping[str, Wished], options: Options | None = None, rows: int = 1, stage: str = "prod"
    ) -> Plan:
        wish = self.wish(wished, rows, stage)
        actual = read_actual(self.registry, "p", stage)
        definitions = {w.definition for w in wish.models.values()}
        actual = add_candidates(actual, self.registry, "p", definitions)
        allowed = replace(options or Options(), allow_weaker=frozenset(wished), allow_remove=frozenset("abcdefgh"))
        return make_plan(wish, actual, allowed)

    def apply(
        self,
        wished: Mapping[str, Wished],
        options: Options | None = None,
        rows: int = 1,
        stage: str = "prod",
        on_effect: OnEffect = ignore,
    ) -> Outcome:
        builder = Builder(self.registry, wished, self.trained)
        plan = self.plan(wished, options, rows, stage)
        assert not plan.blocked
        applier = Applier(self.registry, builder, self.folder, "ada", "ada", workers=1, on_effect=on_effect)
        return applier.apply(plan, plan_id=plan_id(plan))

    def live(self, stage: str = "prod") -> dict[str, str]:
        release = self.registry.current("p", stage)
        return {name: entry.version for name, entry in release.models.items()} if release else {}

    def unproved(self, stage: str = "prod") -> list[str]:
        """Live models that never passed beside the upstreams that they now read, or lack one."""
        live = self.live(stage)
        versions = self.registry.versions(live.values())
        evidence = self.registry.evidence(live.values())
        found = []
        for name, version in live.items():
            reads = _closure(version, live, versions)
            rows = [e for e in evidence[version] if e.verdict == "pass" and dict(e.upstreams) == reads]
            if None in reads.values() or not rows:
                found.append(name)
        return found


def _closure(version: str, live: Mapping[str, str], versions: Mapping[str, Version]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    todo = [n["model"] for n in versions[version].manifest["needs"]]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = live.get(name)
            if name in live:
                todo += [n["model"] for n in versions[live[name]].manifest["needs"]]
    return found


def _table(rows: int) -> dict[str, Any]:
    return {
        "table": "t",
        "filters": [],
        "columns": ["x", "y"],
        "rows": rows,
        "until": str(rows),
        "fingerprint": f"f{rows}",
    }
