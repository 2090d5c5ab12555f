"""Loads a model from its artifact and runs it on columns: `load(path, format, signature).run(columns)`.

Formats: "onnx" (onnxruntime) and "skops" (scikit-learn without pickle; only the types that the signature trusts).
What a run returns has the names, dtypes and shapes of the signature's outputs, whatever the framework gave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Columns = dict[str, Any]  # name → numpy array, one row per entry


class ModelError(Exception):
    """The model cannot be loaded from this artifact, or failed on these rows. The text says why."""


class Model:
    """A loaded model."""

    def __init__(self, signature: dict[str, Any], run: Callable[[Columns], Columns]) -> None:
        self.signature = signature
        self._run: Callable[[Columns], Columns] | None = run

    def run(self, columns: Columns) -> Columns:
        """Outputs by contract name for these columns, in row order. Raises ModelError."""
        if self._run is None:
            raise ModelError("the model is closed")
        rows = len(next(iter(columns.values()))) if columns else 0
        try:
            raw = self._run(columns)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(_said(error)) from error
        return {field["name"]: _shaped(raw, field, rows) for field in self.signature["outputs"]}

    def close(self) -> None:
        """Release what the model holds."""
        self._run = None


def load(path: str, format: str, signature: dict[str, Any]) -> Model:
    """The model in the file `path`. Raises ModelError when it cannot be loaded or the format is unknown."""
    loader = {"onnx": _load_onnx, "skops": _load_skops}.get(format)
    if loader is None:
        raise ModelError(f"unknown format {format!r}; this worker loads onnx and skops")
    try:
        return Model(signature, loader(path, signature))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"cannot load {format} model: {_said(error)}") from error


def example(signature: dict[str, Any], rows: int = 1) -> Columns:
    """Synthetic columns of the right dtypes: zeros, false and empty text. For warming up."""
    import numpy as np

    values = {"FP64": np.float64(0), "INT64": np.int64(0), "BOOL": np.bool_(False)}
    return {
        field["name"]: np.full(rows, "", dtype=object)
        if field["dtype"] == "BYTES"
        else np.full(rows, values[field["dtype"]])
        for field in signature["inputs"]
    }


def _said(error: Exception) -> str:
    """A foreign error in one line: frameworks write essays."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# ---------------------------------------------------------------------------------------------------------- onnx
def _load_onnx(path: str, signature: dict[str, Any]) -> Callable[[Columns], Columns]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    mapping = signature.get("onnx")
    if not mapping:
        raise ModelError("the signature has no `onnx` part, which maps features to the graph's inputs")
    _check_names("input", [entry["name"] for entry in mapping["inputs"]], [i.name for i in session.get_inputs()])
    names = list(mapping["outputs"])
    wanted = [mapping["outputs"][name] for name in names]
    _check_names("output", wanted, [output.name for output in session.get_outputs()])
    feeders = [(entry["name"], entry["features"], entry["dtype"]) for entry in mapping["inputs"]]

    def run(columns: Columns) -> Columns:
        feeds = {name: _feed(columns, features, dtype) for name, features, dtype in feeders}
        results = session.run(wanted, feeds)
        return {name: results[index] for index, name in enumerate(names)}

    return run


def _check_names(kind: str, wanted: list[str], there: list[str]) -> None:
    missing = sorted(set(wanted) - set(there))
    if missing:
        raise ModelError(f"the graph has no {kind} {missing[0]!r}; it has {', '.join(there)}")


def _feed(columns: Columns, features: list[str], dtype: str) -> Any:
    """One tensor [n, k] from k columns, cast to the graph's dtype."""
    import numpy as np

    arrays = [columns[feature] for feature in features]
    if dtype == "BYTES":
        return np.stack([_strings(array) for array in arrays], axis=1)
    if dtype in ("INT64", "BOOL"):
        for feature, array in zip(features, arrays):  # noqa: B905  Python 3.9 has no strict
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise ModelError(f"{feature} is missing, and the compiled model takes {dtype} without missing values")
    kind = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}[dtype]
    tensor: Any = np.empty((len(arrays[0]), len(arrays)), dtype=kind)
    for index, array in enumerate(arrays):
        tensor[:, index] = array
    return tensor


def _strings(array: Any) -> Any:
    """Text for onnxruntime, which has no missing text: None becomes the empty string."""
    import numpy as np

    out = np.empty(len(array), dtype=object)
    out[:] = ["" if value is None else str(value) for value in array.tolist()]
    return out


# --------------------------------------------------------------------------------------------------------- skops
def _load_skops(path: str, signature: dict[str, Any]) -> Callable[[Columns], Columns]:
    import skops.io

    estimator = skops.io.load(path, trusted=list(signature.get("trusted") or ()))
    inputs = signature["inputs"]
    frame = _dataframe if signature.get("container") == "dataframe" else _matrix
    outputs = {field["name"] for field in signature["outputs"]}
    if "probability" in outputs and not hasattr(estimator, "predict_proba"):
        raise ModelError(f"{type(estimator).__name__} has no predict_proba, which a classification needs")
    order = _class_order(estimator, signature)

    def run(columns: Columns) -> Columns:
        table = frame(columns, inputs)
        if signature["task"] == "regression":
            return {signature["target"]: estimator.predict(table)}
        probability = estimator.predict_proba(table)
        return {"label": estimator.predict(table), "probability": probability[:, order] if order else probability}

    return run


def _class_order(estimator: Any, signature: dict[str, Any]) -> list[int] | None:
    """Where each class of the signature is among the estimator's, None when they agree."""
    classes = signature.get("classes")
    own = getattr(estimator, "classes_", None)
    if not classes or own is None:
        return None
    own = own.tolist()
    if own == list(classes):
        return None
    if sorted(map(str, own)) != sorted(map(str, classes)):
        raise ModelError(f"the model knows the classes {own}, its signature says {classes}")
    return [own.index(value) for value in classes]


def _dataframe(columns: Columns, inputs: list[dict[str, Any]]) -> Any:
    """A DataFrame with the dtypes that `pyarrow.Table.to_pandas()` gave in training, also for text and nulls."""
    try:
        import pyarrow
    except ImportError:
        import pandas

        return pandas.DataFrame({field["name"]: columns[field["name"]] for field in inputs})
    arrays = [_arrow(pyarrow, columns[field["name"]], field["dtype"]) for field in inputs]
    return pyarrow.Table.from_arrays(arrays, names=[field["name"] for field in inputs]).to_pandas()


def _arrow(pyarrow: Any, array: Any, dtype: str) -> Any:
    import numpy as np

    if dtype == "BYTES":
        return pyarrow.array(array.tolist(), pyarrow.string())
    if dtype == "FP64" or array.dtype.kind != "f":
        return pyarrow.array(array)
    mask = np.isnan(array)
    whole = np.where(mask, 0, array).astype(np.bool_ if dtype == "BOOL" else np.int64)
    return pyarrow.array(whole, mask=mask)


def _matrix(columns: Columns, inputs: list[dict[str, Any]]) -> Any:
    """A 2-D array [n, k]: float64 when every feature is a number, else object."""
    import numpy as np

    arrays = [columns[field["name"]] for field in inputs]
    kind = object if any(field["dtype"] == "BYTES" for field in inputs) else np.float64
    return np.stack([array.astype(kind) for array in arrays], axis=1)


# ------------------------------------------------------------------------------------------------------- outputs
def _shaped(raw: Columns, field: dict[str, Any], rows: int) -> Any:
    """One output as the signature promises it: [n], or [n, width] when width > 1. Raises ModelError."""
    import numpy as np

    name, width = field["name"], int(field.get("width", 1))
    if name not in raw:
        raise ModelError(f"the model gave no output {name!r}")
    array = np.asarray(raw[name])
    if name == "probability" and width == 1 and array.ndim == 2 and array.shape[1] == 2:
        array = array[:, 1]  # of two classes, the contract keeps the second
    if array.ndim == 2 and array.shape[1] == 1 and width == 1:
        array = array[:, 0]
    expected = (rows,) if width == 1 else (rows, width)
    if array.shape != expected:
        raise ModelError(f"output {name!r} has shape {list(array.shape)}, not {list(expected)}")
    return _typed(array, field["dtype"], name)


def _typed(array: Any, dtype: str, name: str) -> Any:
    import numpy as np

    if dtype == "BYTES":
        out = np.empty(array.shape, dtype=object)
        out[...] = array if array.dtype.kind == "O" else array.astype(str).astype(object)
        return out
    try:
        return array.astype({"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}[dtype], copy=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"output {name!r} is not {dtype}: {error}") from error
