"""Many models in little memory, served for real: budgets, pinned models, status; and what outlives its sources."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from retinue.client import Client
from retinue.core.errors import UnavailableError
from retinue.core.state import ServedEndpoint
from retinue.gateway.record import read_record

from .conftest import until

pytestmark = pytest.mark.e2e
SIZE = 1_000_000
BUDGET = str(3 * SIZE + SIZE // 2)


def _models(stage: Any, version: int, count: int = 10, **more: Any) -> list[Any]:
    """Model `m-7` of version 2 adds 7.5 × 2."""
    made = [stage.model(f"m-{n}", f"v{version}-{n}", offset=n * 0.5 * version) for n in range(count)]
    return [replace(model, memory=SIZE, **more) for model in made]


def _endpoint() -> dict[str, ServedEndpoint]:
    return {"m": ServedEndpoint("m", "m-{n}")}


def _cache(running: Any) -> dict[str, Any]:
    return dict(running.status()["gateways"][0]["cache"])


def test_a_budget_for_three_of_ten_models_answers_for_all_of_them_and_shows_what_it_does(stage: Any) -> None:
    models = _models(stage, 1)
    models[4] = replace(models[4], pinned=True)
    stage.publish(1, models, _endpoint())
    running = stage.start(memory=BUDGET)
    assert _cache(running)["loaded"] == 1  # the pinned one; all ten would be too many to load ahead
    failed: list[str] = []

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        with Client(running.url) as client:
            for _ in range(150):
                n = min(int(rng.expovariate(0.4)), 9)
                answer = client.predict("m", [{"n": n, "x": 1.0}])
                if answer["predictions"] != [{"y": 1.0 + n * 0.5}]:
                    failed.append(str(answer))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    until(lambda: _cache(running)["evictions"] > 0, 20, "evictions to be told")
    until(lambda: _cache(running)["loaded"] <= 3, 20, "the budget to be kept")
    cache = _cache(running)
    assert cache["loads"] == cache["evictions"] + cache["loaded"]
    assert cache["misses"] < 400
    with httpx.Client(base_url=running.record.admin_url) as http:
        text = http.get("/metrics").text
        assert f"retinue_model_loads_total {cache['loads']}" in text
        assert f"retinue_model_cache_budget_bytes {BUDGET}" in text
    with Client(running.url) as client:
        rows = [{"n": n, "x": 0.0} for n in range(10)]  # one request for more models than fit at once
        assert client.predict("m", rows)["predictions"] == [{"y": n * 0.5} for n in range(10)]


def test_a_release_change_under_a_tight_budget_fails_no_request(stage: Any) -> None:
    stage.publish(1, _models(stage, 1), _endpoint())
    running = stage.start(memory=BUDGET, gateways=2)
    stop = threading.Event()
    failed: list[str] = []
    seen: set[int] = set()

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        with Client(running.url) as client:
            while not stop.is_set():
                n = rng.randrange(10)
                answer = client.predict("m", [{"n": n, "x": 0.0}])
                seen.add(answer["release"])
                if answer["predictions"] != [{"y": n * 0.5 * answer["release"]}]:
                    failed.append(str(answer))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: seen == {1}, 20, "the first answer")
        for number in (2, 3, 4):
            stage.publish(number, _models(stage, number), _endpoint())
            running.wait(number)
        until(lambda: 4 in seen, 20, "an answer of the last release")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []


def test_a_model_that_breaks_while_it_is_not_loaded_fails_alone_and_is_not_read_for_each_request(stage: Any) -> None:
    models = _models(stage, 1)
    stage.publish(1, models, _endpoint())
    running = stage.start(memory=BUDGET)
    for path in Path(stage.settings.directory).rglob(models[7].artifact):
        path.write_bytes(b"broken")
    with Client(running.url) as client:
        for _ in range(10):
            with pytest.raises(UnavailableError, match="'m-7' is not available"):
                client.infer("m-7", {"x": [1.0]})
            assert client.infer("m-6", {"x": [1.0]}) == {"y": [4.0]}
        assert client.predict("m", [{"n": 7, "x": 1.0}, {"n": 1, "x": 1.0}])["predictions"][1] == {"y": 1.5}
        assert client.ready()
    assert _cache(running)["failures"] <= 4


def _portfolio(stage: Any, folder: Path) -> list[str]:
    (folder / "portfolio.yaml").write_text("portfolio: shop\n", encoding="utf-8")
    return [sys.executable, "-m", "retinue", "--file", str(folder / "portfolio.yaml"), "serve", "--port", "0"]


def test_a_restart_without_database_and_artifact_store_serves_the_last_release(stage: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    inner = replace(stage.settings, directory=root / ".retinue", artifacts=f"file://{root}/.retinue/artifacts")
    stage.settings = inner
    models = _models(stage, 1, 300)
    stage.publish(1, models, _endpoint())
    stage.start().stop()
    shutil.rmtree(root / ".retinue" / "artifacts")
    (root / ".retinue" / "state.db").unlink(missing_ok=True)
    process = subprocess.Popen(
        _portfolio(stage, root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RETINUE_ADMIN_PORT": "0"},
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert "release 1, 300 models" in line, process.stderr.read()
        record = read_record(stage.folder)
        assert record is not None
        with Client(record.url) as client:
            for n in (0, 7, 150, 299):
                assert client.predict("m", [{"n": n, "x": 1.0}])["predictions"] == [{"y": 1.0 + n * 0.5}]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "the database is gone" in errors
    assert "release 1, the last that was written here, is served" in errors
    assert not (root / ".retinue" / "state.db").exists()


def test_copies_of_artifacts_that_are_no_longer_served_stay_a_while_and_those_served_are_links(stage: Any) -> None:
    models = _models(stage, 1, 3)
    stage.publish(1, models, _endpoint())
    stage.start()
    kept = stage.settings.cache / "artifacts"
    for model in models:
        copy = kept / model.artifact[:2] / model.artifact
        assert copy.stat().st_nlink == 2
