"""Tests what is live: the artifacts, and every gate that the file asks for, again on each version's own holdout.

Nothing is landed, held or recorded as evidence: the answer is for whoever asked, a person or a CI run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

from retinue.build.chain import Beside
from retinue.build.evaluate import Evaluation
from retinue.control.events import Event, Observer
from retinue.core.errors import RetinueError, StateError, UsageError
from retinue.core.gates import GateResult, failed, passed
from retinue.core.landing import closure
from retinue.core.portfolio import ModelSpec
from retinue.core.state import Release, Version
from retinue.store.base import Artifacts, RegistryReader

Json = Any


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """What a live version's gates said. `status` is the sum; "error" means that they could not be asked."""

    model: str
    status: str  # "passed", "failed", "not enough data", "error" or "not live"
    version: str | None = None
    results: tuple[GateResult, ...] = ()
    text: str = ""
    error: RetinueError | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LiveReport:
    """What a run of the tests found, model by model in the order of the file, upstreams first."""

    portfolio: str
    stage: str
    release: int
    models: tuple[ModelVerdict, ...]
    started: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether a gate failed or could not be asked. Too little data is no failure."""
        return any(m.status in ("failed", "error") for m in self.models)


class Judge(Protocol):
    """What asks the gates; `build.pipeline.Pipeline` is the real one."""

    def judge(self, version: Version, pinned: Mapping[str, Json], spec: ModelSpec, beside: Beside) -> Evaluation:
        """What the gates of `spec` say of a live version; records nothing."""


@dataclass(slots=True)
class LiveTests(AbstractContextManager["LiveTests"]):
    """The tests of the chosen live models. `close` is called at the end and when a run is interrupted."""

    release: Release
    registry: RegistryReader
    artifacts: Artifacts
    specs: Mapping[str, ModelSpec]  # the chosen models, as the file declares them
    open_judge: Callable[[Observer], tuple[Judge, Callable[[], None]]]
    workers: int
    versions: Mapping[str, Version] = field(default_factory=dict)
    _close: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        """Read what is live. Raises UsageError when models are chosen and none of them is live."""
        found = self.registry.versions({entry.version for entry in self.release.models.values()})
        self.versions = {name: found[entry.version] for name, entry in self.release.models.items()}
        if self.specs and not self.models:
            names = ", ".join(sorted(self.specs)[:5])
            raise UsageError(
                f"none of the chosen models is live in stage {self.release.stage}: {names}",
                hint="`retinue apply` releases them; `retinue status` lists what is live.",
            )

    @property
    def models(self) -> tuple[str, ...]:
        """The chosen models that are live."""
        return tuple(name for name in self.specs if name in self.versions)

    def run(self, observer: Observer) -> LiveReport:
        """Ask all gates, several models at once, and tell the observer of each model."""
        started = datetime.now(UTC)
        found = {name: ModelVerdict(name, "not live", text="not in the release yet") for name in self.specs}
        if self.models:
            judge, self._close = self.open_judge(observer)
            self._run(judge, observer, found)
        return LiveReport(
            self.release.portfolio,
            self.release.stage,
            self.release.number,
            tuple(found.values()),
            started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            (datetime.now(UTC) - started).total_seconds(),
        )

    def _run(self, judge: Judge, observer: Observer, found: dict[str, ModelVerdict]) -> None:
        pins = self.registry.snapshots({self.versions[name].snapshot for name in self.models})
        with ThreadPoolExecutor(self.workers, thread_name_prefix="test") as pool:
            try:
                todo: list[Future[ModelVerdict]] = [
                    pool.submit(self._judged, judge, name, pins[self.versions[name].snapshot].body, observer)
                    for name in self.models
                ]
                for future in as_completed(todo):
                    verdict = future.result()
                    found[verdict.model] = verdict
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._close()  # ends running processes, so that no thread outlives us
                raise

    def _judged(self, judge: Judge, name: str, pinned: Mapping[str, Json], observer: Observer) -> ModelVerdict:
        started = datetime.now(UTC)
        observer(Event("start", name))
        found = self._verdict(judge, name, pinned)
        found = replace(found, seconds=(datetime.now(UTC) - started).total_seconds())
        results = tuple(r.to_json() for r in found.results)
        observer(Event("end", name, found.text, found.status, found.seconds, results))
        return found

    def _verdict(self, judge: Judge, name: str, pinned: Mapping[str, Json]) -> ModelVerdict:
        version = self.versions[name]
        artifact = self._artifact(version)
        if artifact.verdict == "fail":
            return ModelVerdict(name, "failed", version.id, (artifact,), artifact.detail)
        try:
            evaluation = judge.judge(version, pinned, self.specs[name], self._beside(name))
        except Exception as error:  # noqa: BLE001 - one model's trouble must not end the others' tests
            told = error if isinstance(error, RetinueError) else _surprise(name, error)
            return ModelVerdict(name, "error", version.id, (artifact,), str(told), told)
        status = {"pass": "passed", "fail": "failed", "inconclusive": "not enough data"}[evaluation.verdict]
        return ModelVerdict(name, status, version.id, (artifact, *evaluation.results))

    def _artifact(self, version: Version) -> GateResult:
        """Whether the bytes that serve, and those they were made from, are stored as they were."""
        bodies = [version.manifest.get(part) for part in ("artifact", "native")]
        try:
            for digest in {body["digest"] for body in bodies if body}:
                self.artifacts.local(digest)
        except RetinueError as error:
            return failed("artifact", str(error))
        return passed("artifact", "stored as it was registered")

    def _beside(self, name: str) -> dict[str, Version]:
        """What a live model reads today, directly or not."""

        def needs(model: str) -> tuple[str, ...]:
            return tuple(n["model"] for n in self.versions[model].manifest["needs"])

        names, missing = closure(name, {m: m for m in self.versions}, needs)
        if missing:
            raise StateError(f"{name} reads {', '.join(missing)}, which is not in the release", hint="`retinue doctor`")
        return {m: self.versions[m] for m in names}

    def close(self) -> None:
        """End what the tests have started."""
        self._close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _surprise(name: str, error: Exception) -> RetinueError:
    found = RetinueError(f"{name}: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found
