"""Trainers: a pool of processes, one kind per environment, that train, convert and probe models.

Each is `retinue_worker.train` in the model's own interpreter with nothing of the platform on its path. This side
watches time and memory, turns what went wrong into words, and replaces a trainer that died.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retinue.build.asked import TrainRequest, field_json, signature_of, wide_of
from retinue.build.environment import Environment
from retinue.build.trainer import Trainer, Watch
from retinue.build.training_errors import DIED_HINT, LIMIT_HINT, about, in_words, tail
from retinue.core.contract import Label
from retinue.core.errors import TrainingError
from retinue.core.identity import digest_bytes
from retinue.core.portfolio import Limits
from retinue_worker.exchange import read_columns, write_columns

Columns = Mapping[str, np.ndarray[Any, Any]]
Json = Any
_LIMITS = Limits()
TIMED = 5  # single-row calls of an original, of which the median is taken


@dataclass(frozen=True, slots=True)
class Compiled:
    """A conversion that is not yet proved: its file, the signature to run it with, which of several ways it is."""

    path: Path
    signature: Mapping[str, Json]
    way: int


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training gave. Times in seconds; `digest` is the SHA-256 of the artifact's bytes."""

    request: TrainRequest
    artifact: Path
    format: str
    signature: Mapping[str, Json]
    digest: str
    compiled: Compiled | None
    compile_reason: str | None
    seconds: float
    conversion_seconds: float
    logged: Mapping[str, Json]
    log: Path
    files: Path
    cpu_seconds: float = 0.0  # of training and conversion
    proof: tuple[list[Answers], float | None] | None = None  # what `probe` gives for the batches asked with it

    @property
    def classes(self) -> tuple[Label, ...] | None:
        """The classes in the order of `probability`, None for regression."""
        return None if self.signature["classes"] is None else tuple(self.signature["classes"])


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Run an artifact in its environment, in calls of at most `chunk` rows; `timing` single-row calls are timed."""

    environment: Environment
    artifact: Path
    format: str
    signature: Mapping[str, Json]
    chunk: int = 1_000_000
    timing: int = 0
    limits: Limits = _LIMITS
    overlay: Path | None = None  # only so that a trainer that has one is used again
    model: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """Outputs of the rows that worked, in order; `failed` tells why for each row that did not."""

    outputs: dict[str, np.ndarray[Any, Any]]
    failed: Mapping[int, str]


class Trainers:
    """A pool of at most `workers` trainers at work at once, shared by threads. `close` ends them all."""

    def __init__(self, workers: int, scratch: Path | None = None) -> None:
        self._turn = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._idle: dict[tuple[Path, Path | None], list[Trainer]] = {}
        self._alive: set[Trainer] = set()
        self._workers = workers
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="retinue-", dir=scratch)

    def __enter__(self) -> Trainers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def train(self, request: TrainRequest, proof: Sequence[Columns] = ()) -> TrainResult:
        """Train one model. Raises TrainingError with the user's own lines first.

        `proof` are batches that the model shall answer. They are handed over when the user's function has returned:
        the process that has the model in memory loads what it kept of it and answers, which spares a process.
        """
        folder = request.folder
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "train.log"
        log.write_bytes(b"")
        artifact = folder / "model"
        message = {
            "op": "train",
            "bundle": str(request.bundle),
            "entry": request.entry,
            "tables": {name: str(path.absolute()) for name, path in request.tables.items()},
            "labels": str(request.labels.absolute()) if request.labels else None,
            "params": dict(request.params),
            "seed": request.seed,
            "files": str((folder / "files").absolute()),
            "artifact": str(artifact.absolute()),
            "prepare": dict(request.prepare) if request.prepare else None,
            **_compile_part(request, artifact),
        }
        with self._turn, self._trainer(request.environment, request.overlay) as trainer:
            result = self._asked(trainer, message, log, request.limits, request.model)
            if "error" in result:
                raise in_words(result, request.model, log)
            signature = signature_of(request, result)
            made = TrainResult(
                request=request,
                artifact=artifact,
                format=result["format"],
                signature=signature,
                digest=digest_bytes(artifact.read_bytes()),
                compiled=_compiled(signature, result["compiled"]),
                compile_reason=_reason(request, result),
                seconds=result["seconds"],
                conversion_seconds=result["conversion"],
                logged=result["logged"],
                log=log,
                files=folder / "files",
                cpu_seconds=result.get("cpu", 0.0),
            )
            # a preparation's modules must be loaded from what was kept of them, not from what training imported
            if proof and trainer.waits and made.format not in ("onnx", "prepared"):
                with contextlib.suppress(TrainingError):  # a process of its own tells what went wrong
                    return replace(made, proof=self._probed(trainer, probe_of(made), proof))
            return made

    def adopt(
        self, request: TrainRequest, artifact: tuple[Path, str], classes: Sequence[Json] | None, log: Path
    ) -> dict[str, Json]:
        """What an artifact (file, format) from elsewhere says of itself. Raises TrainingError for a misfit."""
        path, format_ = artifact
        message = {"op": "adopt", **_compile_part(request, path), "artifact": str(path.absolute()),
                   "format": format_, "classes": classes}  # fmt: skip
        result = self._ask(request.environment, request.overlay, message, log, request.limits, request.model)
        if "error" in result:
            raise in_words(result, request.model, log)
        return result

    def convert(self, result: TrainResult, way: int) -> tuple[Compiled | None, str | None]:
        """(the first conversion from way `way` on, None), or (None, why there is none)."""
        request = result.request
        message = {
            "op": "convert",
            "artifact": str(result.artifact.absolute()),
            "format": result.format,
            "signature": dict(result.signature),
            "way": way,
            **_compile_part(request, result.artifact),
        }
        try:
            answer = self._ask(request.environment, request.overlay, message, result.log, request.limits, request.model)
        except TrainingError as error:
            return None, error.message
        return _compiled(result.signature, answer.get("compiled")), answer.get("reason") or answer.get("message")

    def predict(self, request: PredictRequest, columns: Columns) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by contract name for `columns`. Raises TrainingError when a row fails or the model does not load."""
        answers, _ = self.probe(request, [columns])
        if answers[0].failed:
            row, why = next(iter(answers[0].failed.items()))
            raise TrainingError(
                f"model {request.model!r} fails on row {row}: {why}",
                hint="Make the model accept what its features hold.",
            )
        return answers[0].outputs

    def probe(self, request: PredictRequest, batches: Sequence[Columns]) -> tuple[list[Answers], float | None]:
        """(answers per batch, median microseconds of one single-row call or None).

        Rows on which the model raises are told, not raised. Raises TrainingError when the model does not load.
        """
        with self._turn, self._trainer(request.environment, request.overlay) as trainer:
            return self._probed(trainer, request, batches)

    def _probed(
        self, trainer: Trainer, request: PredictRequest, batches: Sequence[Columns]
    ) -> tuple[list[Answers], float | None]:
        with tempfile.TemporaryDirectory(dir=self._folder.name) as temporary:
            folder = Path(temporary)
            paths = [str(folder / f"{index}.arrow") for index in range(len(batches))]
            for columns, path in zip(batches, paths, strict=True):
                write_columns(dict(columns), path)
            message = {
                "op": "probe",
                "artifact": str(request.artifact.absolute()),
                "format": request.format,
                "signature": dict(request.signature),
                "batches": paths,
                "results": [path + ".out" for path in paths],
                "chunk": request.chunk,
                "timing": request.timing,
            }
            log = folder / "probe.log"
            result = self._asked(trainer, message, log, request.limits, request.model)
            if "error" in result:
                raise in_words(result, request.model, log)
            answers = [
                Answers(read_columns(path + ".out") if Path(path + ".out").exists() else {}, dict(failed))
                for path, failed in zip(paths, result["failed"], strict=True)
            ]
            return answers, result["latency"]

    def close(self) -> None:
        """End all trainers; trainings under way fail."""
        with self._lock:
            self._closed = True
            trainers, self._idle = list(self._alive), {}
        for trainer in trainers:
            trainer.end()
        self._folder.cleanup()

    def _ask(
        self,
        environment: Environment,
        overlay: Path | None,
        message: dict[str, Json],
        log: Path,
        limits: Limits,
        model: str,
    ) -> dict[str, Json]:
        with self._turn, self._trainer(environment, overlay) as trainer:
            return self._asked(trainer, message, log, limits, model)

    def _asked(
        self, trainer: Trainer, message: dict[str, Json], log: Path, limits: Limits, model: str
    ) -> dict[str, Json]:
        """The answer of a trainer, of its waiting child if there is one. Raises TrainingError when there is none."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as temporary:
            result = Path(temporary, "result.json")
            message = {**message, "log": str(log.absolute()), "result": str(result)}
            watch = Watch(limits)
            end = trainer.more(message, watch) if trainer.waits else trainer.run(message, watch)
            answer: dict[str, Json] = json.loads(result.read_bytes()) if result.exists() else {}
            if answer.pop("unfinished", False):
                answer["reason"] = f"the conversion {watch.exceeded or end}"
            if not answer and watch.exceeded:
                raise TrainingError(about(model, watch.exceeded) + tail(log), hint=LIMIT_HINT)
            if not answer:
                raise TrainingError(about(model, f"the trainer process {end}") + tail(log), hint=DIED_HINT)
            return answer

    @contextlib.contextmanager
    def _trainer(self, environment: Environment, overlay: Path | None) -> Iterator[Trainer]:
        """An idle trainer of that kind, or a new one; one of another kind makes room when there are many."""
        key = (environment.python, overlay)
        with self._lock:
            if self._closed:
                raise TrainingError("the trainers are closed", hint="Run `retinue apply` again.")
            trainer = self._idle[key].pop() if self._idle.get(key) else None
            spare = next((idle for idle in self._idle.values() if idle), None)
            too_many = trainer is None and spare is not None and len(self._alive) >= 2 * self._workers
            old = spare.pop(0) if too_many and spare else None
        if old is not None:
            self._drop(old)
        if trainer is None:
            trainer = Trainer(environment, overlay, Path(self._folder.name))
            with self._lock:
                self._alive.add(trainer)
        try:
            yield trainer
        finally:
            trainer.free()
            with self._lock:
                keep = trainer.alive and not self._closed
                if keep:
                    self._idle.setdefault(key, []).append(trainer)
            if not keep:
                self._drop(trainer)

    def _drop(self, trainer: Trainer) -> None:
        trainer.end()
        with self._lock:
            self._alive.discard(trainer)


# ------------------------------------------------------------------------------------------------ what a request says
def probe_of(result: TrainResult) -> PredictRequest:
    """How to ask a trained model, with single-row calls timed."""
    request = result.request
    return PredictRequest(
        environment=request.environment,
        artifact=result.artifact,
        format=result.format,
        signature=result.signature,
        timing=TIMED,
        limits=request.limits,
        overlay=request.overlay,
        model=request.model,
    )


def _compile_part(request: TrainRequest, artifact: Path) -> dict[str, Json]:
    return {
        "features": [item.name for item in request.inputs],
        "inputs": [field_json(item) for item in request.inputs],
        "target": request.target,
        "task": request.task,
        "compile": request.compile,
        "compiled": str(artifact.absolute()),
        **wide_of(request),
    }


def _compiled(signature: Mapping[str, Json], made: Mapping[str, Json] | None) -> Compiled | None:
    if made is None:
        return None
    return Compiled(Path(made["path"]), {**signature, "onnx": made["onnx"]}, made["way"])


def _reason(request: TrainRequest, result: Mapping[str, Json]) -> str | None:
    """Why there is no conversion; when converters were not to be had, that is the better reason."""
    reason: str | None = result["reason"]
    return request.no_overlay if reason and request.overlay is None and request.no_overlay else reason
