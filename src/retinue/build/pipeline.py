"""From a planned step to a registered version and what the gates say of it.

    data ──► upstream columns ──► train ──► compile ──► register ──► evaluate

Every step is content-addressed: a version that is already registered for its definition and snapshot is not
trained again, evidence that already passes is not gathered again, so a killed apply goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from typing import Any

import msgspec
import numpy as np

from retinue.build.around import around, grouping, hidden
from retinue.build.backtest import Backtested, backtest, told
from retinue.build.chain import Beside, Chain, mapped_fields, spec_of
from retinue.build.columns import Columns, Table, profile, target_values, to_columns
from retinue.build.compile import Served, choose
from retinue.build.data_checks import DataChecks
from retinue.build.dataset import DataSet, split
from retinue.build.evaluate import Case, Evaluation, evaluate
from retinue.build.forecast import origin_blocks
from retinue.build.further import with_further
from retinue.build.outside import evaluate_made, made_data
from retinue.build.preparation import blamed
from retinue.build.signatures import fields_of, levels, nullable, required
from retinue.build.timing import ROWS
from retinue.build.train import TrainResult
from retinue.build.whole import find_whole, recorded_pass, register_whole
from retinue.build.workshop import Workshop
from retinue.core.contract import NUMERIC, Schema
from retinue.core.errors import DataError, TrainingError
from retinue.core.gates import GateResult, gates_digest, passed
from retinue.core.identity import digest
from retinue.core.plan import Build, Regate
from retinue.core.portfolio import Metadata, ModelSpec
from retinue.core.state import BUILD_SECONDS, GATES_SECONDS, MEMORY_BYTES, Evidence, Snapshot, Version
from retinue.core.wish import snapshot_hash
from retinue.sources.base import Pin
from retinue.store.base import Registry

Json = Any


@dataclass(frozen=True, slots=True)
class Built:
    """A version and what its gates said. `reused`: it was registered before; `known`: so was its evidence."""

    version: Version
    evidence: Evidence
    evaluation: Evaluation | None
    reused: bool = False
    known: bool = False


@dataclass(frozen=True, slots=True)
class Champion:
    """The live version with the upstream versions it reads today."""

    version: Version
    beside: Beside


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Builds and tests models, one call per model, many at once."""

    workshop: Workshop
    chain: Chain
    registry: Registry
    portfolio: str
    clock: Callable[[], str]
    registered: Callable[[str], None]  # told after a version was recorded, before it is tested
    checks: DataChecks

    def build(
        self,
        step: Build | Regate,
        spec: ModelSpec,
        beside: Beside,
        champion: Champion | None,
        *,
        sibling: bool = False,
    ) -> Built:
        """Train (or find) the version of a step beside these upstreams and test it.

        Raises TrainingError and DataError for what the user's code or data does wrong.
        """
        with self.workshop.quiet.busy():
            return self._build(step, spec, beside, champion, sibling)

    def _build(
        self, step: Build | Regate, spec: ModelSpec, beside: Beside, champion: Champion | None, sibling: bool
    ) -> Built:
        snapshot = snapshot_hash(step.data, {m: v.id for m, v in beside.items()})
        found = None if sibling else self._find(step.definition, snapshot)
        started = datetime.now(UTC)
        reused = found is not None
        data: DataSet | None = None
        if found is None:
            before = self.workshop.snapshot(champion.version.snapshot)["sources"] if champion else None
            self.checks.require(spec, step.data["sources"], before)
            data = self._data(step.data, spec, beside, champion)
            found = self._make(step, spec, beside, data, snapshot, sibling)
            self.registered(spec.name)
        seconds = (datetime.now(UTC) - started).total_seconds()
        known = self._known(found, spec, beside, champion)
        if known is not None:
            return Built(found, known, None, reused, known=True)
        if data is None:
            data = self._data(step.data, spec, beside, champion)
        started = datetime.now(UTC)
        evaluation = self._evaluate(found, spec, spec, beside, champion, data)
        evaluation = required(evaluation, found, spec, champion.version if champion else None)
        gated = (datetime.now(UTC) - started).total_seconds()
        measured = [replace(passed(GATES_SECONDS, "predictions and tests"), estimate=gated)]
        if not reused:
            measured.append(replace(passed(BUILD_SECONDS, "data, training, conversion"), estimate=seconds))
            memory = self.workshop.weigh(found, like=True)
            if memory is not None:
                measured.append(replace(passed(MEMORY_BYTES, "of a loaded copy of its kind"), estimate=float(memory)))
        evidence = self._evidence(found, spec, beside, evaluation, champion, measured)
        return Built(found, evidence, evaluation, reused)

    def regate(self, step: Regate, spec: ModelSpec, beside: Beside, champion: Champion) -> Built:
        """Test the live version of a step beside these upstreams, against itself beside today's."""
        with self.workshop.quiet.busy():
            return self._regate(step, spec, beside, champion)

    def _regate(self, step: Regate, spec: ModelSpec, beside: Beside, champion: Champion) -> Built:
        version = champion.version
        known = self._known(version, spec, beside, champion)
        if known is not None:
            return Built(version, known, None, reused=True, known=True)
        evaluation, rival = self._judge(step.data, spec, beside, champion)
        return Built(version, self._evidence(version, spec, beside, evaluation, rival, []), evaluation, reused=True)

    def judge(self, version: Version, pinned: Mapping[str, Json], spec: ModelSpec, beside: Beside) -> Evaluation:
        """What the gates of `spec` say of a live version beside what it reads today; nothing is recorded."""
        with self.workshop.quiet.busy():
            return self._judge(pinned, spec, beside, Champion(version, beside))[0]

    def _judge(
        self, pinned: Mapping[str, Json], spec: ModelSpec, beside: Beside, champion: Champion
    ) -> tuple[Evaluation, Champion | None]:
        version = champion.version
        own = replace(spec_of(version), gates=spec.gates)
        data = self._data(pinned, own, beside, champion)
        moved = any(champion.beside.get(m) is None or champion.beside[m].id != v.id for m, v in beside.items())
        rival = champion if moved else None  # beside the same upstreams it would be compared with itself
        return self._evaluate(version, own, spec, beside, rival, data), rival

    # ── finding ─────────────────────────────────────────────────────────────────────────────────────────────

    def _find(self, definition: str, snapshot: str) -> Version | None:
        return find_whole(self.registry, self.workshop.artifacts, self.portfolio, (definition, snapshot))

    def _known(self, version: Version, spec: ModelSpec, beside: Beside, champion: Champion | None) -> Evidence | None:
        """Recorded evidence that passes, against this champion; what failed is tested anew when it is asked for."""
        gates = gates_digest(spec.gates, spec.task)
        upstreams = {m: v.id for m, v in beside.items()}
        rival = champion.version.id if champion is not None and champion.version.id != version.id else None
        return recorded_pass(self.registry, version, gates, upstreams, rival)

    # ── data ────────────────────────────────────────────────────────────────────────────────────────────────

    def _data(self, pinned: Mapping[str, Json], spec: ModelSpec, beside: Beside, champion: Champion | None) -> DataSet:
        if not spec.data:
            return made_data(spec)
        tables = self.workshop.tables
        pin = Pin.from_json(pinned["sources"])
        primary = spec.data[0].table
        there = tables.columns(primary)
        extra = set(mapped_fields(spec, beside))
        if champion is not None:
            rival = spec_of(champion.version)
            read = {*rival.features, *mapped_fields(rival, champion.beside)} & there.keys()
            # What is now said to be known too late stopped the champion, not its successor.
            late = {column for column, _ in tables.spec(primary).available}
            extra |= {f for f in read - late if there[f] != "TIMESTAMP"}
        table = tables.spec(primary)
        grouped = grouping(spec, there) - {*spec.features, spec.target, table.time or "", table.key or "", *extra}
        grouped -= {*spec.forecast.series}
        columns = sorted((extra | grouped) - {need.column for need in spec.needs})
        if pinned["cutoff"] is not None:
            features = sorted({f for f in (*spec.features, *mapped_fields(spec, beside)) if f in there})
            tables.check_lookahead(primary, features, pin, pinned["cutoff"])
        return hidden(split(tables, spec, pin, pinned["cutoff"], columns), grouped)

    def _holdout(self, data: DataSet, spec: ModelSpec, beside: Beside) -> Table:
        return self.chain.complete(data.holdout, spec.needs, beside)

    # ── making ──────────────────────────────────────────────────────────────────────────────────────────────

    def _make(
        self, step: Build | Regate, spec: ModelSpec, beside: Beside, data: DataSet, snapshot: str, sibling: bool
    ) -> Version:
        say = self.workshop.say
        tables = dict(data.train)
        if spec.needs:
            say(spec.name, "upstream columns, out of fold")
            tables[data.primary] = self.chain.out_of_fold(data, tables[data.primary], spec, beside, step.data["cutoff"])
        for note in data.notes:
            say(spec.name, note)
        say(spec.name, f"training on {tables[data.primary].num_rows:,} rows")
        held = to_columns(self._holdout(data, spec, beside), spec.features)
        result = self.workshop.train(spec, step.definition, tables, held)
        say(spec.name, "proving the compiled model equal")
        served = choose(result, held, self.workshop.trainers)
        manifest = self._manifest(step, spec, data, tables[data.primary], (result, served), snapshot)
        job = Backtested(self.chain, step.definition, step.data, beside)
        tested = backtest(job, spec, data, tables[data.primary])
        manifest |= {"backtest": tested} if tested else {}
        upstreams = {m: v.id for m, v in beside.items()}
        self.registry.put_snapshots([Snapshot(snapshot, {**step.data, "upstreams": upstreams})])
        version = Version(
            digest(manifest), self.portfolio, spec.name, step.definition, snapshot, manifest, self.clock()
        )
        self._keep_log(version, result)
        return register_whole(self.registry, self.workshop.artifacts, version, sibling=sibling)

    def _manifest(
        self,
        step: Build | Regate,
        spec: ModelSpec,
        data: DataSet,
        rows: Table,
        made: tuple[TrainResult, Served],
        snapshot: str,
    ) -> dict[str, Json]:
        result, served = made
        opened = self.workshop.opened(step.definition, spec.name)
        native = self._stored(result.artifact, result.format, result.signature)
        seen = profile(rows, spec.features)
        signature = nullable(served.signature, {p.name for p in seen if p.missing > 0})
        artifact = self._stored(served.artifact, served.format, signature)
        bare = replace(spec, metadata=Metadata(), approval=None)  # these change without a new version
        return {
            "model": spec.name,
            "family": spec.family,
            "key": [list(part) for part in spec.key],
            "definition": step.definition,
            "snapshot": snapshot,
            "spec": msgspec.to_builtins(bare),
            "needs": [
                {"model": n.model, "output": n.output, "column": n.column, "inputs": dict(n.inputs)} for n in spec.needs
            ],
            "artifact": artifact,
            "native": native,
            "compiled": {
                "reason": served.reason,
                "parity": served.parity.as_json() if served.parity else None,
            },
            "environment": opened.lock.digest,
            "profile": [asdict(p) for p in seen],
            "rows": {"train": rows.num_rows, "holdout": data.holdout.num_rows, "dropped": dict(data.dropped)},
            "logged": dict(result.logged),
            "files": {
                path.relative_to(result.files).as_posix(): self.workshop.artifacts.put_file(path)
                for path in sorted(result.files.rglob("*"))
                if path.is_file()
            }
            if result.files.is_dir()
            else {},
            "toolchain": {name: installed(name) for name in ("retinue", "onnxruntime")},
        }

    def _stored(self, path: Any, format_: str, signature: Mapping[str, Json]) -> dict[str, Json]:
        return {
            "digest": self.workshop.artifacts.put_file(path),
            "format": format_,
            "size": path.stat().st_size,
            "signature": dict(signature),
        }

    def _keep_log(self, version: Version, result: TrainResult) -> None:
        folder = self.workshop.settings.logs / "training"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{version.id}.log").write_bytes(result.log.read_bytes())

    # ── testing ─────────────────────────────────────────────────────────────────────────────────────────────

    def _evaluate(
        self,
        version: Version,
        own: ModelSpec,
        spec: ModelSpec,
        beside: Beside,
        champion: Champion | None,
        data: DataSet,
    ) -> Evaluation:
        """All gates of `spec` on the holdout; `own` is the declaration the version was built from."""
        self.workshop.say(spec.name, f"gates on {data.holdout.num_rows:,} rows")
        holdout = self._holdout(data, own, beside)
        columns = to_columns(holdout, own.features)
        signature = version.manifest["artifact"]["signature"]
        outputs = self._try(lambda: self.workshop.answers(version, columns))
        if not own.data:
            return evaluate_made(replace(own, gates=spec.gates), version, columns, self.workshop.answers)
        rival = self._champion(champion, own, data) if champion is not None else None
        case = Case(
            gates=spec.gates,
            task=own.task,
            target=own.target,
            classes=levels(signature),
            schema=Schema(fields_of(signature["inputs"]), fields_of(signature["outputs"])),
            columns=columns,
            truth=target_values(holdout, own),
            outputs=outputs,
            predict=lambda batch: self.workshop.answers(version, batch),
            size=version.manifest["artifact"]["size"],
            seed=0,
            keys=_repeated(data, holdout, own),
            champion=rival[0] if rival else None,
            champion_classes=rival[1] if rival else None,
            scale=data.scale,
        )
        beyond = around(self.workshop, spec, version, (holdout, case), lambda: self._timed_champion(champion, data))
        return told(with_further(blamed(evaluate(case), own), case, beyond), case, version)

    def _timed_champion(self, champion: Champion | None, data: DataSet) -> tuple[Version, Columns] | None:
        """The champion with the inputs it is timed on; None when there is none. Raises DataError if they lack."""
        if champion is None:
            return None
        own = spec_of(champion.version)
        rows = self.chain.complete(data.holdout.slice(0, ROWS), own.needs, champion.beside)
        return champion.version, to_columns(rows, own.features)

    def _try(self, answer: Callable[[], Columns]) -> Columns:
        """A model that cannot answer its holdout has empty outputs: the contract gate says why it fails."""
        try:
            return answer()
        except TrainingError:
            return {}

    def _champion(
        self, champion: Champion, spec: ModelSpec, data: DataSet
    ) -> tuple[Columns, tuple[Any, ...] | None] | None:
        """The champion's answers on the same rows; None when these rows lack what it reads."""
        own = spec_of(champion.version)
        try:
            rows = self.chain.complete(data.holdout, own.needs, champion.beside)
            outputs = self.workshop.answers(champion.version, to_columns(rows, own.features))
        except (DataError, TrainingError):
            self.workshop.say(own.name, "the champion cannot answer these rows: judged without it")
            return None
        if own.task != spec.task:
            return None  # a classifier says nothing about a regression
        if own.task in NUMERIC:
            outputs = {spec.target: outputs[own.target]}
        return outputs, levels(champion.version.manifest["artifact"]["signature"])

    def _evidence(
        self,
        version: Version,
        spec: ModelSpec,
        beside: Beside,
        evaluation: Evaluation,
        champion: Champion | None,
        measured: list[GateResult],
    ) -> Evidence:
        return Evidence(
            version=version.id,
            upstreams={m: v.id for m, v in beside.items()},
            gates=gates_digest(spec.gates, spec.task),
            verdict=evaluation.verdict,
            results=tuple(r.to_json() for r in (*evaluation.results, *measured)),
            champion=champion.version.id if champion else None,
            created=self.clock(),
        )


def _repeated(data: DataSet, holdout: Table, spec: ModelSpec) -> np.ndarray[Any, Any] | None:
    """The key column, if a key repeats: its rows are not independent then. Of a forecast blocks of origins."""
    if spec.task == "forecast":
        return origin_blocks(holdout, str(data.time), spec.forecast.horizon)
    if data.key is None or data.key not in holdout.column_names:
        return None
    values = to_columns(holdout, [data.key])[data.key]
    return values if len(set(values.tolist())) < len(values) else None
