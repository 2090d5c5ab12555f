"""What every build of one apply shares: unpacked bundles, environments, trainers, loaded models. Thread-safe."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from retinue.build.asked import TrainRequest
from retinue.build.bundle import unpack
from retinue.build.columns import Columns, Table, input_fields
from retinue.build.compile import proof_batches
from retinue.build.environment import Environment, Lock, converters, materialise, read_lock
from retinue.build.outside import adopt
from retinue.build.preparation import preparation
from retinue.build.timing import Quiet
from retinue.build.train import PredictRequest, Trainers, TrainResult
from retinue.build.weigher import Weighers
from retinue.core.errors import TrainingError
from retinue.core.family import file_name
from retinue.core.identity import digest
from retinue.core.portfolio import ModelSpec
from retinue.core.state import Definition, Version
from retinue.settings import Settings
from retinue.sources.base import Tables
from retinue.store.base import Artifacts, RegistryReader
from retinue_worker.runtime import Model, ModelError, load

Json = Any
Array = np.ndarray[Any, Any]
SEED = 0
"""Every training gets the same seed, so that the same definition and snapshot give the same artifact."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A definition ready to be trained: its unpacked code, its lock, its environment and converters."""

    project: Path
    lock: Lock
    environment: Environment
    overlay: Path | None
    no_overlay: str | None


class Workshop:
    """Opens bundles once per code and lock, environments once per lock; trains, and answers for versions."""

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        registry: RegistryReader,
        artifacts: Artifacts,
        say: Callable[[str, str], None],
    ) -> None:
        self.settings, self.tables, self.registry, self.artifacts = settings, tables, registry, artifacts
        self.say = say
        self.workers = settings.build_workers or os.cpu_count() or 1
        scratch = _scratch(settings.cache / "tmp")
        self.trainers = Trainers(self.workers, scratch)
        self.weighers = Weighers(scratch)
        self.quiet = Quiet()
        self._scratch = tempfile.TemporaryDirectory(prefix="build-", dir=scratch)
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._opened: dict[str, Opened] = {}
        self._models: dict[str, Model] = {}
        self._definitions: dict[str, Definition] = {}
        self._snapshots: dict[str, Mapping[str, Json]] = {}
        self._folders = 0

    def close(self) -> None:
        """End the trainers and remove the scratch folder; loaded models are released."""
        self.trainers.close()
        self.weighers.close()
        for model in self._models.values():
            model.close()
        self._models.clear()
        self._scratch.cleanup()

    def folder(self, name: str) -> Path:
        """A new empty folder that lives as long as this workshop."""
        with self._guard:
            self._folders += 1
            number = self._folders
        path = Path(self._scratch.name, f"{number}-{file_name(name)}")
        path.mkdir()
        return path

    def lock(self, key: str) -> threading.Lock:
        """The lock of a name: what is made once per name is made under it."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    # ── definitions and snapshots ───────────────────────────────────────────────────────────────────────────

    def opened(self, definition: str, model: str) -> Opened:
        """A definition's bundle unpacked and its environment installed."""
        with self.lock(f"open {definition}"):
            if definition not in self._opened:
                row = self._definition(definition)
                unpacked = unpack(self.artifacts.get(row.bundle), self.folder(model))
                if not unpacked.lock:  # a graph from outside needs no environment: gateways run it
                    self._opened[definition] = _without_environment(unpacked.project)
                    return self._opened[definition]
                self._opened[definition] = self._with_environment(unpacked.project, read_lock(unpacked.lock), model)
            return self._opened[definition]

    def _with_environment(self, project: Path, locked: Lock, model: str) -> Opened:
        with self.lock(f"environment {locked.digest}"):
            if not (self.settings.environments / locked.digest).exists():
                self.say(model, "installing the environment")
            environment = materialise(locked, self.settings.environments)
            overlay, reason = converters(locked, self.settings.environments)
            return Opened(project, locked, environment, overlay, reason)

    def _definition(self, hash_: str) -> Definition:
        if hash_ not in self._definitions:
            self._definitions.update(self.registry.definitions([hash_]))
        return self._definitions[hash_]

    def snapshot(self, hash_: str) -> Mapping[str, Json]:
        """The body of a recorded snapshot."""
        if hash_ not in self._snapshots:
            self._snapshots[hash_] = self.registry.snapshots([hash_])[hash_].body
        return self._snapshots[hash_]

    # ── training and answering ──────────────────────────────────────────────────────────────────────────────

    def train(
        self, spec: ModelSpec, definition: str, tables: Mapping[str, Table], holdout: Columns | None = None
    ) -> TrainResult:
        """Run the user's training function on these tables. Raises TrainingError.

        With the features of `holdout`, the trained model answers what its conversion is compared on.
        """
        opened = self.opened(definition, spec.name)
        folder = self.folder(spec.name)
        paths: dict[str, Path] = {}
        for name, table in tables.items():
            paths[name] = folder / f"{len(paths)}.arrow"
            with pa.OSFile(str(paths[name]), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        request = TrainRequest(
            model=spec.name,
            environment=opened.environment,
            bundle=opened.project,
            entry=spec.train,
            tables=paths,
            inputs=input_fields(next(iter(tables.values())), spec.features),
            target=spec.target,
            task=spec.task,
            folder=folder,
            params=spec.params,
            seed=SEED,
            limits=spec.limits,
            compile=spec.compile,
            overlay=opened.overlay if spec.compile != "forbid" else None,
            no_overlay=opened.no_overlay,
            quantiles=spec.quantiles,
            targets=spec.forecast.steps(spec.target),
            prepare=preparation(spec, opened.project),
        )
        try:
            if spec.artifact is not None:
                artifact = self._definition(definition).body["artifact"]
                return adopt(self.artifacts.local(artifact["digest"]), self.trainers, request, spec, artifact)
            return self.trainers.train(request, _proof(request, holdout))
        except TrainingError:
            self._keep_failed(spec.name, folder / "train.log")
            raise

    def _keep_failed(self, model: str, log: Path) -> None:
        """Keep what a failed training printed: the last failure of each model."""
        if log.exists():
            kept = self.settings.logs / "training" / "failed" / f"{file_name(model)}.log"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, kept)

    def answers(self, version: Version, columns: Columns, body: Mapping[str, Json] | None = None) -> Columns:
        """A version's outputs for these columns, run as it is served; `body` names another artifact of its own.

        Raises TrainingError when it fails.
        """
        if body is None:
            body = version.manifest["artifact"]
        if body["format"] == "onnx":
            try:
                return self._loaded(body).run(dict(columns))
            except ModelError as error:
                raise TrainingError(f"model {version.model} cannot answer: {error}") from error
        opened = self.opened(version.definition, version.model)
        return self.trainers.predict(
            PredictRequest(
                environment=opened.environment,
                artifact=self.artifacts.local(body["digest"]),
                format=body["format"],
                signature=body["signature"],
                overlay=opened.overlay,
                model=version.model,
            ),
            columns,
        )

    def weigh(self, version: Version, *, like: bool = False) -> int | None:
        """Bytes the version takes when it is loaded to serve, None where that cannot be measured.

        `like`: what a model of its kind and size was found to take is good enough.
        """
        body = version.manifest["artifact"]
        python = self.opened(version.definition, version.model).environment.python
        weigh = self.weighers.weigh_like if like else self.weighers.weigh
        return weigh(self.artifacts.local(body["digest"]), body["format"], body["signature"], python.absolute())

    def _loaded(self, body: Mapping[str, Json]) -> Model:
        # The same bytes may serve under two signatures: a renamed target leaves the graph as it was.
        key = digest([body["digest"], body["signature"]])
        with self.lock(f"load {key}"):
            if key not in self._models:
                path = self.artifacts.local(body["digest"])
                self._models[key] = load(str(path), "onnx", dict(body["signature"]))
            return self._models[key]


def _proof(request: TrainRequest, holdout: Columns | None) -> Sequence[Columns]:
    if not holdout or not len(next(iter(holdout.values()))):
        return ()
    return proof_batches(request.inputs, holdout)


def _without_environment(project: Path) -> Opened:
    own = Environment("", project, Path(sys.executable))
    return Opened(project, Lock("", "", ""), own, None, "the model has no environment")


def _scratch(root: Path) -> Path:
    """A scratch folder of this process below `root`; what killed processes left there is removed."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.iterdir():
        if left.name.isdigit() and not Path("/proc", left.name).exists():
            shutil.rmtree(left, ignore_errors=True)
    own = root / str(os.getpid())
    own.mkdir(exist_ok=True)
    return own
