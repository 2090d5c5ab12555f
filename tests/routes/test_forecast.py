"""A forecast from its file to its answers: built, backtested, gated against its champion, served."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.routes.harbour import Harbour, copy, statuses, write

from retinue.core.errors import RetinueError

pytestmark = pytest.mark.e2e

PORTFOLIO = """\
portfolio: harbour
format: 1
cutoff: last 20%
data:
  meters: {path: data/meters.parquet, time: hour}
  lagged:
    sql: |
      select hour, meter, load, load as now, hour(hour) as o_clock,
        lag(load) over (partition by meter order by hour) as before
      from meters
    time: hour
environments:
  base: {requirements: envs/base.txt}
defaults: {environment: base}
models:
  load:
    train: harbour.load:train
    data: lagged
    task: forecast
    horizon: 3
    series: [meter]
    season: 24
    every: 1h
    backtest: {folds: 2}
    features: [now, before, o_clock]
    target: load
    params: {alpha: 1.0}
    gates:
      mase: {max: 9.0}
      wape: {vs_champion: not_worse, margin: 500%}
"""
LOAD = """\
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline


def train(job):
    table = job.data["lagged"].to_pandas()
    job.log(last=str(table["hour"].max()), targets=", ".join(job.targets))
    trees = MultiOutputRegressor(HistGradientBoostingRegressor(max_iter=5))
    model = trees if job.params["alpha"] == 0 else make_pipeline(SimpleImputer(), Ridge(alpha=job.params["alpha"]))
    return model.fit(table[list(job.features)], table[list(job.targets)])
"""


def meters(hours: int = 24 * 25) -> pa.Table:
    """Two meters that follow the hour and, slowly, their own past."""
    rng = np.random.default_rng(5)
    at = np.datetime64("2026-01-01", "us") + np.arange(hours) * np.timedelta64(1, "h")
    parts = []
    for name, size in (("a", 10.0), ("b", 30.0)):
        drift = np.zeros(hours)
        for t in range(1, hours):
            drift[t] = 0.9 * drift[t - 1] + rng.normal()
        load = size + 2 * np.sin(np.arange(hours) * np.pi / 12) + drift
        parts.append(pa.table({"hour": at, "meter": [name] * hours, "load": load}))
    return pa.concat_tables(parts)


@pytest.fixture(scope="module")
def forecast(tmp_path_factory: pytest.TempPathFactory) -> Harbour:
    root = tmp_path_factory.mktemp("forecast") / "harbour"
    harbour = write(root, PORTFOLIO)
    (root / "harbour" / "load.py").write_text(LOAD)
    pq.write_table(meters(), root / "data" / "meters.parquet")
    outcome = harbour.apply()
    assert statuses(outcome) == {"load": "built"}, [m.text for m in outcome.models]
    return harbour


@pytest.fixture
def server(forecast: Harbour) -> Iterator[str]:
    (forecast.root / "retinue.toml").write_text("[serve]\nport = 0\nadmin_port = 0\ngateways = 1\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "retinue", "serve"], cwd=forecast.root, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().partition(" at ")[2].partition(": release")[0]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _version(harbour: Harbour) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The live version's manifest and its evidence, results by gate."""
    own = harbour.live()["load"]
    version = harbour.do(lambda p: p.registry.versions([own]))[own]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in harbour.do(lambda p: p.registry.evidence([own]))[own][-1].results:
        found.setdefault(row["gate"], []).append(row)
    return dict(version.manifest), found


def test_a_forecast_is_trained_on_what_ends_before_the_cutoff_and_backtested(forecast: Harbour) -> None:
    manifest, found = _version(forecast)
    logged, folds = manifest["logged"], manifest["backtest"]
    assert logged == {"last": "2026-01-20 20:00:00", "targets": "load_1, load_2, load_3"}
    artifact = manifest["artifact"]
    assert artifact["format"] == "onnx"
    assert artifact["signature"]["outputs"][0]["width"] == 3
    first, second = folds
    assert first["end"] == second["train_before"]
    assert first["train"] < second["train"] < manifest["rows"]["train"]
    for number, fold in enumerate(folds, start=1):
        assert set(fold["metrics"]) == {"mae", "rmse", "mase", "rmsse", "wape"}
        assert len(fold["steps"]["mae"]) == 3
        assert fold["steps"]["mae"][0] < fold["steps"]["mae"][2], "further ahead is harder"
        told = {row["metric"]: row["estimate"] for row in found[f"backtest.{number}"]}
        assert told == fold["metrics"]
    assert found["mase.max"][0]["verdict"] == "pass"
    assert "mae by step" in str(found["holdout.steps"][0]["detail"])


def test_it_is_served_with_one_value_per_step(forecast: Harbour, server: str) -> None:
    rows = {"now": [10.0, 30.0], "before": [9.0, None], "o_clock": [3, 4]}
    body = {
        "inputs": [
            {"name": n, "shape": [2], "datatype": "INT64" if n == "o_clock" else "FP64", "data": v}
            for n, v in rows.items()
        ]
    }
    answer = httpx.post(f"{server}/v2/models/load/infer", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("load", "FP64", [2, 3])
    assert np.abs(np.reshape(output["data"], (2, 3)) - [[10.0], [30.0]]).max() < 10
    friendly = [{"now": 10.0, "before": 9.0, "o_clock": 3}]
    answer = httpx.post(f"{server}/predict/load", json={"rows": friendly}, timeout=30)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    assert row["load"] == pytest.approx(output["data"][:3])


def test_trees_one_per_step_are_judged_against_the_line_that_is_champion(forecast: Harbour, tmp_path: Path) -> None:
    harbour = copy(tmp_path / "harbour", forecast.root)
    harbour.edit("alpha: 1.0", "alpha: 0")
    outcome = harbour.apply()
    assert statuses(outcome) == {"load": "built"}, [m.text for m in outcome.models]
    manifest, found = _version(harbour)
    (compared,) = found["wape.vs_champion"]
    assert compared["verdict"] == "pass"
    assert "paired bootstrap over" in str(compared["method"])
    assert manifest["artifact"]["signature"]["steps"] == ["load_1", "load_2", "load_3"]


def test_rows_that_are_there_twice_and_folds_without_rows_are_told(forecast: Harbour, tmp_path: Path) -> None:
    harbour = copy(tmp_path / "harbour", forecast.root)
    harbour.edit("    series: [meter]\n", "")
    outcome = harbour.apply()
    assert statuses(outcome) == {"load": "failed"}
    assert "have the series and the time of another" in str([m.text for m in outcome.models])
    harbour.edit("    season: 24\n", "    series: [meter]\n    season: 24\n")
    harbour.edit("horizon: 3", "horizon: 110")
    harbour.edit("folds: 2", "folds: 20")
    outcome = harbour.apply()
    assert statuses(outcome) == {"load": "failed"}
    assert "backtest before" in str([m.text for m in outcome.models])
    harbour.edit("series: [meter]", "series: [metre]")
    with pytest.raises(RetinueError, match="series column 'metre' is not there"):
        harbour.plan()
