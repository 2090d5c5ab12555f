"""`prepare:` on the platform's side: which files travel with a version, and who is to blame when rows meddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from retinue.build.bundle import close_code
from retinue.build.evaluate import Evaluation
from retinue.core.portfolio import ModelSpec

_ROWS = frozenset(("contract.single", "contract.order", "contract.deterministic"))


def preparation(spec: ModelSpec, project: Path) -> Mapping[str, Any] | None:
    """What a trainer needs of a model's `prepare`; None where there is none. `project` is its unpacked bundle."""
    if spec.prepare is None:
        return None
    files = close_code(spec.prepare, project, "prepare").files
    return {"entry": spec.prepare, "folder": str(project.absolute()), "files": list(files)}


def blamed(evaluation: Evaluation, spec: ModelSpec) -> Evaluation:
    """The evaluation in which broken promises about rows name `prepare`: models inside work row by row."""
    if spec.prepare is None:
        return evaluation
    said = f"; `prepare: {spec.prepare}` must make each row from that row alone, always in the same way"
    results = tuple(
        replace(r, detail=r.detail + said) if r.verdict == "fail" and r.gate in _ROWS else r for r in evaluation.results
    )
    return replace(evaluation, results=results)
