"""What the further gates of a model cannot mean: metrics of another task, groups where there are no labels."""

from __future__ import annotations

from collections.abc import Iterator

from retinue.core.gate_specs import NOT_IN_SLICES
from retinue.core.gates import metric_names
from retinue.core.portfolio import ModelSpec
from retinue.core.suggest import did_you_mean


def gate_problems(spec: ModelSpec) -> Iterator[tuple[str, str, str | None]]:
    """(key under `gates`, what is wrong, the next step) for each gate that does not fit the model."""
    names = [name for name in metric_names(spec.task) if name not in NOT_IN_SLICES]
    for gate in spec.gates.slices:
        if gate.metric not in names:
            yield (
                "slices",
                f"{gate.metric!r} is no metric by which slices of a {spec.task} model are compared",
                did_you_mean(gate.metric, names),
            )
    if spec.gates.calibration is not None and spec.task not in ("binary", "multiclass"):
        yield "calibration", f"a {spec.task} model has no probabilities", "Remove the gate."
    for fair in spec.gates.fairness:
        fits = spec.task == "binary" or (spec.task == "multiclass" and fair.metric == "accuracy")
        if not fits:
            hint = "Write metric: accuracy." if spec.task == "multiclass" else "Use `slices` with an error metric."
            yield "fairness", f"{fair.metric} is not defined for a {spec.task} model", hint
