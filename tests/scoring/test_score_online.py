"""A scored table and a real gateway give the same rows the same answers, models, versions and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.e2e.serve.conftest import opened
from tests.scoring.world import listed, publish, read, rows, score, settings_of, write

from retinue.core.errors import InferenceError
from retinue.scoring.models import FRAME, Models
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.releasefile import ReleaseFile


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    publish(folder)
    write(folder, 120)
    return folder


def _online(url: str, endpoint: str, table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    body = httpx.post(f"{url}/predict/{endpoint}", json={"rows": table}, timeout=30).json()
    told = []
    for prediction, model in zip(body["predictions"], body["models"], strict=True):
        error = prediction.get("error")
        row = {"y": prediction.get("y"), "error": error}
        if error is None:
            row |= {"model": model["model"], "version": model["version"], "fallback": model["fallback"]}
            row["release"] = body["release"]
        told.append(row)
    return told


@pytest.mark.e2e
def test_a_table_and_a_gateway_answer_alike_to_the_last_bit(root: Path) -> None:
    table = rows(120).drop_columns(["id"]).to_pylist()
    with opened(settings_of(root).directory) as stage:
        running = stage.start()
        for endpoint in ("area", "alone", "whole", "all", "strict", "area-oslo"):
            score(root, out=f"out-{endpoint}", endpoint=endpoint, journal="none")
            scored = []
            for row in listed(read(root / f"out-{endpoint}"), "id", "row"):
                kept = {"y", "error"} if row["error"] is not None else set(row)
                scored.append({k: None if v == "nan" else v for k, v in row.items() if k in kept})
            assert scored == _online(running.url, endpoint, table), endpoint
        assert running.stop() == 0


@pytest.mark.e2e
def test_a_model_in_a_worker_process_answers_as_one_that_runs_here(root: Path) -> None:
    settings = settings_of(root)
    store = FsspecArtifacts(settings.artifacts, settings.cache / "artifacts")
    models = Models(store, settings, workers=2)
    try:
        with ReleaseFile(settings.releases("shop", "prod") / "1.release") as file:
            served = file.model("all")
        assert served is not None
        here = models.get(served)
        there = models._elsewhere(served, str(store.local(served.artifact)))
        columns = {"x": np.random.default_rng(0).random(2 * FRAME + 7)}
        assert here.run(columns)["y"].tolist() == there.run(columns)["y"].tolist()
        with pytest.raises(InferenceError):
            there.run({"x": np.array(["text"], dtype=object)})
    finally:
        models.close()


def test_a_table_of_many_row_groups_is_read_with_the_columns_that_are_needed_alone(root: Path) -> None:
    wide = rows(120)
    for number in range(5):
        wide = wide.append_column(f"other{number}", [[f"{number}"] * 120])
    pq.write_table(wide, root / "wide.parquet", row_group_size=7)
    score(root, out="wide", source="wide.parquet")
    score(root, out="narrow")
    assert listed(read(root / "wide")) == listed(read(root / "narrow"))
