"""What `retinue init` writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from retinue.core.errors import UsageError
from retinue.loader import load, scaffold
from retinue_worker.job import TrainingJob


def test_a_first_portfolio_is_short_and_loads(tmp_path: Path) -> None:
    written = scaffold(tmp_path / "first")
    assert [file.relative_to(tmp_path / "first").as_posix() for file in written] == [
        "portfolio.yaml",
        "train.py",
        "envs/base.txt",
        "data/iris.csv",
        ".gitignore",
    ]
    assert len(written[0].read_text().splitlines()) <= 10
    assert load(written[0]).models["species"].spec.task == "multiclass"


def test_its_training_code_trains_on_its_data(tmp_path: Path) -> None:
    import pyarrow.csv

    scaffold(tmp_path)
    spec = importlib.util.spec_from_file_location("train", tmp_path / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    declared = load(tmp_path / "portfolio.yaml").models["species"].spec
    table = pyarrow.csv.read_csv(tmp_path / "data" / "iris.csv")
    job = TrainingJob(
        data={"flowers": table},
        params={},
        seed=0,
        features=list(declared.features),
        target=declared.target,
        task=declared.task,
        files=tmp_path,
    )
    model = module.train(job)
    rows = table.to_pandas()
    assert (model.predict(rows[list(declared.features)]) == rows["species"]).mean() > 0.9


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("mine")
    with pytest.raises(UsageError, match=r"train\.py is already"):
        scaffold(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["train.py"]


def test_the_state_folder_is_ignored_once_beside_what_is_ignored_already(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.tmp")
    scaffold(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*.tmp\n.retinue/\n"
    other = tmp_path / "other"
    other.mkdir()
    (other / ".gitignore").write_text(".retinue/\n")
    assert other / ".gitignore" not in scaffold(other)
