"""XGBoost, LightGBM and CatBoost: compiled where that is proved right, else served in their own formats."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retinue.build.asked import TrainRequest
from retinue.build.compile import Served, choose
from retinue.build.environment import converters, lock, materialise
from retinue.build.train import Trainers
from retinue.core.contract import Field
from retinue.core.errors import Location, TrainingError
from retinue.core.portfolio import EnvironmentSpec, Limits
from retinue_worker.exchange import write_table
from retinue_worker.runtime import load

from .conftest import Bench

pytestmark = pytest.mark.e2e

Columns = dict[str, np.ndarray[Any, Any]]
NUMBERS = (Field("a", "FP64"), Field("b", "FP64"), Field("h", "INT64"))
INPUTS = (*NUMBERS, Field("c", "BYTES"))
CODE = """
import warnings
import numpy as np
import pandas as pd
from catboost import CatBoost, CatBoostClassifier, CatBoostRegressor
from lightgbm import Dataset, LGBMClassifier, LGBMRegressor
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from xgboost import DMatrix, XGBClassifier, XGBRegressor
import lightgbm, xgboost
QUIET = {"verbose": 0, "allow_writing_files": False, "random_seed": 0, "iterations": 10}
def train(job):
    df = job.data["rows"].to_pandas()
    x, y = df[list(job.features)], df[job.target]
    if "c" in x and job.params.get("text") == "category":
        x = x.assign(c=x["c"].astype("category"))
    if "c" in x and job.params.get("text") == "filled":
        x = x.assign(c=x["c"].fillna(""))
    codes = pd.Series(np.unique(y, return_inverse=True)[1])
    parts = ColumnTransformer([("n", "passthrough", ["a", "b", "h"]),
                               ("c", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["c"])])
    return {CHOICE}
"""


@pytest.fixture(scope="module")
def boosters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("boosters")
    (root / "boosters.txt").write_text(
        "scikit-learn==1.9.1\npandas==3.1.1\nxgboost-cpu==3.2.0\nlightgbm==4.7.0\ncatboost==1.2.10\n"
    )
    locked = lock(EnvironmentSpec("boosters", Location("portfolio.yaml"), "boosters.txt"), root)
    folder = Path(tempfile.gettempdir()) / "retinue-test-environments"
    environment = materialise(locked, folder)
    overlay, reason = converters(locked, folder)
    assert reason is None
    with Trainers(1) as trainers:
        yield Bench(trainers, environment, overlay)


def _columns(count: int, seed: int) -> Columns:
    generator = np.random.default_rng(seed)
    a = generator.normal(size=count)
    a[generator.random(count) < 0.1] = np.nan
    c = np.array([*generator.choice(["x", "y", "zz"], count), None], dtype=object)[:-1]
    c[generator.random(count) < 0.1] = None
    return {"a": a, "b": generator.normal(size=count) * 1000, "h": generator.integers(0, 24, count), "c": c}


def _table(columns: Columns) -> pa.Table:
    score = np.nan_to_num(columns["a"]) + columns["h"] / 10 + 2 * (columns["c"] == "x")
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    kind = np.array(["early", "fair", "late"], dtype=object)[np.digitize(score, [0.5, 2.0])]
    return pa.table({**arrays, "late": score > 1.5, "minutes": score * 10, "kind": pa.array(kind)})


Built = Callable[..., Served]


@pytest.fixture
def built(boosters: Bench, tmp_path: Path) -> Built:
    """Trains what is chosen in the environment of all three and chooses what serves it."""

    def build(choice: str, **changes: Any) -> Served:
        bundle, rows = tmp_path / "project", tmp_path / "rows.arrow"
        bundle.mkdir(exist_ok=True)
        (bundle / "late.py").write_text(textwrap.dedent(CODE).replace("{CHOICE}", choice))
        write_table(_table(_columns(600, 1)), str(rows))
        request = TrainRequest(
            model="late",
            environment=boosters.environment,
            bundle=bundle,
            entry="late:train",
            tables={"rows": rows},
            inputs=NUMBERS,
            target="late",
            task="binary",
            folder=tmp_path / "out",
            overlay=boosters.overlay,
            limits=Limits(time=120),
        )
        result = boosters.trainers.train(replace(request, **changes))
        return choose(result, _columns(300, 3), boosters.trainers)

    return build


MULTI = {"task": "multiclass", "target": "kind"}
REGRESSION = {"task": "regression", "target": "minutes"}


@pytest.mark.parametrize(
    ("choice", "changes"),
    [
        ("XGBClassifier(n_estimators=10).fit(x, y)", {}),
        ('xgboost.train({"objective": "multi:softprob", "num_class": 3}, DMatrix(x, codes), 5)', MULTI),
        ("LGBMClassifier(n_estimators=10, verbose=-1).fit(x, y)", MULTI),
        ('lightgbm.train({"objective": "regression", "verbose": -1}, Dataset(x, y), 10)', REGRESSION),
        ("CatBoostClassifier(**QUIET).fit(x, y)", {}),
        ("CatBoostRegressor(**QUIET).fit(x, y)", REGRESSION),
    ],
    ids=["xgboost-wrapper", "xgboost-bare", "lightgbm-wrapper", "lightgbm-bare", "catboost-binary", "catboost-value"],
)
def test_boosters_of_numbers_serve_compiled_with_their_parity_on_record(
    built: Built, choice: str, changes: dict[str, Any]
) -> None:
    served = built(choice, **changes)
    assert (served.reason, served.format) == (None, "onnx")
    assert served.parity is not None
    assert served.parity.ok
    assert served.parity.rows > 300, "edge rows count too"
    assert served.latency_us["compiled"] < served.latency_us["native"]
    model = load(str(served.artifact), "onnx", dict(served.signature))
    answers = model.run(_columns(50, 9))
    if served.signature["classes"] is not None:
        assert set(answers["label"].tolist()) <= set(served.signature["classes"])


@pytest.mark.parametrize(
    ("choice", "text", "framework"),
    [
        ("XGBClassifier(n_estimators=10, enable_categorical=True).fit(x, codes)", "category", "xgboost"),
        ("LGBMClassifier(n_estimators=10, verbose=-1).fit(x, y)", "category", "lightgbm"),
        ('CatBoostClassifier(**QUIET, cat_features=["c"]).fit(x, y)', "filled", "catboost"),
    ],
    ids=["xgboost", "lightgbm", "catboost"],
)
def test_boosters_of_text_categories_are_served_in_their_own_format_and_say_why(
    built: Built, choice: str, text: str, framework: str
) -> None:
    served = built(choice, inputs=INPUTS, params={"text": text}, **MULTI)
    assert served.format == framework
    assert served.reason is not None
    assert "no ONNX form for text categories (c)" in served.reason
    assert served.signature["classes"] == ["early", "fair", "late"]
    model = load(str(served.artifact), served.format, dict(served.signature))
    rows = _columns(200, 5)
    answers = model.run(rows)
    assert np.allclose(answers["probability"].sum(axis=1), 1, atol=1e-5)
    score = np.nan_to_num(rows["a"]) + rows["h"] / 10 + 2 * (rows["c"] == "x")
    truth = np.array(["early", "fair", "late"], dtype=object)[np.digitize(score, [0.5, 2.0])]
    assert (answers["label"] == truth).mean() > 0.6, "categories and classes are where training had them"
    odd = {name: values[:3].copy() for name, values in rows.items()}
    odd["c"][:] = [None, "", "never seen"]
    odd["a"][:] = np.nan
    assert np.isfinite(model.run(odd)["probability"]).all()


@pytest.mark.parametrize(
    "choice",
    ["XGBClassifier(n_estimators=5)", "LGBMClassifier(n_estimators=5, verbose=-1)", "CatBoostClassifier(**QUIET)"],
    ids=["xgboost", "lightgbm", "catboost"],
)
def test_pipelines_that_hold_a_booster_serve_right(built: Built, choice: str) -> None:
    served = built(f"make_pipeline(parts, {choice}).fit(x, y)", inputs=INPUTS)
    assert served.format in ("onnx", "skops")
    assert (served.reason is None) == (served.format == "onnx")


@pytest.mark.parametrize(
    ("choice", "changes", "said"),
    [
        ("XGBClassifier(n_estimators=2).fit(x[['b', 'a', 'h']], y)", {}, "was trained on b, a, h, but the features"),
        ("XGBClassifier(n_estimators=2)", {}, "is not fitted"),
        ("LGBMRegressor(n_estimators=2, verbose=-1).fit(x, y)", {}, "the booster's objective is regression"),
        ("XGBClassifier(n_estimators=2).fit(x, y)", MULTI | {"target": "late"}, "objective is binary:logistic"),
        ('xgboost.train({"objective": "binary:hinge"}, DMatrix(x, codes), 2)', {}, "gives no probabilities"),
        ('xgboost.train({"objective": "multi:softprob", "num_class": 4}, DMatrix(x, codes), 2)', MULTI, "of 4 classes"),
        ("CatBoostClassifier(**QUIET)", {}, "is not fitted"),
        ("LGBMClassifier(n_estimators=2, verbose=-1).fit(x.assign(d=1), y)", {}, "4 columns, but there are 3"),
    ],
    ids=["order", "xgboost-unfitted", "objective", "task", "margin", "classes", "catboost-unfitted", "columns"],
)
def test_a_booster_that_does_not_fit_its_declaration_is_refused(
    built: Built, choice: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said) as caught:
        built(choice, **changes)
    assert caught.value.hint


QUANTILES = {"task": "quantiles", "target": "minutes", "quantiles": (0.1, 0.5, 0.9)}


@pytest.mark.parametrize(
    ("choice", "framework"),
    [
        (
            'XGBRegressor(n_estimators=20, objective="reg:quantileerror", quantile_alpha=[.1, .5, .9]).fit(x, y)',
            "xgboost",
        ),
        ('CatBoostRegressor(**QUIET, loss_function="MultiQuantile:alpha=0.1,0.5,0.9").fit(x, y)', "catboost"),
    ],
    ids=["xgboost", "catboost"],
)
def test_a_conversion_that_loses_quantiles_is_found_out_and_the_original_serves_them_in_rising_order(
    built: Built, choice: str, framework: str
) -> None:
    served = built(choice, **QUANTILES)
    assert served.format == framework
    assert served.reason
    model = load(str(served.artifact), served.format, dict(served.signature))
    rows = _columns(300, 5)
    low, middle, high = model.run(rows)["minutes"].T
    assert (low <= middle).all()
    assert (middle <= high).all()
    truth = _table(rows).column("minutes").to_numpy()
    assert 0.3 < ((low <= truth) & (truth <= high)).mean() <= 1


def test_quantiles_other_than_the_declared_ones_are_refused(built: Built) -> None:
    choice = 'XGBRegressor(n_estimators=2, objective="reg:quantileerror", quantile_alpha=[.2, .5, .9]).fit(x, y)'
    with pytest.raises(TrainingError, match=r"trained for the quantiles \[0.2, 0.5, 0.9\]"):
        built(choice, **QUANTILES)
