"""What signatures say around a build: which inputs may be missing, which classes there are, what a champion allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from retinue.build.chain import spec_of
from retinue.build.evaluate import Evaluation
from retinue.core.contract import Field
from retinue.core.gates import failed, total
from retinue.core.portfolio import ModelSpec
from retinue.core.state import Version

Json = Any


def nullable(signature: Mapping[str, Json], missing: set[str]) -> dict[str, Json]:
    """The signature with the inputs that training saw missing nullable: whether the model copes is for its gate."""
    inputs = [{**field, "nullable": field["nullable"] or field["name"] in missing} for field in signature["inputs"]]
    return {**signature, "inputs": inputs}


def required(evaluation: Evaluation, version: Version, spec: ModelSpec, champion: Version | None) -> Evaluation:
    """Fail a version that refuses rows its champion answers, unless `semantics` says that its meaning changed."""
    if champion is None or spec_of(champion).semantics != spec.semantics:
        return evaluation
    before = {f["name"] for f in champion.manifest["artifact"]["signature"]["inputs"] if f["nullable"]}
    lost = [f["name"] for f in version.manifest["artifact"]["signature"]["inputs"]
            if not f["nullable"] and f["name"] in before]  # fmt: skip
    if not lost:
        return evaluation
    text = (
        f"{', '.join(lost)} may no longer be missing in a request, as the champion allows; make the model answer "
        f"without, or raise `semantics` to {spec.semantics + 1} if clients know"
    )
    results = (*evaluation.results, failed("contract.required", text))
    return replace(evaluation, results=results, verdict=total(results))


def levels(signature: Mapping[str, Json]) -> tuple[Any, ...] | None:
    """The classes of a signature, its quantiles, or its steps ahead: what the columns of its output stand for."""
    if "steps" in signature:
        return tuple(range(1, len(signature["steps"]) + 1))
    found = signature["classes"] if signature["classes"] is not None else signature.get("quantiles")
    return tuple(found) if found is not None else None


def fields_of(body: list[Mapping[str, Json]]) -> tuple[Field, ...]:
    """The inputs or outputs of a signature as values."""
    return tuple(Field(f["name"], f["dtype"], f["nullable"], f["width"]) for f in body)
