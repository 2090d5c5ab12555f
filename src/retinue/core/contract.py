"""What a model takes and gives: the schema that models check between each other, the profile that is watched.

`Schema` is hashed and compared when a model is planned against its upstreams. `Profile` records ranges,
categories and missing rates seen in training; it never breaks anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from retinue.core.identity import digest

DType = Literal["BOOL", "INT64", "FP64", "BYTES"]
"""The four types a column has on the wire. Narrower numbers are widened, text is BYTES (UTF-8)."""

DTYPES: tuple[str, ...] = get_args(DType)
Task = Literal["regression", "binary", "multiclass", "quantiles", "forecast"]
NUMERIC: tuple[Task, ...] = ("regression", "quantiles", "forecast")
"""Tasks whose target is a number, and whose one output is named as the target."""
TASKS: tuple[str, ...] = get_args(Task)
Label = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Field:
    """One named column, shape [-1] (one value per row) unless `width` > 1, then [-1, width]."""

    name: str
    dtype: DType
    nullable: bool = True
    width: int = 1


@dataclass(frozen=True, slots=True)
class Schema:
    """Typed inputs and outputs of a model, in order."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    @property
    def hash(self) -> str:
        """Digest over names, types, widths and nullability; order of inputs does not count."""
        return digest(
            {
                "inputs": sorted([f.name, f.dtype, f.nullable, f.width] for f in self.inputs),
                "outputs": sorted([f.name, f.dtype, f.nullable, f.width] for f in self.outputs),
            }
        )

    def output(self, name: str) -> Field | None:
        """The output of that name, or None."""
        return next((f for f in self.outputs if f.name == name), None)


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What training saw in one input column. Bounds are None for text; categories None for numbers or when many."""

    name: str
    missing: float
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] | None = None


def outputs_of(task: Task, target: str, label_dtype: DType, classes: int) -> tuple[Field, ...]:
    """The outputs a task fixes: `<target>` for numbers, `label` and `probability` for classification.

    For quantiles `<target>` has one column per quantile (`classes` of them), in rising order; for a forecast one
    per step of its horizon.

    For binary tasks `probability` has width 1: the probability of the second (true, larger) class;
    for multiclass it has one column per class, in the order of the version's `classes`.
    """
    if task == "regression":
        return (Field(target, "FP64", nullable=False),)
    if task in ("quantiles", "forecast"):
        return (Field(target, "FP64", nullable=False, width=classes),)
    width = 1 if task == "binary" else classes
    return (
        Field("label", label_dtype, nullable=False),
        Field("probability", "FP64", nullable=False, width=width),
    )
