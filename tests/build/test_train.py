"""Training: what user code gets, what it may return, and what happens when it misbehaves."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retinue.build.asked import TrainRequest
from retinue.build.train import PredictRequest, Trainers, TrainResult
from retinue.core.contract import Field
from retinue.core.errors import TrainingError
from retinue.core.portfolio import Limits
from retinue_worker.exchange import write_table

from .conftest import Bench

pytestmark = pytest.mark.e2e

INPUTS = (Field("a", "FP64"), Field("h", "INT64", nullable=False), Field("c", "BYTES"))
GOOD = """
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
def train(job):
    df = job.data["rows"].to_pandas()
    parts = [("n", StandardScaler(), ["a", "h"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["c"])]
    model = Pipeline([("p", ColumnTransformer(parts)), ("m", LogisticRegression(C=job.params.get("C", 1.0)))])
    job.log(rows=len(df), share=df[job.target].mean())
    (job.files / "note.txt").write_text("kept")
    print("training on", len(df))
    return model.fit(df[list(job.features)], df[job.target])
"""

Make = Callable[..., TrainRequest]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(1)
    a, h = generator.normal(size=600), generator.integers(0, 24, 600)
    c = generator.choice(["x", "y", "zz"], 600)
    late = a + h / 12 + (c == "x") + generator.normal(size=600) > 1.5
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    table = {"a": a, "h": h, "c": c, "late": late, "minutes": a * 30 + h, "kind": np.where(late, c, "no")}
    write_table(pa.table(table), str(path))
    return path


@pytest.fixture
def make(bench: Bench, rows: Path, tmp_path: Path) -> Make:
    def made(code: str, **changes: Any) -> TrainRequest:
        bundle = tmp_path / "project"
        (bundle / "pack").mkdir(parents=True, exist_ok=True)
        (bundle / "pack" / "late.py").write_text(textwrap.dedent(code))
        request = TrainRequest(
            model="late",
            environment=bench.environment,
            bundle=bundle,
            entry="pack.late:train",
            tables={"rows": rows},
            inputs=INPUTS,
            target="late",
            task="binary",
            folder=tmp_path / "out",
            overlay=bench.overlay,
            limits=Limits(time=60),
        )
        return replace(request, **changes)

    return made


def _predict(bench: Bench, result: TrainResult, **changes: Any) -> PredictRequest:
    request = PredictRequest(bench.environment, result.artifact, result.format, result.signature, overlay=bench.overlay)
    return replace(request, model="late", **changes)


COLUMNS = {
    "a": np.array([0.0, 2.0, -2.0]),
    "h": np.array([1, 20, 3]),
    "c": np.array(["x", "never seen", None], dtype=object),
}


def test_a_pipeline_is_kept_converted_and_answers(bench: Bench, make: Make) -> None:
    result = bench.trainers.train(make(GOOD))
    assert (result.format, result.classes, result.signature["container"]) == ("skops", (False, True), "dataframe")
    assert [field["name"] for field in result.signature["outputs"]] == ["label", "probability"]
    assert result.logged["rows"] == 600
    assert 0 < result.logged["share"] < 1
    assert (result.files / "note.txt").read_text() == "kept"
    assert "training on 600" in result.log.read_text()
    assert result.compile_reason is None
    assert result.compiled is not None
    assert [part["dtype"] for part in result.compiled.signature["onnx"]["inputs"]] == ["FP64", "FP64", "BYTES"]
    answers = bench.trainers.predict(_predict(bench, result), COLUMNS)
    assert answers["label"].tolist() == [False, True, False]
    assert answers["probability"].shape == (3,)
    single = bench.trainers.predict(_predict(bench, result, chunk=1), COLUMNS)
    np.testing.assert_array_equal(single["probability"], answers["probability"])


def test_a_second_build_gives_the_same_bytes(bench: Bench, make: Make, tmp_path: Path) -> None:
    forest = """
    from sklearn.ensemble import RandomForestClassifier
    def train(job):
        df = job.data["rows"].to_pandas()
        return RandomForestClassifier(5, random_state=job.seed).fit(df[["a", "h"]], df["late"])
    """
    for code, inputs in ((GOOD, INPUTS), (forest, INPUTS[:2])):
        first, second = (
            bench.trainers.train(make(code, inputs=inputs, folder=tmp_path / name)) for name in ("one", "two")
        )
        assert first.digest == second.digest
        assert first.compiled is not None
        assert second.compiled is not None
        assert first.compiled.path.read_bytes() == second.compiled.path.read_bytes()


def test_regression_and_many_text_classes(bench: Bench, make: Make) -> None:
    code = """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    def train(job):
        df = job.data["rows"].to_pandas()
        kind = HistGradientBoostingRegressor if job.task == "regression" else HistGradientBoostingClassifier
        return kind(max_iter=5).fit(df[["a", "h"]].to_numpy(), df[job.target])
    """
    number = bench.trainers.train(make(code, inputs=INPUTS[:2], task="regression", target="minutes"))
    assert number.classes is None
    answers = bench.trainers.predict(_predict(bench, number), COLUMNS)
    assert answers["minutes"].dtype == np.float64
    many = bench.trainers.train(make(code, inputs=INPUTS[:2], task="multiclass", target="kind"))
    assert many.classes == ("no", "x", "y", "zz")
    assert many.signature["container"] == "array"
    answers = bench.trainers.predict(_predict(bench, many), COLUMNS)
    assert answers["probability"].shape == (3, 4)
    assert set(answers["label"]) <= {"no", "x", "y", "zz"}


def test_what_raises_shows_the_users_own_lines_first_with_file_and_line(bench: Bench, make: Make) -> None:
    code = """
    import pandas as pd
    def helper(df):
        return df["nope"]
    def train(job):
        print("so far so good")
        return helper(job.data["rows"].to_pandas())
    """
    with pytest.raises(TrainingError) as failure:
        bench.trainers.train(make(code))
    error = failure.value
    assert error.where == "pack/late.py:4"
    lines = error.message.splitlines()
    assert lines[0] == "late: training raised KeyError: 'nope'"
    assert lines[1].strip() == 'pack/late.py:4 in helper: return df["nope"]'
    assert lines[2].strip().startswith("pack/late.py:7 in train:")
    assert lines[-1].strip() == "log: so far so good"
    assert "site-packages" not in error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return [1, 2]", "returned a list"),
        ("pass", "returned nothing"),
        (
            "from sklearn.svm import LinearSVC; return LinearSVC().fit([[1, 2, 3], [2, 1, 1]], [0, 1])",
            "no probabilities",
        ),
        ("from sklearn.linear_model import LogisticRegression; return LogisticRegression()", "not fitted"),
        ("from sklearn.linear_model import LinearRegression as L; return L().fit([[1, 2, 3]], [1])", "no classifier"),
        ("from sklearn.dummy import DummyClassifier as D; return D().fit([[1, 2, 3]], [1])", "saw 1 class in training"),
        (
            "from sklearn.linear_model import LogisticRegression as L; return L().fit([[1], [2]], [0, 1])",
            "fitted on 1 columns",
        ),
        ("raise SystemExit(3)", "training raised SystemExit: 3"),
        ("return open('undeclared.csv')", "No such file"),
        ("import retinue", "No module named 'retinue'"),
        ("import onnx", "No module named 'onnx'"),
        ("import os; os._exit(7)", "ended by itself with exit code 7"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import time; time.sleep(99)", "ran longer than its limit of 2 s"),
        ("x = []\n    while True: x.append(bytearray(1 << 24))", "of memory, its limit is 700 MiB"),
    ],
)
def test_what_misbehaves_is_stopped_and_told(bench: Bench, make: Make, body: str, words: str) -> None:
    request = make(f"def train(job):\n    {body}\n", limits=Limits(time=2, memory=700 * 1024**2))
    with pytest.raises(TrainingError) as failure:
        bench.trainers.train(request)
    assert words in failure.value.message
    assert failure.value.hint


def test_a_memory_hog_in_a_child_process_is_stopped_too(bench: Bench, make: Make) -> None:
    hog = "x = []\nwhile True: x.append(bytearray(1 << 24))"
    code = f"import subprocess, sys\ndef train(job):\n    subprocess.run([sys.executable, '-c', {hog!r}])\n"
    with pytest.raises(TrainingError, match="its limit is 700 MiB"):
        bench.trainers.train(make(code, limits=Limits(time=30, memory=700 * 1024**2)))


@pytest.mark.parametrize("step", ["double", "functools.partial(double)"])
def test_a_model_with_code_in_it_is_refused(bench: Bench, make: Make, step: str) -> None:
    code = """
    import functools
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    def double(x):
        return x * 2
    def train(job):
        df = job.data["rows"].to_pandas()
        return make_pipeline(FunctionTransformer(STEP), LogisticRegression()).fit(df[["a", "h"]], df["late"])
    """
    with pytest.raises(TrainingError, match=r"holds pack\.late\.double") as failure:
        bench.trainers.train(make(code.replace("STEP", step), inputs=INPUTS[:2]))
    assert "ONNX" in failure.value.hint


def test_one_training_leaves_nothing_to_the_next(bench: Bench, make: Make, tmp_path: Path) -> None:
    first = make("import sys, os\nsys.modules['pack.trace'] = sys\nos.environ['TRACE'] = '1'\nstate = 1\n" + GOOD)
    bench.trainers.train(first)
    other = tmp_path / "elsewhere"
    (other / "pack").mkdir(parents=True)
    text = "import sys, os\nassert 'TRACE' not in os.environ and 'pack.trace' not in sys.modules\n" + GOOD
    (other / "pack/late.py").write_text(text)
    bench.trainers.train(replace(first, bundle=other))


def test_much_output_goes_to_the_log_and_not_into_the_protocol(bench: Bench, make: Make) -> None:
    noise = "import os, sys\nfor i in range(20000): print('x' * 100)\nos.write(1, b'raw')\nsys.stderr.write('err')\n"
    result = bench.trainers.train(make(noise + GOOD))
    assert result.log.stat().st_size > 2_000_000


def test_trainings_run_side_by_side_and_a_dead_trainer_is_replaced(bench: Bench, make: Make, tmp_path: Path) -> None:
    with Trainers(2) as trainers:
        requests = [make(GOOD, folder=tmp_path / f"m{number}") for number in range(6)]
        with ThreadPoolExecutor(3) as pool:
            digests = {result.digest for result in pool.map(trainers.train, requests)}
        assert len(digests) == 1
        kill = """
        import os, signal, time
        def train(job):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(30)
        """
        with pytest.raises(TrainingError, match="the trainer process died"):
            trainers.train(make(kill))
        assert trainers.train(make(GOOD)).format == "skops"


def test_a_converter_that_crashes_costs_the_compilation_and_not_the_training(bench: Bench, make: Make) -> None:
    code = GOOD.replace("return model.fit(", "model.fit(") + "    import os\n"
    code += "    Pipeline.get_params = lambda *args, **named: os._exit(9)\n    return model\n"
    result = bench.trainers.train(make(code))
    assert result.compiled is None
    assert result.compile_reason == "the conversion ended by itself with exit code 9"
    assert bench.trainers.predict(_predict(bench, result), COLUMNS)["label"].shape == (3,)


def test_closing_the_trainers_ends_trainings_under_way(make: Make, tmp_path: Path) -> None:
    trainers = Trainers(1)
    code = """
    import pathlib, time
    def train(job):
        pathlib.Path(job.params["sign"]).touch()
        time.sleep(60)
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(trainers.train, make(code, params={"sign": str(tmp_path / "sign")}))
        _wait_for((tmp_path / "sign").exists)
        trainers.close()
        with pytest.raises(TrainingError):
            future.result(timeout=10)


def test_trainers_end_with_the_platform_even_when_it_is_killed(make: Make, bench: Bench, tmp_path: Path) -> None:
    code = """
    import os, pathlib, time
    def train(job):
        pathlib.Path(job.params["pid"]).write_text(f"{os.getppid()} {os.getpid()}")
        time.sleep(60)
    """
    request = make(code, params={"pid": str(tmp_path / "pid")})
    program = (
        "import sys, pickle; from pathlib import Path; from retinue.build.asked import TrainRequest\n"
        "from retinue.build.train import Trainers\n"
        "Trainers(1, Path(sys.argv[2])).train(pickle.loads(bytes.fromhex(sys.argv[1])))"
    )
    with subprocess.Popen([sys.executable, "-c", program, pickle.dumps(request).hex(), str(tmp_path)]) as platform:
        pids = _wait_for(lambda: (tmp_path / "pid").read_text().split() if (tmp_path / "pid").exists() else None)
        os.kill(platform.pid, signal.SIGKILL)
    _wait_for(lambda: all(not Path(f"/proc/{pid}").exists() or _zombie(pid) for pid in pids))


def _zombie(pid: str) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _wait_for(look: Callable[[], Any]) -> Any:
    for _ in range(600):
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("waited 30 s in vain")


def test_a_failing_row_is_told_by_number_and_an_unloadable_artifact_by_its_reason(bench: Bench, make: Make) -> None:
    code = GOOD.replace('handle_unknown="ignore"', 'handle_unknown="error"')
    result = bench.trainers.train(make(code, compile="forbid"))
    assert result.compile_reason == "compilation is forbidden in the portfolio"
    answers, latency = bench.trainers.probe(_predict(bench, result, timing=3), [COLUMNS])
    assert list(answers[0].failed) == [1, 2]
    assert len(answers[0].outputs["label"]) == 1
    assert latency is not None
    assert latency > 0
    with pytest.raises(TrainingError, match="fails on row 1"):
        bench.trainers.predict(_predict(bench, result), COLUMNS)
    result.artifact.write_bytes(b"garbage")
    with pytest.raises(TrainingError, match="cannot load"):
        bench.trainers.predict(_predict(bench, result), COLUMNS)
