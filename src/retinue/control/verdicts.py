"""What became of one model in an apply, the family's pooled test over the undecided, and the holds that follow."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retinue.build.evaluate import Evaluation, Pooled, pool
from retinue.build.pipeline import Built
from retinue.control.events import Status
from retinue.core.errors import RetinueError
from retinue.core.gates import GateResult
from retinue.core.plan import Build, Plan, Regate
from retinue.core.state import MEASUREMENTS, Evidence, Hold, HoldCause, Version

Json = Any
POOL_SEED = 20_130_101
"""The family bootstrap draws from this seed, so that the same evidence gives the same verdict."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that was built or tested, or the reason why there is none.

    `open` means inconclusive with a pooled test to come: good for now. `known` means the evidence was already
    recorded earlier.
    """

    model: str
    status: Status
    version: Version | None = None
    evidence: Evidence | None = None
    evaluation: Evaluation | None = None
    text: str = ""
    error: RetinueError | None = None
    seconds: float = 0.0
    open: bool = False
    known: bool = False

    @property
    def good(self) -> bool:
        """Whether what depends on this model may go on with this version."""
        return self.open or self.status in ("built", "reused", "rebuilt", "regated", "unchanged")


def candidate_of(model: str, built: Built, status: Status) -> Candidate:
    """What a build or re-gate amounts to, before the family is heard."""
    verdict, evaluation = built.evidence.verdict, built.evaluation
    if evaluation is None:  # tested before a kill: still a voice in its family
        rows = [row for row in built.evidence.results if row["gate"] not in MEASUREMENTS]
        evaluation = Evaluation(tuple(map(GateResult.from_json, rows)), verdict, {})
    waits = evaluation.waits_for_family
    if status == "built" and built.reused:
        status = "reused"
    if verdict != "pass" and not waits:
        status = "inconclusive" if verdict == "inconclusive" else "gate failed"
    return Candidate(model, status, built.version, built.evidence, evaluation, open=waits, known=built.known)


def settle(candidates: Mapping[str, Candidate], plan: Plan) -> dict[str, Candidate]:
    """Decide the open ones: one pooled test per family over members with the same change."""
    settled = dict(candidates)
    changes = {s.model: s.why for s in plan.steps if isinstance(s, Build | Regate)}
    families: dict[Hashable, dict[str, Evaluation]] = {}
    for model, candidate in candidates.items():
        if candidate.evaluation is not None:
            families.setdefault((plan.specs[model].family or model, changes[model]), {})[model] = candidate.evaluation
    for members in families.values():
        if any(candidates[model].open for model in members):
            for model, pooled in pool(members, np.random.default_rng(POOL_SEED)).items():
                if candidates[model].open:
                    settled[model] = _settled(candidates[model], pooled)
    return settled


def _settled(candidate: Candidate, pooled: Pooled) -> Candidate:
    """The candidate with the family's verdict in place of its own."""
    assert candidate.evidence is not None, "an open candidate was tested"
    results = tuple(r.to_json() for r in pooled.results)
    status = candidate.status
    if pooled.verdict != "pass":
        status = "inconclusive" if pooled.verdict == "inconclusive" else "gate failed"
    evidence = replace(candidate.evidence, verdict=pooled.verdict, results=results)
    return replace(candidate, status=status, evidence=evidence, open=False)


def hold_of(plan: Plan, candidate: Candidate, refused: str, now: str, waits: str = "") -> Hold | None:
    """The hold for a candidate that does not land, or `waits` for approval; None when there is nothing to hold."""
    version, evidence = candidate.version, candidate.evidence
    if version is None or evidence is None:
        return None
    cause: HoldCause
    if evidence.verdict == "fail":
        cause = "failed gate"
    elif evidence.verdict == "inconclusive":
        cause = "inconclusive"
    elif waits:
        cause = "approval"
    else:
        cause = "upstream"
    failing = [str(r["gate"]) for r in evidence.results if r["verdict"] == evidence.verdict != "pass"]
    return Hold(
        portfolio=plan.portfolio,
        stage=plan.stage,
        model=candidate.model,
        definition=version.definition,
        snapshot=version.snapshot,
        version=version.id,
        cause=cause,
        detail={"upstream": refused, "approval": waits}.get(cause, ", ".join(failing)),
        gates=evidence.gates,
        created=now,
    )
