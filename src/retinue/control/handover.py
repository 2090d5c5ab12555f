"""`retinue publish`: takes over the result of a training that ran elsewhere, for a model of `artifact: published`.

Looked at first, stored by content, then recorded: what is refused leaves nothing behind. Nothing is built here; the
next plan shows the change, and applying it gates and releases it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from retinue.build.outside_files import OutsideFiles, digest_of
from retinue.build.outside_look import look
from retinue.core.errors import PortfolioError, UsageError
from retinue.core.outside import FORMATS, PICKLE_HINT, PICKLE_WHY, PUBLISHED, known_format, named_pickle
from retinue.core.portfolio import ModelSpec, Portfolio
from retinue.core.publication import Publication
from retinue.core.state import AuditRow
from retinue.core.suggest import did_you_mean, nearest
from retinue.store.base import Artifacts, Registry


@dataclass(frozen=True, slots=True)
class HandOver:
    """What a publisher says: where the artifact is (a path or s3://…), how it is read, its lineage, why."""

    artifact: str
    format: str | None
    claimed: Mapping[str, str]
    why: str = ""
    who: str = ""
    now: str = ""


def declared(portfolio: Portfolio, model: str, members: Callable[[], Iterable[ModelSpec]]) -> ModelSpec:
    """The model that takes publications under this name; `members` are asked only where a family may have it.

    Raises UsageError with the nearest name, and for a model whose artifact comes from elsewhere.
    """
    plain = {t.spec.name: t.spec for t in portfolio.models.values() if t.for_each is None}
    spec = plain.get(model)
    if spec is None:
        every = {member.name: member for member in members()}
        spec = every.get(model)
        if spec is None:
            raise UsageError(f"the portfolio has no model {model}", hint=did_you_mean(model, every))
    if spec.artifact != PUBLISHED:
        whence = f"`artifact: {spec.artifact}`" if spec.artifact else f"`train: {spec.train}`"
        raise UsageError(f"{model} comes of {whence}", hint=f"Declare `artifact: {PUBLISHED}` to hand it over.")
    return spec


def hand_over(
    registry: Registry, artifacts: Artifacts, portfolio: str, spec: ModelSpec, given: HandOver
) -> tuple[Publication, bool]:
    """The publication, and whether it is new: the same bytes and lineage again record nothing.

    Raises UsageError and PortfolioError for what is no artifact that the model could be.
    """
    with tempfile.TemporaryDirectory(prefix="retinue-publish-") as folder:
        path = _fetched(spec, given.artifact, Path(folder))
        format_ = _format(spec, given)
        digest = digest_of(path)  # refuses what is empty or a pickle
        look(path, format_, spec)
        artifacts.put_file(path)
        size = path.stat().st_size
    made = Publication(spec.name, digest, format_, size, dict(given.claimed), given.why, given.who, given.now)
    act = AuditRow(given.now, given.who, "publish", f"{spec.name}: {format_} {digest}", given.why, None)
    if registry.publish(portfolio, made, audit=act):
        return made, True
    return registry.publications(portfolio, spec.name, limit=1)[0], False


def _fetched(spec: ModelSpec, artifact: str, folder: Path) -> Path:
    if named_pickle(artifact):
        raise UsageError(f"{artifact} is refused: {PICKLE_WHY}", hint=PICKLE_HINT)
    if artifact.startswith("s3://"):
        return OutsideFiles(Path(), folder).fetched(replace(spec, artifact=artifact), folder)
    path = Path(artifact)
    if path.is_file():
        return path
    there = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
    near = nearest(path.name, there)
    what = "is a folder" if path.is_dir() else "is not there"
    hint = f"Did you mean {path.parent / near}?" if near else "Name one file, or s3://bucket/key."
    raise UsageError(f"the artifact {artifact} {what}", hint=hint)


def _format(spec: ModelSpec, given: HandOver) -> str:
    found = known_format(given.artifact, given.format)
    if found is None:
        raise UsageError(
            f"the format of {given.artifact} is not known from its ending",
            hint=f"Add --format with one of {', '.join(FORMATS)}.",
        )
    if found not in FORMATS:
        raise UsageError(f"there is no format {found}", hint=did_you_mean(found, FORMATS))
    if spec.format is not None and spec.format != found:
        raise UsageError(f"{spec.name} takes `format: {spec.format}`, this is {found}", hint="Correct one of the two.")
    if found != "onnx" and not spec.environment:
        raise PortfolioError(
            f"a {found} model runs in an environment, and {spec.name} names none",
            where=spec.where,
            hint="Add `environment: NAME` to the model, or publish an ONNX file.",
        )
    return found
