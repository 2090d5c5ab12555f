"""TrainingJob: what a training function sees and may record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retinue_worker import TrainingJob


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    return TrainingJob({}, {"depth": 3}, 7, ["a", "b"], "late", "binary", tmp_path)


def test_numbers_text_and_numpy_scalars_are_recorded_and_what_is_not_finite_becomes_nothing(job: TrainingJob) -> None:
    job.log(rows=3, auc=np.float32(0.5), name="x", ok=np.bool_(True), loss=float("nan"), count=np.int64(4))
    job.log(rows=4)
    assert job.logged == {"rows": 4, "auc": 0.5, "name": "x", "ok": True, "loss": None, "count": 4}
    assert type(job.logged["count"]) is int


def test_what_json_cannot_hold_is_refused_by_name(job: TrainingJob) -> None:
    with pytest.raises(TypeError, match=r"job\.log\(curve=…\)"):
        job.log(curve=np.zeros(3))


def test_a_job_cannot_be_changed(job: TrainingJob) -> None:
    with pytest.raises(AttributeError):
        job.seed = 8  # type: ignore[misc]


def test_the_worker_imports_without_any_package() -> None:
    source = Path(__file__).parents[2] / "src"
    program = f"import sys; sys.path.insert(0, {str(source)!r}); import retinue_worker.train, retinue_worker.runtime"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
