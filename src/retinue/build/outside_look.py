"""A first look at an artifact, before it is taken: is it whole, of its format, with the declared inputs and outputs?

Nothing of it is run. What only its framework can tell is asked in its environment when it is built.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from retinue.build.outside import Declared, told_by_onnx
from retinue.core.errors import PortfolioError, TrainingError
from retinue.core.portfolio import ModelSpec

_AGAIN = "Save the model again and publish the whole file, uncompressed; or say its --format."


def look(path: Path, format_: str, spec: ModelSpec) -> None:
    """Raises PortfolioError when the file is no whole artifact of that format, or a graph that does not fit."""
    if format_ == "onnx":
        _graph(path, spec)
        return
    wrong = _LOOKS[format_](path)
    if wrong is not None:
        raise PortfolioError(f"{path.name} is no {format_} model: {wrong}", hint=_AGAIN)


def _graph(path: Path, spec: ModelSpec) -> None:
    try:
        told_by_onnx(path, Declared(spec.name, spec.features, spec.task, spec.target), None)
    except TrainingError as error:
        raise PortfolioError(error.message, hint=error.hint) from error


def _skops(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            return f"{broken} is damaged" if broken else None if "schema.json" in archive.namelist() else "no schema"
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        return str(error)


def _xgboost(path: Path) -> str | None:
    data = path.read_bytes()
    if data[:1] == b"{" and data.rstrip()[-1:] == b"}" and b"learner" in data:
        return None
    return "neither UBJSON nor JSON from the first byte to the last"


def _lightgbm(path: Path) -> str | None:
    data = path.read_bytes()
    whole = data.startswith(b"tree\n") and b"end of trees" in data and b"\npandas_categorical:" in data[-(1 << 20) :]
    return None if whole else "it is not text from `tree` to `pandas_categorical:`"


def _catboost(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != b"CBM1":
        return "it does not begin with CBM1"
    told = int.from_bytes(head[4:], "little")
    return None if path.stat().st_size >= told + 8 else "its end is missing"


_LOOKS: Mapping[str, Callable[[Path], str | None]] = {
    "skops": _skops,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
}
