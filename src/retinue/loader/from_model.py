"""What `retinue init --from-model` writes: the portfolio of the one model a user has, its types read from the file.

Nothing of the file is run: a graph is opened by onnxruntime, a skops file is read as the JSON that it is, a booster
by its own framework.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from retinue.core.errors import UsageError
from retinue.core.outside import FORMATS, PICKLE_HINT, PICKLE_WHY, known_format, looks_pickled, named_pickle
from retinue.core.suggest import nearest
from retinue_worker import boosters

Json = Any
_DTYPES = {
    "tensor(float)": "FP64",
    "tensor(double)": "FP64",
    "tensor(int64)": "INT64",
    "tensor(string)": "BYTES",
    "tensor(bool)": "BOOL",
}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OTHERS = ("true", "false", "null", "True", "False", "Null", "TRUE", "FALSE", "NULL")
_AGAIN = "Look whether the file is whole; export the model again."
_BY_HAND = "Write the seven lines by hand: docs/guides/models-from-outside.md shows them."


@dataclass(frozen=True, slots=True)
class Read:
    """What a model file says of itself. `requirements` are the packages it runs with, empty for a graph."""

    task: str
    features: Mapping[str, str]
    classes: Sequence[Json]
    target: str = "prediction"
    quantiles: Sequence[float] = ()
    requirements: str = ""


def scaffold_model(folder: Path, model: Path) -> list[Path]:
    """Writes a portfolio of this one model into `folder`; a model outside it is copied to `models/`.

    Returns the files written. Raises UsageError, having written nothing, for what is no model or already there.
    """
    read = _READERS[_format(model)](model)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", model.stem).strip("-_") or "model"
    inside = Path(os.path.relpath(model.absolute(), folder.absolute()))
    copied = inside.parts[0] == os.pardir
    place = Path("models", model.name) if copied else inside
    texts = {folder / "portfolio.yaml": _text(name, place.as_posix(), read)}
    if read.requirements:
        texts[folder / "envs" / "base.txt"] = read.requirements
    there = [file for file in (*texts, *([folder / place] if copied else [])) if file.exists()]
    if there:
        names = ", ".join(str(file.relative_to(folder)) for file in there)
        raise UsageError(f"{names} is already in {folder}", hint="Choose an empty folder; nothing was written.")
    try:
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if copied:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model, folder / place)
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}", hint="Choose another folder.") from error
    return [*texts, *([folder / place] if copied else [])]


def _format(model: Path) -> str:
    if not model.is_file():
        near = (
            nearest(model.name, [p.name for p in model.parent.iterdir() if p.is_file()])
            if model.parent.is_dir()
            else None
        )
        raise UsageError(f"there is no file {model}", hint=f"Did you mean {model.parent / near}?" if near else None)
    with model.open("rb") as file:
        head = file.read(16)
    if named_pickle(model.name) or looks_pickled(head):
        raise UsageError(f"{model} is refused: {PICKLE_WHY}", hint=PICKLE_HINT)
    found = known_format(model.name, None)
    if found is None or not head:
        what = "is empty" if not head else "has no known ending"
        raise UsageError(f"{model} {what}", hint=f"Known are {', '.join(FORMATS)}: .onnx .skops .ubj .json .txt .cbm")
    return found


def _text(name: str, place: str, read: Read) -> str:
    features = "{" + ", ".join(f"{_key(feature)}: {dtype}" for feature, dtype in read.features.items()) + "}"
    parts = [f"task: {read.task}", f"features: {features}"]
    if read.classes:
        parts.append(f"classes: {json.dumps(list(read.classes), ensure_ascii=False)}")
    else:
        parts.append(f"target: {_key(read.target)}")
    if not read.requirements:
        return (
            "\n    ".join([f"portfolio: {name}\nmodels:\n  {_key(name)}:", f"artifact: {_key(place)}", *parts]) + "\n"
        )
    if read.quantiles:
        parts[0] += f", quantiles: {list(read.quantiles)}"
    inner = ",\n    ".join([f"artifact: {_key(place)}, environment: base", *parts])
    head = f"portfolio: {name}\nenvironments: {{base: {{requirements: envs/base.txt}}}}\nmodels:\n"
    return f"{head}  {_key(name)}: {{{inner}}}\n"


def _key(text: str) -> str:
    plain = _PLAIN.fullmatch(text.replace("/", "").replace(".", "").replace("-", "")) and text not in _OTHERS
    return text if plain and text[0] not in "-./" else json.dumps(text, ensure_ascii=False)


# --------------------------------------------------------------------------------------------------------------- onnx
def _onnx(model: Path) -> Read:
    import onnxruntime

    data = model.read_bytes()
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as error:
        line = (str(error).strip().splitlines() or ["nothing said"])[0]
        raise UsageError(f"{model} is no ONNX model that onnxruntime loads: {line[:200]}", hint=_AGAIN) from error
    features: dict[str, str] = {}
    inputs = session.get_inputs()
    for item in inputs:
        if item.type not in _DTYPES:
            raise UsageError(f"input {item.name!r} of {model} is {item.type}", hint="Cast it in the graph.")
        width = item.shape[1] if len(item.shape) > 1 else 1
        if not isinstance(width, int) or (width > 1 and len(inputs) > 1):
            raise UsageError(f"how many columns input {item.name!r} of {model} takes is not told", hint=_BY_HAND)
        names = [item.name] if width == 1 else [f"x{place}" for place in range(width)]
        features.update(dict.fromkeys(names, _DTYPES[item.type]))
    outputs = session.get_outputs()
    floats = [o for o in outputs if o.type in ("tensor(float)", "tensor(double)")]
    labels = [o for o in outputs if o.type in ("tensor(int64)", "tensor(string)", "tensor(bool)")]
    if len(floats) != 1 or len(labels) > 1:
        given = ", ".join(f"{o.name} {o.type}" for o in outputs)
        zipmap = "skl2onnx: convert with options={'zipmap': False}. " if "map" in given else ""
        raise UsageError(f"{model} gives {given}: label and probability cannot be told", hint=zipmap + _BY_HAND)
    if not labels:
        return Read("regression", features, (), floats[0].name)
    classes = _classes(labels[0].type, data, floats[0].shape)
    if len(classes) < 2:
        raise UsageError(f"the classes of {model} are not told by its graph", hint=_BY_HAND)
    return Read("binary" if len(classes) == 2 else "multiclass", features, classes)


def _classes(kind: str, data: bytes, shape: Sequence[Any]) -> list[Json]:
    if kind == "tensor(bool)":
        return [False, True]
    found = _labels_in(data)
    if found or kind == "tensor(string)":
        return found
    return list(range(shape[1])) if len(shape) > 1 and isinstance(shape[1], int) else []


def _labels_in(data: bytes) -> list[Json]:
    """The class labels that a tree, linear or SVM classifier of the graph names: ModelProto.graph.node.attribute."""
    for graph in _fields(data, 7):
        for node in _fields(graph, 1):
            for attribute in _fields(node, 5):
                name = next(iter(_fields(attribute, 1)), b"")
                if name == b"classlabels_strings":
                    return [text.decode("utf-8", "replace") for text in _fields(attribute, 9)]
                if name in (b"classlabels_ints", b"classlabels_int64s"):
                    return [number for part in _fields(attribute, 8) for number in _varints(part)]
    return []


def _fields(data: bytes, wanted: int) -> Iterator[bytes]:
    """The values of one field of a Protobuf message; a number comes as its varint's bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        start = place
        if tag & 7 == 0:
            _, place = _varint(data, place)
        elif tag & 7 == 2:
            size, start = _varint(data, place)
            place = start + size
        else:
            place += 8 if tag & 7 == 1 else 4
        if tag >> 3 == wanted:
            yield data[start:place]


def _varints(data: bytes) -> Iterator[int]:
    place = 0
    while place < len(data):
        number, place = _varint(data, place)
        yield number - (1 << 64) if number >> 63 else number


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(data):
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            break
    return number, place


# ----------------------------------------------------------------------------------------------- skops and boosters
def _skops(model: Path) -> Read:
    try:
        with zipfile.ZipFile(model) as archive:
            schema = json.loads(archive.read("schema.json"))
            found = dict(_parts(schema, archive))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise UsageError(f"{model} is no skops file: {error}", hint="Save it with `skops.io.dump`.") from error
    count = found.get("n_features_in_")
    names = found.get("feature_names_in_") or [f"x{place}" for place in range(int(count or 0))]
    if not names:
        raise UsageError(f"{model} does not tell what it was fitted on", hint=_BY_HAND)
    classes = found.get("classes_") or []
    task = "regression" if not classes else "binary" if len(classes) == 2 else "multiclass"
    release = found.get("_sklearn_version")
    packages = f"scikit-learn=={release}\n" if release else "scikit-learn\n"
    if found.get("feature_names_in_"):
        packages += "pandas\n"  # it was fitted on a DataFrame, and is asked with one
    return Read(task, dict.fromkeys(map(str, names), "FP64"), classes, requirements=packages)


def _parts(node: Json, archive: zipfile.ZipFile) -> Iterator[tuple[str, Json]]:
    """What an estimator or the steps of a pipeline say; the last one of a name counts, of inputs the first."""
    wanted = ("n_features_in_", "feature_names_in_", "classes_", "_sklearn_version")
    seen: dict[str, Json] = {}
    stack = [node]
    while stack:
        here = stack.pop(0)
        if isinstance(here, list):
            stack = [*here, *stack]
        if not isinstance(here, dict):
            continue
        for name in wanted:
            value = _value(here[name], archive) if name in here else None
            if value is not None and (name == "classes_" or name not in seen):
                seen[name] = value
        stack = [*(v for k, v in here.items() if k not in wanted), *stack]
    yield from seen.items()


def _value(node: Json, archive: zipfile.ZipFile) -> Json:
    """A number, text or one-dimensional array of a skops schema; None for anything else."""
    if not isinstance(node, dict):
        return None
    if node.get("__loader__") == "JsonNode":
        return json.loads(node["content"])
    if node.get("type") == "numpy" and "file" in node:
        import io

        import numpy as np

        return np.load(io.BytesIO(archive.read(node["file"])), allow_pickle=False).tolist()
    if isinstance(node.get("content"), list):  # an array of texts
        return [_value(part, archive) for part in node["content"]]
    if isinstance(node.get("content"), dict):
        return _value(node["content"], archive)
    return None


def _booster(model: Path) -> Read:
    framework = _format(model)
    try:
        found = boosters.read(str(model), framework)
    except ImportError as error:
        raise UsageError(
            f"{model} is read by {framework}, which is not here", hint=f"pip install {framework}"
        ) from error
    except boosters.BoosterError as error:
        raise UsageError(f"{model} is refused: {error}", hint="Save the whole model again.") from error
    if found.kind == "margin":
        raise UsageError(f"{model}: the objective {found.objective} gives no probabilities", hint=_BY_HAND)
    names = found.names or [f"x{place}" for place in range(found.width)]
    texts = [place in found.texts or found.categories[place] is not None for place in range(found.width)]
    features = {name: "BYTES" if text else "FP64" for name, text in zip(names, texts, strict=True)}
    classes = () if found.kind == "value" else found.classes or list(range(found.outputs))
    package = packages_distributions()[framework][0]
    needs = f"{package}=={version(package)}\npandas\n"
    if found.kind != "value":
        return Read(found.kind, features, classes, requirements=needs)
    task = "quantiles" if found.quantiles and len(found.quantiles) > 1 else "regression"
    return Read(task, features, (), quantiles=found.quantiles or () if task == "quantiles" else (), requirements=needs)


_READERS = {"onnx": _onnx, "skops": _skops, "xgboost": _booster, "lightgbm": _booster, "catboost": _booster}
