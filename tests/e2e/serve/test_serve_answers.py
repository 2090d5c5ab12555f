"""Answers that are given again, in a real server: the right ones, under ids of their own, in the journal."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.e2e.serve.conftest import Running, Stage, until

from retinue.core.state import ServedCache, ServedEndpoint

pytestmark = pytest.mark.e2e


def hits(running: Running) -> float:
    text = httpx.get(f"{running.record.admin_url}/metrics", timeout=10).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("retinue_answer_cache_hits"))


def test_a_repeated_question_gets_the_same_answer_under_its_own_id_and_another_model_never_gets_it(
    stage: Stage,
) -> None:
    cached = ServedCache(600.0)
    a, b = stage.model("a", "v1", slopes=(1.0,)), stage.model("b", "v1", slopes=(10.0,))
    endpoints = {
        "one": ServedEndpoint("one", "a", cache=cached),
        "two": ServedEndpoint("two", "b", cache=cached),
        "plain": ServedEndpoint("plain", "a"),
    }
    stage.publish(1, [a, b], endpoints)
    running = stage.start()
    with httpx.Client(base_url=running.url) as client:

        def predict(name: str, *rows: dict[str, Any]) -> Any:
            return client.post(f"/predict/{name}", json={"rows": list(rows)}).json()

        first, again = predict("one", {"x": 2.0}), predict("one", {"x": 2.0})
        assert first["predictions"] == again["predictions"] == [{"y": 2.0}]
        assert first["ids"] != again["ids"]
        assert first["models"] == again["models"]
        assert predict("two", {"x": 2.0})["predictions"] == [{"y": 20.0}]  # the same payload, another model
        assert predict("one", {"x": 3.0})["predictions"] == [{"y": 3.0}]
        for _ in range(2):
            assert predict("one", {"x": 2.0}, {"x": 5.0})["predictions"] == [{"y": 2.0}, {"y": 5.0}]
        for request_id in ("p", "q"):
            tensor = {"name": "x", "datatype": "FP64", "shape": [1], "data": [7.0]}
            told = client.post("/v2/models/one/infer", json={"id": request_id, "inputs": [tensor]}).json()
            assert told["id"] == request_id
            assert told["outputs"][0]["data"] == [7.0]
        assert predict("plain", {"x": 2.0})["predictions"] == predict("plain", {"x": 2.0})["predictions"]
        bad = client.post("/predict/one", json={"rows": [{"x": "text"}]})
        assert bad.status_code == client.post("/predict/one", json={"rows": [{"x": "text"}]}).status_code == 400

        stage.publish(2, [stage.model("a", "v2", slopes=(100.0,)), b], endpoints)
        running.wait(2)
        assert predict("one", {"x": 2.0})["predictions"] == [{"y": 200.0}]
    assert running.stop() == 0


def test_hits_are_counted_and_journalled_under_the_arm_cache(stage: Stage) -> None:
    stage.publish(1, [stage.model("a", "v1")], {"one": ServedEndpoint("one", "a", cache=ServedCache(600.0))})
    running = stage.start()
    for _ in range(3):
        assert httpx.post(f"{running.url}/predict/one", json={"x": 2.0}).status_code == 200

    until(lambda: hits(running) == 2, 10, "two hits in the metrics")
    folder = stage.settings.journal("shop", "prod")
    assert running.stop() == 0
    data = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"cache" in data
