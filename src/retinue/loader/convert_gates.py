"""The further gates from their checked shapes to the values of `core/gate_specs`."""

from __future__ import annotations

from typing import Any

from retinue.core.gate_specs import (
    CalibrationGate,
    FairnessGate,
    LatencyGate,
    RobustnessGate,
    SliceGate,
    TestFile,
)
from retinue.loader import schema, schema_gates


def further_gates(shape: schema.Gates) -> dict[str, Any]:
    """The fields of `Gates` that these keys set. Digests of test files are filled in when the files are read."""
    found: dict[str, Any] = {}
    if shape.slices is not None:
        found["slices"] = tuple(_slices(one) for one in _many(shape.slices))
    if shape.fairness is not None:
        found["fairness"] = tuple(
            FairnessGate(_columns(one.by), one.metric, one.gap, one.min_rows, one.on_inconclusive)
            for one in _many(shape.fairness)
        )
    if shape.latency is not None:
        one = shape.latency
        found["latency"] = LatencyGate(one.p50, one.p99, one.vs_champion, one.on_inconclusive)
    if shape.calibration is not None:
        found["calibration"] = CalibrationGate(shape.calibration.ece, shape.calibration.on_inconclusive)
    if shape.robustness is not None:
        found["robustness"] = _robustness(shape.robustness)
    if shape.memory is not None:
        found["memory"] = shape.memory
    if shape.pytest is not None:
        found["pytest"] = tuple(TestFile(path, "") for path in _columns(shape.pytest))
    return found


def _slices(shape: schema_gates.Slices) -> SliceGate:
    worst, relative = shape.worst
    return SliceGate(_columns(shape.by), shape.metric, worst, relative, shape.min_rows, shape.on_inconclusive)


def _robustness(shape: schema_gates.Robustness) -> RobustnessGate:
    bound, relative = shape.bound
    return RobustnessGate(bound, relative, shape.noise, shape.extremes, shape.on_inconclusive)


def _columns(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
