"""A preparation: one function with the same types everywhere, its modules its own, mistakes told by their lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from retinue_worker import prepared
from retinue_worker.artifact import keep
from retinue_worker.prepared import Preparation, PrepareError, before_training, wrap
from retinue_worker.runtime import Model, ModelError, load

HELPERS = b"def twice(column, pc):\n    return pc.multiply(column, %d.0)\n"
PREP = b"""\
import pyarrow as pa
import pyarrow.compute as pc


def ready(table):
    from shop.helpers import twice  # a late import must find this version's own

    known = pc.is_null(table["word"])
    return pa.table({"a2": twice(table["a"], pc), "unsaid": pc.cast(known, pa.int64())})
"""
FILES = {"shop/prep.py": PREP, "shop/helpers.py": HELPERS % 2}
INPUTS = [
    {"name": name, "dtype": dtype, "nullable": True, "width": 1}
    for name, dtype in (("a", "FP64"), ("word", "BYTES"), ("n", "INT64"), ("on", "BOOL"))
]
OUTPUTS = [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}]
ROWS = pa.table(
    {
        "id": [1, 2, 3, 4],
        "a": pa.array([1.0, None, float("nan"), 4.0], pa.float32()),
        "word": ["x", None, "", "y"],
        "n": pa.array([1, None, 3, 4], pa.int16()),
        "on": [True, None, False, True],
        "y": [2.0, 4.0, 6.0, 8.0],
    }
)
COLUMNS = {
    "a": np.array([1.0, np.nan, np.nan, 4.0]),
    "word": np.array(["x", None, "", "y"], dtype=object),
    "n": np.array([1.0, np.nan, 3.0, 4.0]),
    "on": np.array([1.0, np.nan, 0.0, 1.0]),
}


def request(root: Path, files: dict[str, bytes], entry: str = "shop.prep:ready") -> dict[str, Any]:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    asked = {"entry": entry, "folder": str(root), "files": list(files)}
    names = [field["name"] for field in INPUTS]
    return {"prepare": asked, "features": names, "inputs": INPUTS, "target": "y", "task": "regression"}


def _graph() -> Any:
    """y = first + 10 second."""
    node = helper.make_node("MatMul", ["X", "W"], ["y"])
    weights = helper.make_tensor("W", TensorProto.DOUBLE, [2, 1], [1.0, 10.0])
    x = helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, 2])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 1])
    graph = helper.make_graph([node], "g", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def model_of(root: Path, files: dict[str, bytes]) -> Model:
    """Of what prepare gives: kept, loaded."""
    inner, _ = before_training(request(root, files), {"rows": ROWS.slice(0, 1)})
    made = wrap(keep(_graph(), inner), inner)
    path = root / "model"
    path.write_bytes(made["data"])
    signature = {"task": "regression", "target": "y", "classes": None, "inputs": INPUTS, "outputs": OUTPUTS}
    return load(str(path), made["format"], signature)


def module(body: str) -> dict[str, bytes]:
    return {"shop/prep.py": f"import pyarrow as pa\n\n\ndef ready(table):\n    {body}\n".encode()}


def test_training_and_a_request_give_the_function_the_very_same_table() -> None:
    trained = prepared._canonical(ROWS.drop_columns(["id", "y"]), INPUTS)
    asked = prepared._request_table(COLUMNS, INPUTS)
    assert trained.equals(asked)
    assert trained.schema == asked.schema
    assert [trained.column(name).null_count for name in trained.column_names] == [2, 1, 1, 1]


def test_the_training_gets_prepared_columns_and_what_is_no_feature(tmp_path: Path) -> None:
    inner, tables = before_training(request(tmp_path, FILES), {"rows": ROWS, "more": ROWS})
    assert inner["features"] == ["a2", "unsaid"]
    assert [field["dtype"] for field in inner["inputs"]] == ["FP64", "INT64"]
    assert tables["rows"].column_names == ["a2", "unsaid", "id", "y"]
    assert tables["rows"].column("a2").to_pylist() == [2.0, None, None, 8.0]
    assert tables["more"] is ROWS


def test_versions_with_the_same_module_names_live_in_one_process_and_leave_nothing_behind(tmp_path: Path) -> None:
    before, path = set(sys.modules), list(sys.path)
    one = model_of(tmp_path / "one", FILES)
    other = model_of(tmp_path / "other", {**FILES, "shop/helpers.py": HELPERS % 3})
    row = {name: values[:1] for name, values in COLUMNS.items()}
    for _ in range(2):
        assert one.run(row)["y"].tolist() == [2.0]
        assert other.run(row)["y"].tolist() == [3.0]
    assert not [name for name in set(sys.modules) - before if name.startswith("shop")]
    assert sys.path == path


def test_a_module_of_the_platform_keeps_its_name(tmp_path: Path) -> None:
    import colorsys

    files = {"colorsys.py": b"def ready(table):\n    return table.select(['a'])\n"}
    prepare = Preparation("colorsys:ready", files)
    assert prepare.run(ROWS).column_names == ["a"]
    assert sys.modules["colorsys"] is colorsys


@pytest.mark.parametrize("form", ["table.to_pandas()[['a', 'word']]", "table.select(['a', 'word']).to_batches()[0]"])
def test_frames_and_batches_are_tables_too(form: str, tmp_path: Path) -> None:
    made = Preparation("shop.prep:ready", module(f"return {form}")).run(ROWS)
    assert made.column("a").to_pylist() == [1.0, None, None, 4.0]
    assert made.column("word").to_pylist() == ["x", None, "", "y"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("pass", "returned nothing"),
        ("return [1, 2]", "returned a list"),
        ("return table.slice(1)", "gave 3 rows for 4"),
        ("return table.select([])", "no column at all"),
        ("return pa.table({'d': pa.array([None] * 4, pa.date32())})", "'d' of type date32"),
        ("return pa.table([table['a'], table['n']], names=['x', 'x'])", "two columns 'x'"),
        ("return pa.table({'y': table['a']})", "'y', which is the target"),
        ("return pa.table({'id': table['a']})", "'id', which is already a column"),
        ("return pa.table({'u': pa.array([2**63] * 4, pa.uint64())})", "'u', which is no INT64"),
    ],
)
def test_what_is_no_preparation_is_refused_before_training(body: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=said) as caught:
        before_training(request(tmp_path, module(body)), {"rows": ROWS})
    assert caught.value.told()["error"] == "nonsense"
    assert caught.value.told()["hint"]


def test_an_exception_is_told_with_the_users_lines_and_a_lost_file_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(PrepareError) as caught:
        before_training(request(tmp_path, module("return table['b']")), {"rows": ROWS})
    told = caught.value.told()
    assert told["what"] == "prepare"
    assert told["type"] == "KeyError"
    assert told["frames"] == [{"file": "shop/prep.py", "line": 5, "in": "ready", "text": "return table['b']"}]
    with pytest.raises(PrepareError) as caught:
        before_training(request(tmp_path, module("return open('lookup.csv')")), {"rows": ROWS})
    assert "has its code and nothing else" in caught.value.told()["hint"]
    with pytest.raises(PrepareError, match="has no function 'redy'"):
        Preparation("shop.prep:redy", module("return table"))
    with pytest.raises(PrepareError, match="no_such_package"):
        Preparation("shop.prep:ready", {"shop/prep.py": b"import no_such_package\n"})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("return pa.table({'a2': table['a']})", "no column 'unsaid', in training a2, unsaid"),
        ("return pa.table({'a2': table['a'], 'said': table['n']})", "no column 'unsaid' and a column 'said'"),
        ("return pa.table({'a2': table['word'], 'unsaid': table['n']})", "'a2' as string, in training it was FP64"),
        ("return pa.table({'a2': table['a'], 'unsaid': pa.array([0.5])})", "'unsaid' as double, in training"),
        ("raise ValueError('no')", r"prepare raised ValueError: no \(shop/prep.py:7 in ready: raise ValueError"),
        ("raise SystemExit(3)", "prepare raised SystemExit: 3"),
    ],
)
def test_what_differs_from_training_is_told_when_the_model_is_asked(other: str, said: str, tmp_path: Path) -> None:
    names = "'a2': table['a'], 'unsaid': table['n']"
    switch = f"import os\n    if 'OTHER' in os.environ:\n        {other}\n    return pa.table({{{names}}})"
    model = model_of(tmp_path, module(switch))
    row = {name: values[:1] for name, values in COLUMNS.items()}
    assert model.run(row)["y"].tolist() == [11.0]
    os.environ["OTHER"] = "1"
    try:
        with pytest.raises(ModelError, match=said):
            model.run(row)
    finally:
        del os.environ["OTHER"]


def test_a_torn_or_foreign_artifact_says_so(tmp_path: Path) -> None:
    signature = {"task": "regression", "target": "y", "classes": None, "inputs": INPUTS, "outputs": OUTPUTS}
    model_of(tmp_path, FILES)
    whole = (tmp_path / "model").read_bytes()
    for data in (b"", b"garbage" * 100, whole[:1500]):
        (tmp_path / "model").write_bytes(data)
        with pytest.raises(ModelError):
            load(str(tmp_path / "model"), "prepared", signature)
