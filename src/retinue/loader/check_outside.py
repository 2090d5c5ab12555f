"""What must hold of a model from outside: a format that is taken, and everything that no table will tell declared."""

from __future__ import annotations

import re
from collections.abc import Callable

from retinue.core import outside
from retinue.core.contract import NUMERIC
from retinue.core.portfolio import ModelSpec

Note = Callable[[str, str, str | None], None]
"""(what is wrong, key, what to do)"""


def check(spec: ModelSpec, note: Note) -> None:
    """Notes what does not fit in a spec that has an `artifact`."""
    assert spec.artifact is not None, "asked only for models from outside"
    _artifact(spec, spec.artifact, note)
    if spec.data:
        if spec.types:
            note("with `data`, the types of features are the table's", "features", "List their names only.")
        if not spec.target:
            note("`target` is missing: with `data`, the holdout is judged by it", "data", "Add `target: COLUMN`.")
    else:
        _without_data(spec, note)


def _artifact(spec: ModelSpec, artifact: str, note: Note) -> None:
    if artifact == outside.PUBLISHED:
        return  # what is published is looked at when it is handed over
    if outside.named_pickle(artifact):
        note(f"{artifact} is refused: {outside.PICKLE_WHY}", "artifact", outside.PICKLE_HINT)
        return
    scheme = re.match(r"([a-z][a-z0-9+.-]*):", artifact)
    if scheme and scheme[1] != "s3":
        note(f"artifacts behind {scheme[0]} are not read", "artifact", "Give a path or s3://….")
    format_ = outside.known_format(artifact, spec.format)
    if format_ is None:
        hint = f"Add `format:` with one of {', '.join(outside.FORMATS)}."
        note(f"the format of {artifact} is not known from its ending", "artifact", hint)
    elif format_ != "onnx" and not spec.environment:
        note(f"a {format_} model runs in an environment", "artifact", "Add `environment: NAME`.")


def _without_data(spec: ModelSpec, note: Note) -> None:
    if not spec.types:
        hint = f"Write features: {{{spec.features[0]}: FP64, …}}, or name `data`." if spec.features else None
        note("without `data`, features need their types", "features", hint)
    if spec.task in NUMERIC and not spec.target:
        note("`target` is missing: it names the output", "task", "Add `target: NAME`.")
    if spec.task not in NUMERIC and not spec.classes:
        note("without `data`, the classes are not known", "task", "Add `classes: [false, true]`.")
    if spec.task == "binary" and spec.classes and len(spec.classes) != 2:
        note(f"binary, but {len(spec.classes)} classes", "classes", "Write two, or `task: multiclass`.")
    if spec.needs:
        note("without `data`, no column of an upstream can be tested", "needs", "Name `data` and `target`.")
    for gate in spec.gates.metrics:
        hint = "Name `data` and `target`; without them the contract test and `examples` judge."
        note("a metric needs a holdout", f"gates.{gate.metric}", hint)
