"""The user's pytest files against a real predict function: real pytest, a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retinue.build.user_tests import Judged, run_user_tests
from retinue.core.gate_specs import TestFile
from retinue.core.gates import GateResult

GOOD = """\
import helper_of_the_model
import numpy as np
import pytest


def test_answers(predict, holdout, model):
    assert len(predict(holdout.columns)["y"]) == len(holdout) == 3
    assert (predict({"x": [1.0, 2.0]})["y"] == [2.0, 4.0]).all()
    assert np.array_equal(model.answers["y"], predict(holdout.columns)["y"])
    assert (model.name, model.task) == ("double", "regression")


def test_against_the_champion(champion):
    assert champion.predict({"x": [1.0]})["y"] == [1.0]


@pytest.mark.parametrize("x", [1.0, 5.0])
def test_small(predict, x):
    assert predict({"x": [x]})["y"][0] < 5, "too large"


def test_of_what_it_cannot(predict):
    predict({"z": [1.0]})
"""
BROKEN = "import os\nimport no_such_module_anywhere\n\ndef test_x():\n    pass\n"


def double(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"y": columns["x"] * 2}


def results(tmp_path: Path, files: dict[str, str], seconds: float = 60.0, rival: bool = False) -> dict[str, GateResult]:
    project = tmp_path / "project"
    project.mkdir()
    (project / "helper_of_the_model.py").write_text("")
    x = np.arange(3.0)
    who = {"name": "double", "version": "v", "task": "regression", "classes": None}
    facts = {
        "model": {**who, "answers": {"y": x * 2}},
        "champion": {**who, "answers": {"y": x}} if rival else None,
        "holdout": {"columns": {"x": x}, "truth": x, "target": "y"},
    }
    found = run_user_tests(
        tuple(TestFile(name, name) for name in files),
        lambda digest: files[digest].encode(),
        Judged(facts, {"model": double, "champion": lambda columns: {"y": columns["x"]}}),
        project=project,
        folder=tmp_path,
        seconds=seconds,
    )
    return {r.gate: r for r in found}


def test_each_test_is_a_gate_with_its_name_and_message(tmp_path: Path) -> None:
    found = results(tmp_path, {"tests/test_good.py": GOOD, "tests/test_broken.py": BROKEN})
    good = {name.rpartition("::")[2]: r for name, r in found.items() if "::" in name}
    assert good["test_answers"].verdict == "pass"
    assert good["test_against_the_champion"].verdict == "pass"
    assert good["test_against_the_champion"].detail == "skipped: there is no champion to compare with"
    assert good["test_small[1.0]"].verdict == "pass"
    assert good["test_small[5.0]"].verdict == "fail"
    assert "too large" in good["test_small[5.0]"].detail
    assert "tests/test_good.py:19" in good["test_small[5.0]"].detail
    assert (
        "KeyError" in good["test_of_what_it_cannot"].detail
        or "the model raised" in good["test_of_what_it_cannot"].detail
    )
    broken = found["pytest.tests/test_broken.py"]
    assert broken.verdict == "fail"
    assert "no_such_module_anywhere" in broken.detail
    assert "tests/test_broken.py:2" in broken.detail


def test_the_champion_is_asked_where_there_is_one(tmp_path: Path) -> None:
    text = "def test_c(champion):\n    assert champion.predict({'x': [1.0]})['y'][0] == 1\n"
    found = results(tmp_path, {"test_c.py": text}, rival=True)
    assert {name: (r.verdict, r.detail) for name, r in found.items()} == {"pytest.test_c.py::test_c": ("pass", "")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os\n\ndef test_x():\n    os._exit(7)\n", "ended with 7"),
        ("import time\n\ndef test_x():\n    time.sleep(60)\n", "stopped after 3 s"),
        ("x = 1\n", "no test was found"),
    ],
)
def test_tests_that_end_badly_fail(tmp_path: Path, text: str, told: str) -> None:
    found = results(tmp_path, {"test_x.py": text}, seconds=3.0)
    assert [r.verdict for r in found.values()] == ["fail"]
    assert told in found["pytest"].detail
