"""Decisions of the further gates: three outcomes from an estimate and its interval, and how they are told."""

from __future__ import annotations

from dataclasses import replace

from retinue.core.gate_specs import Undecided
from retinue.core.gates import GateResult, Interval


def three_way(
    gate: str,
    found: Interval,
    threshold: float,
    undecided: Undecided,
    *,
    metric: str = "",
    champion: float | None = None,
    detail: str = "",
) -> GateResult:
    """Below the threshold as a whole passes, above it as a whole fails, anything else is not enough data."""
    result = GateResult(
        gate=gate,
        metric=metric,
        verdict="inconclusive",
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        n=found.n,
        threshold=threshold,
        champion=champion,
        method=found.method,
        detail=detail,
        se=found.se,
        groups=found.groups,
        on_inconclusive=undecided,
    )
    if found.low is not None and found.low > threshold:
        return replace(result, verdict="fail")
    if found.why:
        return settled(replace(result, detail=_joined(detail, found.why)))
    if found.high is not None and found.high < threshold:
        return replace(result, verdict="pass")
    return settled(replace(result, detail=_joined(detail, "not enough data: the interval holds the threshold")))


def settled(result: GateResult) -> GateResult:
    """Undecided results pass where the file says so."""
    if result.verdict != "inconclusive" or result.on_inconclusive != "pass":
        return result
    return replace(result, verdict="pass", detail=_joined(result.detail, "passes by on_inconclusive: pass"))


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
