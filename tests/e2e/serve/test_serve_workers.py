"""Models that run in a worker process of their own environment: a real scikit-learn, real crashes, real hangs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from uv import find_uv_bin

from retinue.client import Client
from retinue.core.errors import UnavailableError
from retinue.core.state import ServedEndpoint, ServedModel, ServedNeed

pytestmark = pytest.mark.e2e

REQUIREMENTS = "scikit-learn==1.9.1\nskops\nnumpy\npandas\npyarrow\n"

MAKE = """
import os, sys
import numpy as np
import pandas as pd
import skops.io
import retinue_test_model as made
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

out = sys.argv[1]
frame = pd.DataFrame({"x": np.linspace(0, 1, 200), "city": pd.Series(["a", "b"] * 100, dtype="str")})
late = (frame["city"] == "b") & (frame["x"] > 0.5)
encode = ColumnTransformer([("city", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["city"])],
                           remainder="passthrough")
skops.io.dump(make_pipeline(encode, HistGradientBoostingClassifier(max_iter=20)).fit(frame, late), f"{out}/late")
skops.io.dump(LinearRegression().fit(frame[["x"]], 2 * frame["x"] + 1), f"{out}/line")
for name in ("Moody", "Deadly"):
    skops.io.dump(getattr(made, name)(), f"{out}/{name.lower()}")
"""

# A model is user code: this one is installed into the environment, like a package of the user's.
USER_CODE = """
import os, time
from sklearn.base import BaseEstimator, RegressorMixin

class Moody(RegressorMixin, BaseEstimator):
    def predict(self, table):
        value = float(table["x"].iloc[0])
        if value == 13: os._exit(3)
        if value == 14: time.sleep(60)
        if (table["x"] == 15).any(): raise ValueError("fifteen is not served")
        print("noise on standard output")
        return table["x"].to_numpy() * 2

class Deadly(RegressorMixin, BaseEstimator):
    def predict(self, table):
        os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="session")
def environment() -> Path:
    """A virtual environment with a real scikit-learn, kept between runs under the digest of what is in it."""
    digest = hashlib.sha256((REQUIREMENTS + USER_CODE).encode()).hexdigest()
    root = Path(tempfile.gettempdir()) / f"retinue-test-environment-{digest[:16]}"
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "ready").exists():
            subprocess.run([find_uv_bin(), "venv", "-q", "--clear", str(root)], check=True)
            requirements = root / "requirements.txt"
            requirements.write_text(REQUIREMENTS)
            python = str(root / "bin" / "python")
            install = [find_uv_bin(), "pip", "install", "-q", "--compile-bytecode", "--python", python]
            subprocess.run([*install, "-r", str(requirements)], check=True)
            site = next((root / "lib").glob("python*/site-packages"))
            (site / "retinue_test_model.py").write_text(USER_CODE)
            (root / "models").mkdir()
            subprocess.run([python, "-I", "-c", MAKE, str(root / "models")], check=True)
            (root / "ready").touch()
    return root


@pytest.fixture
def hosted(stage: Any, environment: Path) -> Any:
    """Makes served models of the environment's artifacts; the environment is where serving looks for it."""
    folder = stage.settings.environments
    folder.mkdir(parents=True)
    (folder / "e1").symlink_to(environment)

    def make(name: str, kind: str, needs: tuple[ServedNeed, ...] = (), where: str = "e1") -> ServedModel:
        digest = stage.artifacts.put_file(environment / "models" / kind)
        inputs = [{"name": "x", "dtype": "FP64", "nullable": True, "width": 1}]
        signature: dict[str, Any] = {
            "task": "regression",
            "target": "y",
            "classes": None,
            "inputs": inputs,
            "outputs": [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}],
            "container": "dataframe",
            "trusted": [
                "retinue_test_model.Moody",
                "retinue_test_model.Deadly",
                "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
            ],
            "onnx": None,
        }
        if kind == "late":
            inputs.append({"name": "city", "dtype": "BYTES", "nullable": True, "width": 1})
            outputs = [{"name": "label", "dtype": "BOOL", "nullable": False, "width": 1}]
            outputs.append({"name": "probability", "dtype": "FP64", "nullable": False, "width": 1})
            signature |= {"task": "binary", "target": "late", "classes": [False, True], "outputs": outputs}
        return ServedModel(name, f"{name}-v1", digest, "skops", signature, where, needs)

    return make


def test_a_pipeline_with_text_answers_from_its_own_environment_and_feeds_a_compiled_model(
    stage: Any, hosted: Any
) -> None:
    need = ServedNeed("late", "probability", "p", {"x": "minute"})
    above = stage.model("above", "a1", ("p",), (100.0,), needs=(need,))
    stage.publish(1, [hosted("late", "late"), above, hosted("lost", "line", where="e2")])
    running = stage.start()
    with Client(running.url) as client:
        rows: list[dict[str, Any]] = [
            {"x": 0.9, "city": "b"},
            {"x": 0.9, "city": "a"},
            {"x": None, "city": None},
            {"x": 1, "city": "?"},
        ]
        answer = client.predict("late", rows)
        first, second, third, _ = answer["predictions"]
        assert first["label"] is True
        assert first["probability"] > 0.8
        assert second["label"] is False
        assert isinstance(third["label"], bool)
        probability = client.infer("late", {"x": [0.9], "city": ["b"]})["probability"][0]
        above_it = client.infer("above", {"minute": [0.9], "city": ["b"]})["y"][0]
        assert above_it == pytest.approx(100 * probability)
        with pytest.raises(UnavailableError, match="environment e2 is not on this machine"):
            client.predict("lost", [{"x": 1}])
    workers = running.status()["gateways"][0]["workers"]
    assert [worker["environment"] for worker in workers] == ["e1"]
    folder = next((stage.settings.cache / "worker").iterdir())
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == [
        "__main__.py",
        "retinue_worker",
    ]


def test_a_model_that_kills_its_process_harms_no_sibling_and_falls_back(stage: Any, hosted: Any) -> None:
    stage.publish(
        1,
        [hosted("moody", "moody"), hosted("deadly", "deadly"), hosted("line", "line"), stage.model("spare", "s1")],
        {"moody-or-spare": ServedEndpoint("moody-or-spare", "moody", "spare")},
    )
    running = stage.start(request_timeout=20.0)
    assert "(1 unavailable)" in running.line
    assert "ended its worker process" in running.status()["unavailable"]["deadly"]
    stop = threading.Event()
    siblings: list[Any] = []

    def ask_sibling() -> None:
        with httpx.Client(base_url=running.url, timeout=20) as http:
            while not stop.is_set():
                siblings.append(http.post("/predict/line", json={"x": 1}).json().get("predictions"))

    thread = threading.Thread(target=ask_sibling)
    thread.start()
    with httpx.Client(base_url=running.url, timeout=20) as http:
        assert http.post("/predict/moody", json={"x": 2}).json()["predictions"] == [{"y": 4.0}]
        mixed = http.post("/predict/moody", json={"rows": [{"x": 1}, {"x": 15}, {"x": 3}]}).json()
        assert [p.get("y") for p in mixed["predictions"]] == [2.0, None, 6.0]
        assert "ValueError: fifteen is not served" in mixed["predictions"][1]["error"]
        died = http.post("/predict/moody", json={"x": 13})
        assert died.status_code == 503
        assert "ended its worker process" in died.json()["error"]
        second = http.post("/predict/moody-or-spare", json={"x": 13}).json()
        assert second["predictions"] == [{"y": 13.0}]
        assert second["models"][0]["fallback"] is True
        quarantined = http.post("/predict/moody", json={"x": 2})
        assert quarantined.status_code == 503
        worker = running.status()["gateways"][0]["workers"][0]
        assert worker["quarantined"] == {"moody": "quarantined: it ended its worker process 3 times"}
        metrics = http.get(f"{running.record.admin_url}/metrics").text
        assert 'retinue_quarantined{model="moody"} 1' in metrics
        assert "quarantined" in quarantined.json()["error"]
    stop.set()
    thread.join(30)
    assert siblings
    assert all(answer == [{"y": pytest.approx(3.0)}] for answer in siblings)


def test_a_hanging_model_is_ended_by_the_watchdog_and_a_killed_worker_is_replaced(stage: Any, hosted: Any) -> None:
    stage.publish(1, [hosted("moody", "moody"), hosted("line", "line")])
    running = stage.start(request_timeout=1.0)
    with httpx.Client(base_url=running.url, timeout=20) as http:
        hung = http.post("/predict/moody", json={"x": 14})
        assert hung.status_code in (503, 504)  # the watchdog or the deadline: they are due together
        assert "1 s" in hung.json()["error"]
        _answers(http, "/predict/moody", {"y": 2.0})
        worker = running.status()["gateways"][0]["workers"][0]
        os.kill(worker["pid"], signal.SIGKILL)
        _answers(http, "/predict/moody", {"y": 2.0})
        assert running.status()["gateways"][0]["workers"][0]["restarts"] >= 2


def _answers(http: httpx.Client, path: str, expected: dict[str, float]) -> None:
    """Within the back-off: the worker loads its models again, which takes longer than these requests' time limit."""
    ends = time.monotonic() + 30
    while True:
        response = http.post(path, json={"x": 1})
        if response.status_code == 200:
            assert response.json()["predictions"] == [expected]
            return
        assert response.status_code in (503, 504)
        assert time.monotonic() < ends, response.text
        time.sleep(0.05)
