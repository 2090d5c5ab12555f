"""Boosters' own formats: what is torn, foreign or of other features says so and ends no process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pytest
import xgboost

from retinue_worker import boosters
from retinue_worker.runtime import ModelError, load

SIGNATURE: dict[str, Any] = {
    "task": "regression",
    "target": "y",
    "classes": None,
    "inputs": [{"name": name, "dtype": "FP64", "nullable": True, "width": 1} for name in ("a", "b")],
    "outputs": [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    x = np.random.default_rng(0).normal(size=(200, 2))
    y = x[:, 0] * 2
    tree = xgboost.train({"nthread": 1}, xgboost.DMatrix(x, y, nthread=1), 3)
    text = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, y), 3).model_to_string()
    cat = catboost.CatBoost({"iterations": 3, "verbose": 0, "allow_writing_files": False, "thread_count": 1}).fit(x, y)
    return {"xgboost": bytes(tree.save_raw("ubj")), "lightgbm": text.encode(), "catboost": boosters.cbm(cat)}


@pytest.mark.parametrize("framework", boosters.FRAMEWORKS)
def test_a_whole_file_answers_also_for_rows_that_lack_everything(
    framework: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "model").write_bytes(files[framework])
    model = load(str(tmp_path / "model"), framework, SIGNATURE)
    answers = model.run({"a": np.array([1.0, np.nan]), "b": np.array([1.0, np.nan])})
    assert answers["y"].shape == (2,)
    assert np.isfinite(answers["y"]).all()


@pytest.mark.parametrize("framework", boosters.FRAMEWORKS)
@pytest.mark.parametrize("damage", ["empty", "half", "last bytes gone", "garbage", "another framework's"])
def test_a_damaged_file_is_an_error_that_names_the_framework(
    framework: str, damage: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    whole = files[framework]
    others = [data for name, data in files.items() if name != framework]
    torn = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "last bytes gone": whole[:-30],
        "garbage": bytes(range(256)) * 20,
        "another framework's": others[0],
    }
    (tmp_path / "model").write_bytes(torn[damage])
    with pytest.raises(ModelError, match=f"cannot load {framework} model"):
        load(str(tmp_path / "model"), framework, SIGNATURE)


@pytest.mark.parametrize("lost", [1, 8, 29, 30])
def test_a_catboost_file_of_which_catboost_itself_would_not_miss_the_end_is_refused(
    lost: int, files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "model").write_bytes(files["catboost"][:-lost])
    with pytest.raises(ModelError, match="its end is missing"):
        load(str(tmp_path / "model"), "catboost", SIGNATURE)


def test_a_file_of_other_features_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(files["xgboost"])
    one = {**SIGNATURE, "inputs": SIGNATURE["inputs"][:1]}
    with pytest.raises(ModelError, match="trained on 2 columns, but there are 1 features"):
        load(str(tmp_path / "model"), "xgboost", one)


def test_a_regression_booster_does_not_serve_a_classification(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(files["lightgbm"])
    binary = {**SIGNATURE, "task": "binary", "classes": [False, True]}
    with pytest.raises(ModelError, match="the booster's objective is regression"):
        load(str(tmp_path / "model"), "lightgbm", binary)


def test_a_booster_without_categories_takes_no_text(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(files["xgboost"])
    text = {**SIGNATURE, "inputs": [SIGNATURE["inputs"][0], {**SIGNATURE["inputs"][1], "dtype": "BYTES"}]}
    with pytest.raises(ModelError, match="b is text, but the booster knows no categories"):
        load(str(tmp_path / "model"), "xgboost", text)


def test_the_same_catboost_model_has_the_same_bytes() -> None:
    x = np.random.default_rng(0).normal(size=(100, 2))
    options = {"iterations": 3, "verbose": 0, "allow_writing_files": False, "thread_count": 1, "random_seed": 0}
    one, two = (boosters.cbm(catboost.CatBoost(dict(options)).fit(x, x[:, 0])) for _ in range(2))
    assert one == two
