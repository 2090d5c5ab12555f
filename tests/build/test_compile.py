"""Compilation: a conversion serves only where it was seen to answer as the original does."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pyarrow as pa
import pytest

from retinue.build import compile as room
from retinue.build.asked import TrainRequest
from retinue.build.compile import Parity, Served, choose, edge_rows, prove_parity
from retinue.core.contract import Field
from retinue.core.errors import TrainingError
from retinue.core.portfolio import Limits
from retinue_worker.exchange import write_table
from retinue_worker.runtime import load

from .conftest import Bench

INPUTS = (
    Field("a", "FP64"),
    Field("b", "FP64"),
    Field("h", "INT64", nullable=False),
    Field("f", "BOOL", nullable=False),
    Field("c", "BYTES"),
)
FEATURES = [field.name for field in INPUTS]

PIPELINE = """
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
HOT = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
ORDINAL = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
FILL = make_pipeline(SimpleImputer(), StandardScaler())
def train(job):
    df = job.data["rows"].to_pandas()
    numbers, text, model = {CHOICE}
    parts = ColumnTransformer([("n", numbers, ["a", "b", "h", "f"]), ("c", text, ["c"])])
    return Pipeline([("p", parts), ("m", model)]).fit(df[list(job.features)], df[job.target])
"""

Columns = dict[str, np.ndarray[Any, Any]]


def _columns(count: int, seed: int, *, gaps: bool = False) -> Columns:
    generator = np.random.default_rng(seed)
    a = generator.normal(size=count)
    c = np.array([*generator.choice(["x", "y", "zz"], count), None], dtype=object)[:-1]
    if gaps:
        a[generator.random(count) < 0.1] = np.nan
        c[generator.random(count) < 0.1] = None
    b = generator.normal(size=count) * 1000
    return {"a": a, "b": b, "h": generator.integers(0, 24, count), "f": generator.random(count) < 0.3, "c": c}


def _table(columns: Columns, seed: int) -> pa.Table:
    noise = np.random.default_rng(seed).normal(size=len(columns["a"]))
    score = np.nan_to_num(columns["a"]) + columns["h"] / 10 + (columns["c"] == "x") + 3 * (columns["c"] == None) + noise  # noqa: E711
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return pa.table({**arrays, "late": score > 1, "minutes": score * 10})


@pytest.fixture
def built(bench: Bench, tmp_path: Path) -> Callable[..., Served]:
    """Trains the pipeline with (numbers, text, model) as given and chooses what serves it."""

    def build(choice: str, *, code: str = PIPELINE, gaps: bool = False, **changes: Any) -> Served:
        bundle, rows = tmp_path / "project", tmp_path / "rows.arrow"
        bundle.mkdir(exist_ok=True)
        (bundle / "late.py").write_text(textwrap.dedent(code).replace("{CHOICE}", choice))
        write_table(_table(_columns(1500, 1, gaps=gaps), 2), str(rows))
        request = TrainRequest(
            model="late",
            environment=bench.environment,
            bundle=bundle,
            entry="late:train",
            tables={"rows": rows},
            inputs=INPUTS,
            target="late",
            task="binary",
            folder=tmp_path / "out",
            overlay=bench.overlay,
            limits=Limits(time=60),
        )
        result = bench.trainers.train(replace(request, **changes))
        return choose(result, _columns(400, 3, gaps=gaps), bench.trainers)

    return build


@pytest.mark.e2e
@pytest.mark.parametrize(
    "choice",
    [
        "FILL, HOT, LogisticRegression()",
        '"passthrough", ORDINAL, HistGradientBoostingClassifier(max_iter=20, random_state=0)',
        '"passthrough", HOT, HistGradientBoostingClassifier(max_iter=20, random_state=0)',
    ],
    ids=["linear", "boosting-ordinal", "boosting-onehot"],
)
def test_pipelines_of_the_usual_parts_serve_compiled_with_their_parity_on_record(
    built: Callable[..., Served], choice: str
) -> None:
    served = built(choice)
    assert served.reason is None
    assert served.format == "onnx"
    assert served.parity is not None
    assert served.parity.ok
    assert served.parity.rows > 400, "edge rows count too"
    assert served.parity.label_agreement == 1.0
    assert served.latency_us["compiled"] < served.latency_us["native"]


@pytest.mark.e2e
def test_regression_serves_compiled(built: Callable[..., Served]) -> None:
    served = built(
        '"passthrough", HOT, HistGradientBoostingRegressor(max_iter=20)', task="regression", target="minutes"
    )
    assert (served.reason, served.format) == (None, "onnx")
    model = load(str(served.artifact), served.format, dict(served.signature))
    assert model.run(_columns(5, 9))["minutes"].shape == (5,)


@pytest.mark.e2e
def test_boosting_with_categorical_features_converts_without_an_error_and_wrong_so_the_original_serves(
    built: Callable[..., Served],
) -> None:
    served = built('"passthrough", ORDINAL, HistGradientBoostingClassifier(categorical_features=[4], random_state=0)')
    assert served.format == "skops"
    assert served.parity is not None
    assert not served.parity.ok
    assert served.parity.largest is not None
    assert served.parity.largest > 0.05
    assert served.parity.where
    assert "rows differ" in (served.reason or "")


@pytest.mark.e2e
def test_missing_text_that_the_conversion_cannot_tell_from_empty_text_is_caught(built: Callable[..., Served]) -> None:
    served = built('"passthrough", HOT, HistGradientBoostingClassifier(max_iter=20, random_state=0)', gaps=True)
    assert served.format == "skops"
    assert served.reason


@pytest.mark.e2e
def test_rows_on_which_the_original_raises_are_excluded_and_counted(built: Callable[..., Served]) -> None:
    served = built("FILL, OneHotEncoder(sparse_output=False), LogisticRegression()")
    assert served.parity is not None
    assert served.parity.excluded >= 3, "the unseen categories and missing text"
    assert served.parity.ok


@pytest.mark.e2e
def test_a_required_compilation_that_is_not_proved_fails_the_build_and_a_forbidden_one_is_not_tried(
    built: Callable[..., Served],
) -> None:
    wrong = '"passthrough", ORDINAL, HistGradientBoostingClassifier(categorical_features=[4], random_state=0)'
    with pytest.raises(TrainingError, match="`compile: require`, but not proved equal"):
        built(wrong, compile="require")
    served = built("FILL, HOT, LogisticRegression()", compile="forbid")
    assert (served.format, served.reason) == ("skops", "compilation is forbidden in the portfolio")
    assert served.latency_us["native"] > 0


@pytest.mark.e2e
def test_without_converters_the_original_serves_and_the_reason_is_theirs(built: Callable[..., Served]) -> None:
    served = built("FILL, HOT, LogisticRegression()", overlay=None, no_overlay="no converters fit: protobuf 7")
    assert (served.format, served.reason) == ("skops", "no converters fit: protobuf 7")


# ------------------------------------------------------------------------------------------------------- comparing
SIGNATURE = {
    "task": "binary",
    "target": "late",
    "classes": [False, True],
    "inputs": [{"name": "p", "dtype": "FP64", "nullable": True, "width": 1}],
    "outputs": [
        {"name": "label", "dtype": "BOOL", "nullable": False, "width": 1},
        {"name": "probability", "dtype": "FP64", "nullable": False, "width": 1},
    ],
    "onnx": {
        "inputs": [{"name": "p", "features": ["p"], "dtype": "FP64"}],
        "outputs": {"label": "label", "probability": "probability"},
    },
}


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A graph whose probability is its input and whose label is whether that is above a half."""
    half = oh.make_tensor("half", onnx.TensorProto.DOUBLE, [], [0.5])
    nodes = [oh.make_node("Identity", ["p"], ["probability"]), oh.make_node("Greater", ["p", "half"], ["label"])]
    shape: list[str | int | None] = ["n", 1]
    graph = oh.make_graph(
        nodes,
        "echo",
        [oh.make_tensor_value_info("p", onnx.TensorProto.DOUBLE, shape)],
        [
            oh.make_tensor_value_info("label", onnx.TensorProto.BOOL, shape),
            oh.make_tensor_value_info("probability", onnx.TensorProto.DOUBLE, shape),
        ],
        [half],
    )
    path = tmp_path / "echo.onnx"
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _prove(echo: Path, native: list[float], compiled: list[float], labels: list[bool]) -> Parity:
    answers = {"label": np.array(labels), "probability": np.array(native)}
    return prove_parity(answers, echo, SIGNATURE, {"p": np.array(compiled)})


def test_one_row_over_tolerance_is_enough_and_is_shown(echo: Path) -> None:
    parity = _prove(echo, [0.2, 0.8, 0.7], [0.2, 0.8, 0.7011], [False, True, True])
    assert not parity.ok
    assert parity.where[0]["native"] == {"label": True, "probability": 0.7}
    assert parity.where[0]["row"] == {"p": 0.7011}
    assert "1 of 3 rows" in (parity.reason or "")


def test_labels_must_agree_but_for_ties_within_the_tolerance(echo: Path) -> None:
    assert _prove(echo, [0.50001, 0.9], [0.49999, 0.9], [True, True]).ok
    parity = _prove(echo, [0.2, 0.9], [0.2, 0.9], [False, False])
    assert not parity.ok
    assert parity.label_agreement == 0.5


def test_missing_answers_are_equal_only_to_missing_answers(echo: Path) -> None:
    assert _prove(echo, [np.nan, 0.9], [np.nan, 0.9], [False, True]).ok
    parity = _prove(echo, [0.3, 0.9], [np.nan, 0.9], [False, True])
    assert not parity.ok
    assert parity.as_json()["largest"] is None
    assert parity.as_json()["where"][0]["compiled"]["probability"] is None


def test_a_conversion_that_does_not_load_is_no_parity(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    parity = _prove(tmp_path / "bad.onnx", [0.1], [0.1], [False])
    assert not parity.ok
    assert "does not run" in (parity.reason or "")


def test_regression_is_compared_relative_to_the_value() -> None:
    native = np.array([1000.0, 1000.0, 1000.0, 0.0])
    compiled = np.array([1000.05, 1000.2, 1000.0, 1e-5])
    assert (room._relative(native, compiled) <= room.TOLERANCE).tolist() == [True, False, True, True]


def test_edge_rows_vary_one_column_at_a_time_on_a_typical_row() -> None:
    columns = _columns(200, 5)
    edges = edge_rows(columns, INPUTS)
    typical = {name: values[0] for name, values in edges.items()}
    for row in range(1, len(edges["a"])):
        changed = [name for name in edges if edges[name][row] != typical[name]]
        assert len(changed) <= 1
    assert np.isnan(edges["a"]).sum() == 1
    assert {0.0, 1e6, -1e6} <= set(edges["a"].tolist())
    assert edges["h"].dtype == np.int64, "a column that is never missing stays whole"
    assert edges["f"].dtype == np.bool_
    assert None in edges["c"].tolist()
    assert "" in edges["c"].tolist()
    assert not set(edges["c"].tolist()) <= {None, "", "x", "y", "zz"}


@pytest.mark.e2e
def test_an_input_without_which_the_model_has_no_answer_is_not_nullable_in_what_serves(
    built: Callable[..., Served],
) -> None:
    served = built("StandardScaler(), HOT, LogisticRegression()")
    nullable = {field["name"]: field["nullable"] for field in served.signature["inputs"]}
    assert nullable == {"a": False, "b": False, "h": False, "f": False, "c": True}
    assert all(f["nullable"] for f in built("FILL, HOT, LogisticRegression()").signature["inputs"][:2])


@pytest.mark.e2e
def test_an_input_that_was_seen_missing_stays_nullable(built: Callable[..., Served]) -> None:
    served = built('"passthrough", HOT, HistGradientBoostingClassifier(max_iter=5)', gaps=True)
    assert {f["name"] for f in served.signature["inputs"] if f["nullable"]} == {"a", "b", "c"}
