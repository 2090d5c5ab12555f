"""Models from outside end to end: a portfolio made of a model file, served by a real gateway; as an upstream."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.outside.test_outside import fitted, place, rows, to_onnx
from tests.routes.harbour import Harbour

from retinue.cli.main import run
from retinue.loader.from_model import scaffold_model

pytestmark = pytest.mark.e2e
QUIET = {"RETINUE_PORT": "0", "RETINUE_ADMIN_PORT": "0", "RETINUE_GATEWAYS": "1"}
CHAIN = """\
portfolio: harbour
data: {rows: {path: data/rows.parquet, key: id}}
models:
  risk: {artifact: models/risk.onnx, task: binary, features: {a: FP64, b: FP64}, classes: [false, true]}
  second:
    artifact: models/second.onnx
    data: rows
    task: binary
    needs: {risk: {output: probability}}
    features: [a, risk]
    target: bad
    gates: {roc_auc: {min: 0.55}}
"""


def test_a_model_file_becomes_a_portfolio_that_is_released_and_answers(tmp_path: Path) -> None:
    (tmp_path / "risk.onnx").write_bytes(to_onnx(fitted()))
    assert run(["init", str(tmp_path), "--from-model", str(tmp_path / "risk.onnx")]) == 0
    assert len((tmp_path / "portfolio.yaml").read_text().splitlines()) <= 8
    assert run(["-f", str(tmp_path), "validate"]) == 0
    h = Harbour(tmp_path)
    outcome = h.apply()
    assert outcome.release == 1, [m.text for m in outcome.models]
    process = subprocess.Popen(
        [sys.executable, "-m", "retinue", "-f", str(tmp_path), "serve"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **QUIET},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = process.stdout.readline().partition(" at ")[2].partition(": release")[0]
        given = {"x0": [5.0, -5.0], "x1": [5.0, -5.0]}
        body = {"inputs": [{"name": n, "shape": [2], "datatype": "FP64", "data": v} for n, v in given.items()]}
        answer = httpx.post(f"{url}/v2/models/risk/infer", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        told = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        assert told["label"] == [1, 0]
        high, low = told["probability"][:2]
        assert high > 0.9
        assert low < 0.1
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_model_from_outside_is_the_upstream_of_another(tmp_path: Path) -> None:
    h = place(tmp_path, CHAIN, risk_onnx=to_onnx(fitted()), second_onnx=to_onnx(fitted(shift=-0.5)))
    rows(tmp_path)
    outcome = h.apply()
    assert outcome.release == 1, [m.text for m in outcome.models]
    assert h.do(lambda p: p.version("second")).manifest["needs"][0]["model"] == "risk"
    assert h.plan().empty


def test_boosters_and_skops_files_tell_their_own_types(tmp_path: Path) -> None:
    import lightgbm
    import numpy as np
    import pandas as pd

    x = pd.DataFrame({"a": np.arange(60.0), "c": pd.Categorical(["x", "y", "z"] * 20)})
    light = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1, min_child_samples=1).fit(x, x.a > 30)
    light.booster_.save_model(tmp_path / "late.txt")
    written = scaffold_model(tmp_path / "new", tmp_path / "late.txt")
    assert [str(file.relative_to(tmp_path / "new")) for file in written] == [
        "portfolio.yaml", "envs/base.txt", "models/late.txt",
    ]  # fmt: skip
    text = written[0].read_text()
    assert len(text.splitlines()) <= 8
    assert "features: {a: FP64, c: BYTES}" in text
    assert "lightgbm==" in written[1].read_text()
    assert run(["-f", str(tmp_path / "new"), "validate"]) == 0
