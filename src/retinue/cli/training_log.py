"""Which training's output to show for MODEL or MODEL@VERSION: the newest attempt, even if it gave no version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinue.cli.words import moment
from retinue.core.errors import UsageError
from retinue.core.family import file_name
from retinue.core.identity import short
from retinue.core.suggest import did_you_mean
from retinue.processes.log_files import PROCESSES

if TYPE_CHECKING:
    from retinue.core.state import Version
    from retinue.project import Project

Json = Any


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """What a training printed. `version` is None for an attempt that failed; `head` says which training it was."""

    model: str
    version: str | None
    head: str
    text: str

    def to_json(self) -> dict[str, Json]:
        """The same facts for programs."""
        return {"model": self.model, "version": self.version, "failed": self.version is None, "log": self.text}


def find_log(project: Project, reference: str) -> TrainingLog:
    """The log that MODEL or MODEL@PREFIX names. Raises UsageError when none is kept on this machine."""
    model, at, prefix = reference.partition("@")
    folder = project.settings.logs / "training"
    failed = folder / "failed" / f"{file_name(model)}.log"
    if at:
        if not project.registry.versions_of_model(project.name, model):
            raise _unknown(project, model)
        return _of_version(project.version(model, prefix), folder)
    newest = _newest(project, model)
    if failed.is_file() and (newest is None or _moment(failed) > _made(newest, folder)):
        also = f"; of the last version: `retinue logs {model}@{short(newest.id)}`" if newest is not None else ""
        head = f"the attempt to train {model} that failed at {moment(_moment(failed))}{also}"
        return TrainingLog(model, None, head, _read(failed))
    if newest is None:
        raise _unknown(project, model)
    return _of_version(newest, folder)


def _newest(project: Project, model: str) -> Version | None:
    """The live version, else the newest there is."""
    release = project.current()
    if release is not None and model in release.models:
        return project.version(model)
    return next(iter(project.registry.versions_of_model(project.name, model)), None)


def _unknown(project: Project, model: str) -> UsageError:
    release = project.current()
    known = {*PROCESSES, *(release.models if release is not None else ())}
    return UsageError(f"no version of a model {model!r} was ever built", hint=did_you_mean(model, known))


def _of_version(version: Version, folder: Path) -> TrainingLog:
    path = folder / f"{version.id}.log"
    name = f"{version.model}@{short(version.id)}"
    if not path.is_file():
        raise UsageError(
            f"no training log of {name} is kept here", hint=f"Logs are kept where it was trained, under {folder}."
        )
    return TrainingLog(
        version.model, version.id, f"the training of {name}, built {moment(version.created)}", _read(path)
    )


def _made(version: Version, folder: Path) -> str:
    """When a version was trained: by its log, else by its record."""
    path = folder / f"{version.id}.log"
    return _moment(path) if path.is_file() else version.created


def _moment(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
