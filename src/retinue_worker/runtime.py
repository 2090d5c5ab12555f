"""Loads a model from its artifact and runs it on columns: `load(path, format, signature).run(columns)`.

Formats: "onnx" (onnxruntime), "skops" (scikit-learn without pickle; only the types that the signature trusts),
"xgboost", "lightgbm" and "catboost" (their own, see `boosters`), "prepared" (one of these behind a function).
What a run returns has the names, dtypes and shapes of the signature's outputs, whatever the framework gave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from retinue_worker import boosters, prepared

Columns = dict[str, Any]  # name → numpy array, one row per entry


class ModelError(Exception):
    """The model cannot be loaded from this artifact, or failed on these rows. The text says why."""


class Model:
    """A loaded model.

    `rows` and `matrix` are quicker ways in that compiled models have (None for others): `rows` takes tuples of Python
    values in the order of the signature's inputs, None for missing; `matrix` takes a float array [n, k] in that order.
    """

    def __init__(
        self,
        signature: dict[str, Any],
        run: Callable[[Columns], Columns],
        rows: Callable[[Any], Columns] | None = None,
        matrix: Callable[[Any], Columns] | None = None,
    ) -> None:
        self.signature = signature
        self._run: Callable[[Columns], Columns] | None = run
        self._rows = rows
        self._matrix = matrix
        rising = signature["task"] == "quantiles"
        self._shapers = [_shaper(field, rising) for field in signature["outputs"]]
        self._listers = [_lister(field, rising) for field in signature["outputs"]]

    @property
    def takes_rows(self) -> bool:
        """Whether `run_rows` is there."""
        return self._rows is not None

    @property
    def takes_matrix(self) -> bool:
        """Whether `run_matrix` is there."""
        return self._matrix is not None

    def run(self, columns: Columns) -> Columns:
        """Outputs by contract name for these columns, in row order. Raises ModelError."""
        rows = len(next(iter(columns.values()))) if columns else 0
        return self._answer(self._run, columns, rows, self._shapers)

    def run_rows(self, rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
        """The same for rows of values in the order of the inputs, and the outputs as lists. Raises ModelError."""
        return self._answer(self._rows, rows, len(rows), self._listers)

    def run_matrix(self, matrix: Any) -> Columns:
        """The same for a float array [n, k], columns in the order of the inputs. Raises ModelError."""
        return self._answer(self._matrix, matrix, len(matrix), self._shapers)

    def close(self) -> None:
        """Release what the model holds."""
        self._run = self._rows = self._matrix = None

    def _answer(
        self,
        run: Callable[[Any], Columns] | None,
        inputs: Any,
        rows: int,
        shapers: list[tuple[str, Callable[..., Any]]],
    ) -> Columns:
        if run is None:
            raise ModelError("the model is closed")
        try:
            raw = run(inputs)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(_said(error)) from error
        return {name: shape(raw, rows) for name, shape in shapers}


def load(path: str, format: str, signature: dict[str, Any]) -> Model:
    """The model in the file `path`. Raises ModelError when it cannot be loaded or the format is unknown."""
    loader: Any = {"onnx": _load_onnx, "skops": _load_skops, "prepared": prepared.load}.get(format)
    if format in boosters.FRAMEWORKS:
        loader = lambda path, signature: (boosters.load(path, format, signature),)  # noqa: E731
    if loader is None:
        known = ", ".join(("onnx", "skops", "prepared", *boosters.FRAMEWORKS))
        raise ModelError(f"unknown format {format!r}; this worker loads {known}")
    try:
        return Model(signature, *loader(path, signature))
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
    if lines and isinstance(error, boosters.BoosterError):
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# ---------------------------------------------------------------------------------------------------------- onnx
def _load_onnx(path: str, signature: dict[str, Any]) -> tuple[Callable[..., Columns] | None, ...]:
    """Three ways to run the graph: columns, rows, and a matrix where one numeric tensor is all it takes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena per session is a sixth of a small model's memory, and no faster
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
    columns_of = [field["name"] for field in signature["inputs"]]
    graph = _bare(session)

    def run(columns: Columns) -> Columns:
        feeds = {name: _feed(columns, features, dtype) for name, features, dtype in feeders}
        return dict(zip(names, graph(wanted, feeds)))  # noqa: B905  Python 3.9 has no strict

    return (
        run,
        _onnx_rows(graph, names, wanted, feeders, columns_of),
        _onnx_matrix(graph, names, wanted, feeders, columns_of),
    )


def _bare(session: Any) -> Callable[[list[str], dict[str, Any]], list[Any]]:
    """`session.run` without the checks that it makes anew at every run: names were checked when it was loaded."""
    inner = getattr(session, "_sess", None)
    run = getattr(inner, "run", None)
    if run is None:  # another onnxruntime may keep it elsewhere
        checked: Callable[[list[str], dict[str, Any]], list[Any]] = session.run
        return checked
    return lambda wanted, feeds: run(wanted, feeds, None)


def _onnx_rows(
    graph: Callable[..., list[Any]],
    names: list[str],
    wanted: list[str],
    feeders: list[tuple[str, list[str], str]],
    columns_of: list[str],
) -> Callable[[Any], Columns]:
    """A run from tuples: one array a tensor, made in one step from the part of each row that it holds."""
    from operator import itemgetter

    import numpy as np

    kinds: dict[str, Any] = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}
    parts: list[tuple[str, Any, Any, int]] = []
    for name, features, dtype in feeders:
        places = [columns_of.index(feature) for feature in features]
        pick = None if places == list(range(len(columns_of))) else itemgetter(*places)
        parts.append((name, pick, kinds.get(dtype), len(places)))

    def run(rows: Any) -> Columns:
        feeds = {}
        for name, pick, kind, width in parts:
            values: Any = rows if pick is None else [pick(row) for row in rows]
            if kind is None:
                feeds[name] = _text_tensor(np, values, width)
            else:
                try:
                    if kind is np.bool_ and None in np.array(values, dtype=object):
                        raise TypeError  # numpy takes None for false
                    feeds[name] = np.array(values, dtype=kind).reshape(len(rows), width)
                except TypeError as error:
                    raise ModelError("a value is missing, and the compiled model takes no missing ones") from error
        return dict(zip(names, graph(wanted, feeds)))  # noqa: B905  Python 3.9 has no strict

    return run


def _text_tensor(np: Any, values: Any, width: int) -> Any:
    """Text [n, k] for onnxruntime, which has no missing text: None becomes the empty string."""
    out = np.empty((len(values), width), dtype=object)
    if width == 1 and not isinstance(values[0], tuple):
        out[:, 0] = ["" if value is None else value for value in values]
    else:
        out[:] = [["" if value is None else value for value in row] for row in values]
    return out


def _onnx_matrix(
    graph: Callable[..., list[Any]],
    names: list[str],
    wanted: list[str],
    feeders: list[tuple[str, list[str], str]],
    columns_of: list[str],
) -> Callable[[Any], Columns] | None:
    """A run from a float array, where one float tensor is all that the graph takes; None elsewhere."""
    import numpy as np

    if len(feeders) != 1 or feeders[0][2] not in ("FP32", "FP64"):
        return None
    name, features, dtype = feeders[0]
    kind = np.float32 if dtype == "FP32" else np.float64
    places = [columns_of.index(feature) for feature in features]
    order = None if places == list(range(len(columns_of))) else places

    def run(matrix: Any) -> Columns:
        tensor = matrix if order is None else matrix[:, order]
        feeds = {name: np.ascontiguousarray(tensor, dtype=kind)}
        return dict(zip(names, graph(wanted, feeds)))  # noqa: B905  Python 3.9 has no strict

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
def _load_skops(path: str, signature: dict[str, Any]) -> tuple[Callable[[Columns], Columns]]:
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
        if signature["task"] in ("regression", "quantiles", "forecast"):
            return {signature["target"]: estimator.predict(table)}
        probability = estimator.predict_proba(table)
        return {"label": estimator.predict(table), "probability": probability[:, order] if order else probability}

    return (run,)


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
def _shaper(field: dict[str, Any], rising: bool = False) -> tuple[str, Callable[[Columns, int], Any]]:
    """Makes one output what the signature promises: [n], or [n, width] when width > 1. It raises ModelError."""
    import numpy as np

    name, width, dtype = field["name"], int(field.get("width", 1)), field["dtype"]
    kind = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}[dtype]
    second = name == "probability" and width == 1  # of two classes, the contract keeps the second

    def shape(raw: Columns, rows: int) -> Any:
        if name not in raw:
            raise ModelError(f"the model gave no output {name!r}")
        array = np.asarray(raw[name])
        if array.ndim == 2 and width == 1:
            if array.shape[1] == 1:
                array = array[:, 0]
            elif second and array.shape[1] == 2:
                array = array[:, 1]
        expected = (rows,) if width == 1 else (rows, width)
        if array.shape != expected:
            raise ModelError(f"output {name!r} has shape {list(array.shape)}, not {list(expected)}")
        array = array if array.dtype == kind and dtype != "BYTES" else _typed(array, dtype, name)
        return np.sort(array, axis=1) if rising and width > 1 else array  # trees of one quantile know no other's

    return name, shape


def _lister(field: dict[str, Any], rising: bool = False) -> tuple[str, Callable[[Columns, int], list[Any]]]:
    """The same as `_shaper`, as a list of Python values: what is of the right kind needs no cast on the way."""
    import numpy as np

    name, shape = _shaper(field, rising)
    width = int(field.get("width", 1))
    kind = {"FP64": "f", "INT64": "i", "BOOL": "b", "BYTES": "-"}[field["dtype"]]

    def listed(raw: Columns, rows: int) -> list[Any]:
        array = raw.get(name)
        if width == 1 and type(array) is np.ndarray and array.dtype.kind == kind and array.size == rows:
            values: list[Any] = array.ravel().tolist()
            return values
        made: list[Any] = shape(raw, rows).tolist()
        return made

    return name, listed


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
