"""Models with a `prepare` function: columns of a request go through it, what it gives goes to the model inside.

    "prepared" artifact: a tar of  prepared.json  {"entry", "format", "inputs", "container", "trusted", "onnx"}
                                   model          the inner model in its own format
                                   code/…         the function's import closure

The same class calls the function before training, on the holdout, in the contract tests, at serving and scoring, always
with the types of the contract: bool, int64, float64 and string, null for missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retinue_worker.isolated import Modules

_KEPT = ("container", "trusted", "onnx")
_HINT = "It takes a pyarrow.Table of the features and returns one, or a pandas DataFrame, with the same rows in order."
_ROWS = "Make each row from that row alone: leave none out, add none."
_FILES = "A preparation has its code and nothing else: write small tables into it, join larger ones in a view."
Fields = list[dict[str, Any]]


class PrepareError(Exception):
    """The function cannot be used, raised, or gave something else. `frames` are the user's lines, outermost first."""

    def __init__(self, message: str, hint: str = _HINT, kind: str = "", frames: list[dict[str, Any]] | None = None):
        super().__init__(message)
        self.hint, self.kind, self.frames = hint, kind, frames or []

    def told(self) -> dict[str, Any]:
        """As a trainer tells the platform."""
        if not self.kind:
            return {"error": "nonsense", "message": str(self), "hint": self.hint}
        hint = _FILES if self.kind == "FileNotFoundError" else None
        return {"error": "raised", "what": "prepare", "type": self.kind, "message": str(self), "frames": self.frames,
                "hint": hint}  # fmt: skip

    def line(self) -> str:
        """In one line, with the user's own last line."""
        text = f"prepare raised {self}" if self.kind else str(self)
        last = self.frames[-1] if self.frames else None
        return f"{text} ({last['file']}:{last['line']} in {last['in']}: {last['text']})" if last else text


class Preparation:
    """The function of one version. Its modules are its own, whatever else this process hosts."""

    def __init__(self, entry: str, files: Mapping[str, bytes]) -> None:
        """Imports it. Raises PrepareError."""
        content = hashlib.sha256(json.dumps({name: data.hex() for name, data in sorted(files.items())}).encode())
        self.entry = entry
        self._modules = Modules(files, f"prepare-{content.hexdigest()[:16]}")
        module, _, name = entry.partition(":")
        with self._modules.seen():
            found = self._told(lambda: importlib.import_module(module))
            self._function: Any = getattr(found, name, None)
        if not callable(self._function):
            raise PrepareError(f"prepare: {module} has no function {name!r}", f"Define `def {name}(table): …` there.")

    def run(self, table: Any) -> Any:
        """What it makes of a table, each column of a type of the contract. Raises PrepareError."""
        with self._modules.seen():
            given = self._told(lambda: self._function(table))
            made = _as_table(given, self.entry)
        if not made.num_columns:
            raise PrepareError(f"prepare {self.entry} gave no column at all")
        if made.num_rows != table.num_rows:
            raise PrepareError(f"prepare {self.entry} gave {made.num_rows:,} rows for {table.num_rows:,}", _ROWS)
        twice = sorted({name for name in made.column_names if made.column_names.count(name) > 1})
        if twice:
            raise PrepareError(f"prepare {self.entry} gave two columns {twice[0]!r}", hint="Name each column once.")
        return made

    def _told(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except BaseException as error:  # SystemExit of user code is its failure too
            traceback.print_exc()
            frames = []
            for frame in traceback.extract_tb(error.__traceback__):
                file = self._modules.own(frame.filename)
                if file is not None:
                    frames.append({"file": file, "line": frame.lineno, "in": frame.name, "text": frame.line})
            message = "".join(traceback.format_exception_only(type(error), error)).strip()
            raise PrepareError(message, kind=type(error).__name__, frames=frames) from error


# -------------------------------------------------------------------------------------------------------- training
def before_training(request: dict[str, Any], tables: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the request as the training sees it: features and inputs are those that prepare gave; the tables likewise).

    The first table holds the rows: its features give way to the prepared columns, its other columns stay. Raises
    PrepareError.
    """
    asked = request["prepare"]
    files = {name: Path(asked["folder"], name).read_bytes() for name in asked["files"]}
    preparation = Preparation(asked["entry"], files)
    name = next(iter(tables))
    table = tables[name]
    made = preparation.run(_canonical(table.select(request["features"]), request["inputs"]))
    others = [column for column in table.column_names if column not in request["features"]]
    taken = sorted(set(others) & set(made.column_names))
    if taken:
        said = "the target" if taken[0] == request["target"] else "already a column of the table"
        raise PrepareError(f"prepare {asked['entry']} gave a column {taken[0]!r}, which is {said}", "Rename it.")
    names = made.column_names
    inputs = [
        {"name": column, "dtype": _dtype(made.schema.field(column).type), "nullable": True, "width": 1}
        for column in names
    ]
    made = _canonical(made, inputs)  # a column of nulls gets a type, too
    for column in others:
        made = made.append_column(table.schema.field(column), table.column(column))
    inner = {**request, "features": names, "inputs": inputs, "preparing": files}
    return inner, {**tables, name: made}


def wrap(kept: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """What `artifact.keep` gave for the inner model, as a model with its preparation. Raises PrepareError."""
    if kept["format"] == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        raise PrepareError(
            "the returned ONNX model is to run behind `prepare`, and its environment has no onnxruntime",
            "Add onnxruntime to the environment's requirements, or return the original model.",
        )
    head = {
        "entry": request["prepare"]["entry"],
        "format": kept["format"],
        "inputs": request["inputs"],
        **{name: kept[name] for name in _KEPT},
    }
    parts = {"prepared.json": json.dumps(head, sort_keys=True).encode(), "model": kept["data"]}
    parts.update((f"code/{name}", data) for name, data in request["preparing"].items())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(parts.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return {"data": buffer.getvalue(), "format": "prepared", "container": "dataframe", "trusted": [],
            "classes": kept["classes"], "onnx": None}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- serving
def load(path: str, signature: dict[str, Any]) -> tuple[Callable[[dict[str, Any]], dict[str, Any]]]:
    """How a prepared model runs on columns, as `runtime.load` wants it. Raises ModelError."""
    from retinue_worker import runtime

    with tarfile.open(path, mode="r:") as archive:
        parts = {}
        for member in archive:
            content = archive.extractfile(member)
            parts[member.name] = content.read() if content is not None else b""
    if not {"prepared.json", "model"} <= set(parts):
        raise runtime.ModelError("the artifact holds no model with a preparation")
    head = json.loads(parts["prepared.json"])
    code = {name[len("code/") :]: data for name, data in parts.items() if name.startswith("code/")}
    inner = {**signature, "inputs": head["inputs"], **{name: head[name] for name in _KEPT}}
    try:
        preparation = Preparation(head["entry"], code)
    except PrepareError as error:
        raise runtime.ModelError(error.line()) from error
    model = _inner(parts["model"], head["format"], inner)

    def run(columns: dict[str, Any]) -> dict[str, Any]:
        try:
            made = preparation.run(_request_table(columns, signature["inputs"]))
            prepared = _columns(made, head["inputs"], head["entry"])
        except PrepareError as error:
            raise runtime.ModelError(error.line()) from error
        answers: dict[str, Any] = model.run(prepared)
        return answers

    return (run,)


def _inner(data: bytes, format: str, signature: dict[str, Any]) -> Any:
    from retinue_worker import runtime

    descriptor, path = tempfile.mkstemp(prefix="retinue-model-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        return runtime.load(path, format, signature)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


# ---------------------------------------------------------------------------------------------------------- tables
def _request_table(columns: dict[str, Any], inputs: Fields) -> Any:
    """The table of a request, as `_canonical` makes it of the rows in training."""
    import numpy as np
    import pyarrow as pa

    kinds = _kinds()
    arrays = []
    for field in inputs:
        array, dtype = columns[field["name"]], field["dtype"]
        if dtype == "BYTES":
            arrays.append(pa.array(array.tolist(), pa.string()))
        elif array.dtype.kind == "f":
            missing = np.isnan(array)
            values = array if dtype == "FP64" else np.where(missing, 0, array)
            whole: Any = values.astype({"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}[dtype])
            arrays.append(pa.array(whole, mask=missing))
        else:
            arrays.append(pa.array(array).cast(kinds[dtype]))
    return pa.table(arrays, names=[field["name"] for field in inputs])


def _canonical(table: Any, inputs: Fields) -> Any:
    """The features with the types that a request has, null for missing."""
    kinds = _kinds()
    arrays = [_typed(table.column(field["name"]), kinds[field["dtype"]]) for field in inputs]
    return _table(arrays, [field["name"] for field in inputs])


def _as_table(given: Any, entry: str) -> Any:
    """What a function gave as a table whose types are those of the contract. Raises PrepareError."""
    import pyarrow as pa

    if isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    elif hasattr(given, "to_arrow"):  # polars
        given = given.to_arrow()
    elif type(given).__name__ == "DataFrame" and type(given).__module__.split(".")[0] == "pandas":
        try:
            given = pa.Table.from_pandas(given, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise PrepareError(
                f"prepare {entry} gave a DataFrame of which no table can be made: {said}",
                "Give each column one kind of values: numbers, text or booleans.",
            ) from error
    if not isinstance(given, pa.Table):
        what = "nothing (None): does it end with `return`?" if given is None else f"a {type(given).__name__}"
        raise PrepareError(f"prepare {entry} returned {what}")
    arrays = []
    for name, column in zip(given.column_names, given.columns):  # noqa: B905  Python 3.9 has no strict
        dtype = _dtype(column.type)
        if dtype is None:
            raise PrepareError(
                f"prepare {entry} gave column {name!r} of type {column.type}",
                "Give numbers, text or booleans: moments and nested values are no input of a model.",
            )
        try:
            arrays.append(column if pa.types.is_null(column.type) else _typed(column, _kinds()[dtype]))
        except pa.ArrowInvalid as error:
            raise PrepareError(f"prepare {entry} gave column {name!r}, which is no {dtype}: {error}") from error
    return _table(arrays, given.column_names)


def _columns(made: Any, inputs: Fields, entry: str) -> dict[str, Any]:
    """The columns that the inner model takes, as arrays. Raises PrepareError for other ones than in training."""
    wanted = [field["name"] for field in inputs]
    missing = [name for name in wanted if name not in made.column_names]
    new = [name for name in made.column_names if name not in wanted]
    if missing or new:
        told = [f"no column {missing[0]!r}" if missing else "", f"a column {new[0]!r}" if new else ""]
        raise PrepareError(
            f"prepare {entry} gave {' and '.join(t for t in told if t)}, in training {', '.join(wanted)}"
        )
    return {field["name"]: _array(made.column(field["name"]), field, entry) for field in inputs}


def _array(column: Any, field: dict[str, Any], entry: str) -> Any:
    import numpy as np
    import pyarrow as pa

    other = PrepareError(
        f"prepare {entry} gave column {field['name']!r} as {column.type}, in training it was {field['dtype']}"
    )
    if pa.types.is_string(column.type) != (field["dtype"] == "BYTES") and not pa.types.is_null(column.type):
        raise other  # no number is read out of text, nor text made of one
    try:
        column = column.cast(_kinds()[field["dtype"]])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise other from error
    if field["dtype"] == "BYTES":
        out = np.empty(len(column), dtype=object)
        out[:] = column.to_pylist()
        return out
    if column.null_count and field["dtype"] != "FP64":
        column = column.cast(pa.int64()).cast(pa.float64())
    return column.to_numpy()


def _kinds() -> dict[str, Any]:
    import pyarrow as pa

    return {"BOOL": pa.bool_(), "INT64": pa.int64(), "FP64": pa.float64(), "BYTES": pa.string()}


def _dtype(kind: Any) -> str | None:
    """The contract's type of an Arrow type; a column of nothing but nulls is one of numbers."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _dtype(kind.value_type)
    if types.is_boolean(kind):
        return "BOOL"
    if types.is_integer(kind):
        return "INT64"
    if types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        return "FP64"
    return "BYTES" if types.is_string(kind) or types.is_large_string(kind) else None


def _typed(column: Any, kind: Any) -> Any:
    """A column of another type, null for NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    made = column if column.type == kind else column.cast(kind)
    if not pa.types.is_floating(kind):
        return made
    return pc.if_else(pc.is_nan(made), pa.scalar(None, kind), made)


def _table(arrays: list[Any], names: list[str]) -> Any:
    import pyarrow as pa

    return pa.table(arrays, names=names).combine_chunks()
