"""Models from outside: planned, tested, released and refused like trained ones, with and without data."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.routes.harbour import ENVIRONMENTS, Harbour

from retinue.build.environment import lock, materialise
from retinue.cli.render_version import render_version
from retinue.control.telling import told
from retinue.core.errors import Location, PortfolioError
from retinue.core.plan import Build
from retinue.core.portfolio import EnvironmentSpec

HEAD = "portfolio: harbour\n"
ALONE = (
    HEAD
    + """\
models:
  risk:
    artifact: models/risk.onnx
    task: binary
    features: {a: FP64, b: FP64}
    classes: [false, true]
    gates: {examples: [{input: {a: 5, b: 5}, expect: {label: true, probability: [0.5, 1.0]}}]}
"""
)
JUDGED = (
    HEAD
    + """\
data: {rows: {path: data/rows.parquet, key: id}}
environments: {base: {requirements: envs/base.txt}}
models:
  risk:
    artifact: models/risk.skops
    environment: base
    data: rows
    task: binary
    features: [a, b]
    target: bad
    gates: {roc_auc: {min: 0.7}}
"""
)


def fitted(shift: float = 0.0) -> Any:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 2))
    return LogisticRegression().fit(x, x.sum(axis=1) + shift > 0)


def to_onnx(model: Any, names: tuple[str, str] = ("label", "probabilities")) -> bytes:
    """The graph of a logistic regression, written by hand: label as int64, probability [n, 2]."""
    from onnx import TensorProto, helper

    weights = model.coef_[0].tolist()
    node = helper.make_node(
        "LinearClassifier", ["x"], list(names), domain="ai.onnx.ml", post_transform="LOGISTIC",
        coefficients=[-w for w in weights] + weights, intercepts=[-model.intercept_[0], model.intercept_[0]],
        classlabels_ints=[0, 1], multi_class=0,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "risk",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info(names[0], TensorProto.INT64, [None]),
         helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [None, 2])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def place(root: Path, text: str, **files: bytes) -> Harbour:
    for folder in ("models", "data", "envs"):
        (root / folder).mkdir(exist_ok=True)
    (root / "envs" / "base.txt").write_text("scikit-learn==1.9.1\npandas==3.1.1\n")
    (root / "portfolio.yaml").write_text(text)
    for name, data in files.items():
        (root / "models" / name.replace("_", ".")).write_bytes(data)
    return Harbour(root)


def save(root: Path, model: str) -> None:
    """Save a model as skops with the packages of the portfolio's own environment."""
    locked = lock(EnvironmentSpec("base", Location("portfolio.yaml"), "envs/base.txt"), root)
    code = f"""
import numpy, skops.io
from sklearn.linear_model import LinearRegression, LogisticRegression
x = numpy.random.default_rng(3).normal(size=(300, 2))
skops.io.dump({model}, "models/risk.skops")
"""
    subprocess.run([materialise(locked, ENVIRONMENTS).python, "-c", code], cwd=root, check=True)


def rows(root: Path) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 400))
    pq.write_table(pa.table({"id": np.arange(400), "a": a, "b": b, "bad": a + b + rng.normal(size=400) > 0}),
                   root / "data" / "rows.parquet")  # fmt: skip


@pytest.mark.e2e
def test_a_graph_without_data_or_environment_is_released_by_contract_and_examples(tmp_path: Path) -> None:
    h = place(tmp_path, ALONE, risk_onnx=to_onnx(fitted()))
    plan = h.plan()
    assert [type(step) for step in plan.steps if step.__class__.__name__ != "Configure"] == [Build]
    outcome = h.apply()
    assert outcome.release == 1, [m.text for m in outcome.models]
    assert h.plan().empty
    version = h.do(lambda p: p.version("risk"))
    assert version.manifest["artifact"]["format"] == "onnx"
    assert version.manifest["rows"]["train"] == 0
    shown = h.do(lambda p: render_version(told(p.registry, version, p.current())))
    assert "from outside" in shown
    assert "not attested" in shown

    (tmp_path / "models" / "risk.onnx").write_bytes(to_onnx(fitted(shift=1.0)))
    step = next(s for s in h.plan().steps if isinstance(s, Build))
    assert [why.reason for why in step.why] == ["ARTIFACT"]
    (tmp_path / "models" / "risk.onnx").write_bytes(to_onnx(fitted(shift=-1.0)))  # says false for the example
    h.edit("expect: {label: true", "expect: {label: false")
    assert h.apply().release is None
    assert h.live() == {"risk": version.id}


@pytest.mark.e2e
def test_a_skops_model_is_judged_on_the_holdout_and_a_misfit_or_garbage_fails_alone(tmp_path: Path) -> None:
    h = place(tmp_path, JUDGED)
    rows(tmp_path)
    save(tmp_path, "LogisticRegression().fit(x, x.sum(axis=1) > 0)")
    outcome = h.apply()
    assert outcome.release == 1, [m.text for m in outcome.models]
    version = h.do(lambda p: p.version("risk"))
    assert version.manifest["native"]["format"] == "skops"
    assert version.manifest["compiled"]["parity"]["ok"]

    save(tmp_path, "LinearRegression().fit(x, x.sum(axis=1))")
    assert "no classifier" in h.apply().models[0].text
    (tmp_path / "models" / "risk.skops").write_bytes(b"PK garbage")
    assert "no skops file" in h.apply().models[0].text
    assert h.live() == {"risk": version.id}


@pytest.mark.parametrize(
    ("data", "said"),
    [(pickle.dumps({"a": 1}), "is refused: it is a pickle"), (b"", "is empty")],
    ids=["pickle", "empty"],
)
def test_an_artifact_that_is_a_pickle_in_disguise_or_empty_is_refused_by_the_plan(
    tmp_path: Path, data: bytes, said: str
) -> None:
    h = place(tmp_path, ALONE, risk_onnx=data)
    with pytest.raises(PortfolioError, match=said):
        h.plan()


def test_a_missing_artifact_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    h = place(tmp_path, ALONE, risks_onnx=b"x")
    with pytest.raises(PortfolioError, match="does not exist") as raised:
        h.plan()
    assert "risks.onnx" in str(raised.value.hint)
    assert str(raised.value.where).startswith("portfolio.yaml:3")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("risk.onnx", "risk.joblib", "it is a pickle"),
        ("risk.onnx", "risk.bin", "format of models/risk.bin is not known"),
        ("models/risk.onnx", "mlflow:models:/risk@prod", "artifacts behind mlflow: are not read"),
        ("{a: FP64, b: FP64}", "[a, b]", "features need their types"),
        ("{a: FP64, b: FP64}", "{a: FP32, b: FP64}", "expected BOOL, INT64, FP64 or BYTES"),
        ("    classes: [false, true]\n", "", "the classes are not known"),
        ("[false, true]", "[false]", "two or more different classes"),
        ("[false, true]", "[1, 2, 3]", "binary, but 3 classes"),
        ("gates: {examples", "gates: {roc_auc: {min: 0.5}, examples", "a metric needs a holdout"),
        ("risk.onnx", "risk.skops", "runs in an environment"),
        ("    task", "    train: a:b\n    task", "expected either `train` or `artifact`"),
    ],
)
def test_what_is_wrong_with_a_declaration_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    h = place(tmp_path, ALONE.replace(old, new, 1), risk_onnx=b"x")
    with pytest.raises(PortfolioError, match=said):
        h.plan()
