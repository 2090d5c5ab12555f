"""Models that come from outside instead of `train:`: which formats are taken, what is refused, their columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from retinue.core.contract import NUMERIC, DType
from retinue.core.portfolio import ModelSpec

Json = Any
FORMATS: tuple[str, ...] = ("onnx", "skops", "xgboost", "lightgbm", "catboost")
PUBLISHED = "published"
"""What `artifact:` says of a model whose artifact is handed over by `retinue publish`."""
_ENDINGS = {
    ".onnx": "onnx",
    ".skops": "skops",
    ".ubj": "xgboost",
    ".json": "xgboost",
    ".txt": "lightgbm",
    ".cbm": "catboost",
}
_PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill")
_PICKLED = re.compile(rb"\x80[\x02-\x05]")
PICKLE_WHY = "it is a pickle: loading one runs whatever code is in it"
PICKLE_HINT = (
    "Save the model as data instead: `skops.io.dump(model, 'model.skops')` for scikit-learn, or export it to ONNX "
    "(skl2onnx, torch.onnx.export)."
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact's bytes by digest, and how they are read."""

    digest: str
    format: str


def known_format(path: str, wanted: str | None) -> str | None:
    """The format of an artifact: as said, else as its ending tells; None when neither does."""
    return wanted or next((name for ending, name in _ENDINGS.items() if path.lower().endswith(ending)), None)


def named_pickle(path: str) -> bool:
    """Whether a path's ending says that this is a pickle."""
    return path.lower().endswith(_PICKLES)


def looks_pickled(head: bytes) -> bool:
    """Whether a file's first bytes are those of a pickle, whatever its ending says."""
    return _PICKLED.match(head) is not None


def label_dtype(classes: tuple[Json, ...]) -> DType:
    """The wire type of declared classes.

    >>> label_dtype((False, True)), label_dtype(("a", "b")), label_dtype((0, 1))
    ('BOOL', 'BYTES', 'INT64')
    """
    kinds = {type(value) for value in classes}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64"
    return "FP64" if kinds <= {int, float} else "BYTES"


def declared_columns(spec: ModelSpec) -> dict[str, DType]:
    """The column types of a model without data, as they were declared; the target has the type of its classes."""
    found: dict[str, DType] = dict(spec.types)
    found[spec.target] = "FP64" if spec.task in NUMERIC else label_dtype(spec.classes)
    return found
