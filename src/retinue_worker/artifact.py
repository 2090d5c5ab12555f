"""What a training function returned: checked, and kept in a format that can be loaded without running its code."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from typing import Any

from retinue_worker import booster_artifact, boosters

NUMERIC = ("regression", "quantiles", "forecast")
_SAFE = ("sklearn", "numpy", "scipy", *boosters.FRAMEWORKS)
# a partial is only a shell, a container only holds: what is in them is listed by itself
_SHELLS = ("functools.partial", "collections.OrderedDict", "collections.defaultdict")
_RETURN = "Return a fitted scikit-learn estimator, an XGBoost, LightGBM or CatBoost model, or an ONNX model."


class NonsenseError(Exception):
    """A training function returned something that cannot be kept. `hint` says what to do about it."""

    def __init__(self, message: str, hint: str = _RETURN) -> None:
        super().__init__(message)
        self.hint = hint


def keep(model: Any, request: dict[str, Any], seen: list[Any] | None = None) -> dict[str, Any]:
    """Check a returned model against the request and give its artifact and what is needed to load it.

    `seen` are the sorted distinct targets in training, of which a booster that was trained on codes knows nothing.

    The result has `data` (bytes), `format`, `container`, `trusted`, `classes` (None for regression and for ONNX)
    and `onnx` (None but for ONNX). Raises NonsenseError.
    """
    if type(model).__name__ == "ModelProto" and type(model).__module__.split(".")[0] == "onnx":
        return _keep_onnx(model, request)
    framework = boosters.framework_of(model)
    if framework is not None:
        try:
            return booster_artifact.keep(model, framework, request, seen or [])
        except booster_artifact.MisfitError as error:
            raise NonsenseError(str(error), error.hint) from None
    base = sys.modules.get("sklearn.base")
    if base is None or not isinstance(model, base.BaseEstimator) or not hasattr(type(model), "predict"):
        raise NonsenseError(f"the training function returned {_described(model)}")
    container = _check_estimator(model, request)
    data, trusted = _dump(model)
    classes = None if request["task"] in NUMERIC else model.classes_.tolist()
    return {
        "data": data,
        "format": "skops",
        "container": container,
        "trusted": trusted,
        "classes": classes,
        "onnx": None,
    }


def _described(model: Any) -> str:
    if model is None:
        return "nothing (None): does it end with `return model`?"
    kind = type(model)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a {name}, which Retinue cannot keep"


def _check_estimator(model: Any, request: dict[str, Any]) -> str:
    """The container the estimator was fitted on. Raises NonsenseError when it does not fit the declaration."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name, task, features = type(model).__name__, request["task"], list(request["features"])
    try:
        check_is_fitted(model)
    except NotFittedError:
        raise NonsenseError(
            f"the {name} that was returned is not fitted", "Call its `fit` before returning it."
        ) from None
    if task in NUMERIC and hasattr(model, "classes_"):
        raise NonsenseError(
            f"the task is {task}, but a classifier ({name}) was returned", "Correct `task:` or return a regressor."
        )
    if task not in NUMERIC:
        _check_classifier(model, name, task)
    own = getattr(model, "feature_names_in_", None)
    if own is not None and list(own) != features:
        raise NonsenseError(
            f"the {name} was fitted on {', '.join(map(str, own))}, but the features are {', '.join(features)}",
            "Fit on `df[job.features]`, in that order.",
        )
    count = getattr(model, "n_features_in_", len(features))
    if count != len(features):
        raise NonsenseError(
            f"the {name} was fitted on {count} columns, but there are {len(features)} features",
            "Fit on `df[job.features]`, in that order.",
        )
    return "array" if own is None else "dataframe"


def _check_classifier(model: Any, name: str, task: str) -> None:
    if not hasattr(model, "classes_"):
        raise NonsenseError(
            f"the task is {task}, but {name} is no classifier", "Correct `task:` or return a classifier."
        )
    if not hasattr(model, "predict_proba"):
        raise NonsenseError(
            f"{name} gives no probabilities (`predict_proba`)",
            "Choose another classifier, or wrap it in CalibratedClassifierCV.",
        )
    if getattr(model.classes_, "ndim", 0) != 1:
        raise NonsenseError(f"{name} predicts several targets at once", "Train one model per target.")
    found = len(model.classes_)
    if (task == "binary") != (found == 2) or found < 2:
        raise NonsenseError(
            f"the task is {task}, but {name} saw {found} class{'' if found == 1 else 'es'} in training",
            "Correct `task:`, or see that the training rows hold every class.",
        )


def _keep_onnx(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    """An ONNX model is kept as it is; its inputs and outputs must be named as features and outputs are."""
    kinds = {1: "FP32", 11: "FP64", 7: "INT64", 8: "BYTES", 9: "BOOL"}
    features = list(request["features"])
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    names = [item.name for item in inputs]
    if sorted(names) == sorted(features):
        groups = [[name] for name in names]
    elif len(names) == 1:
        groups = [features]
    else:
        raise NonsenseError(
            f"the ONNX model takes {', '.join(names)}, but the features are {', '.join(features)}",
            "Give the graph one input [n, 1] per feature, of its name, or a single input [n, k] for all in order.",
        )
    wanted = [request["target"]] if request["task"] in NUMERIC else ["label", "probability"]
    outputs = [item.name for item in model.graph.output]
    if not set(wanted) <= set(outputs):
        raise NonsenseError(
            f"the ONNX model gives {', '.join(outputs)}, but {' and '.join(wanted)} is wanted",
            "Rename the graph's outputs.",
        )
    odd = [item.name for item in inputs if item.type.tensor_type.elem_type not in kinds]
    if odd:
        raise NonsenseError(
            f"input {odd[0]!r} of the ONNX model is not FP32, FP64, INT64, BOOL or text", "Cast it in the graph."
        )
    pairs = [(item, groups[index]) for index, item in enumerate(inputs)]
    return {
        "data": model.SerializeToString(deterministic=True),
        "format": "onnx",
        "container": "array",
        "trusted": [],
        "classes": None,
        "onnx": {
            "inputs": [
                {"name": item.name, "features": group, "dtype": kinds[item.type.tensor_type.elem_type]}
                for item, group in pairs
            ],
            "outputs": {name: name for name in wanted},
        },
    }


# ---------------------------------------------------------------------------------------------------------- skops
def _dump(model: Any) -> tuple[bytes, list[str]]:
    """(skops bytes, the types to trust at loading). Raises NonsenseError for types that are not scikit-learn's."""
    import skops.io

    try:
        data = skops.io.dumps(model)
    except Exception as error:
        raise NonsenseError(
            f"the {type(model).__name__} cannot be saved without pickle: {type(error).__name__}: {error}",
            "Build it from scikit-learn's own parts, or return an ONNX model.",
        ) from error
    types = sorted(skops.io.get_untrusted_types(data=data))
    strange = [name for name in types if name.split(".")[0] not in _SAFE and name not in _SHELLS]
    if strange:
        raise NonsenseError(
            f"the {type(model).__name__} holds {strange[0]}, which is code and not only numbers",
            "Use scikit-learn's own transformers, move the step into a view (SQL), or return an ONNX model.",
        )
    return _canonical(data), types


def _canonical(data: bytes) -> bytes:
    """The same skops file whenever the same model is saved: no memory addresses, times or uninitialised bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names: dict[str, str] = {}
        ids: dict[int, int] = {}
        schema = _renumber(json.loads(archive.read("schema.json")), names, ids)
        entries = [("schema.json", json.dumps(schema, separators=(",", ":")).encode())]
        entries.extend((new, _without_padding(old, archive.read(old))) for old, new in names.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def _renumber(node: Any, names: dict[str, str], ids: dict[int, int]) -> Any:
    if isinstance(node, list):
        return [_renumber(item, names, ids) for item in node]
    if not isinstance(node, dict):
        return node
    known = "__loader__" in node  # a node of skops; anything else is the model's own content
    result: dict[str, Any] = {}
    for key, value in node.items():
        if known and key == "__id__":
            result[key] = ids.setdefault(value, len(ids))
        elif known and key == "file" and isinstance(value, str):
            result[key] = names.setdefault(value, f"{len(names)}.{value.rpartition('.')[2]}")
        else:
            result[key] = _renumber(value, names, ids)
    return result


def _without_padding(name: str, content: bytes) -> bytes:
    """Records of trees have unused bytes between fields that hold whatever was in memory: zero them."""
    import numpy as np

    if not name.endswith(".npy") or b"('', '|V" not in content[:4096]:  # how a header describes unused bytes
        return content
    array = np.load(io.BytesIO(content), allow_pickle=False)
    clean = np.zeros(array.shape, dtype=array.dtype)
    for column in array.dtype.names:
        clean[column] = array[column]
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()
