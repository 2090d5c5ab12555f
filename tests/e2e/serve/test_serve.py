"""One release served: both doors, upstreams, families with fallback, metadata, errors, the end."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import Any

import httpx
import pytest

from retinue.client import Client
from retinue.core.errors import RequestError, UnavailableError, UnknownModelError
from retinue.core.state import ServedEndpoint, ServedNeed
from retinue.gateway.record import read_record

pytestmark = pytest.mark.e2e


def _publish(stage: Any) -> None:
    wind = stage.model("wind", "w1", features=("hour",), slopes=(2.0,), offset=1.0, target="speed")
    need = ServedNeed("wind", "speed", "wind", {"hour": "sched_hour"})
    members = [
        stage.model(
            f"late-{key}", f"{key}-v1", features=("x", "wind"), slopes=(1.0, 10.0), offset=offset, needs=(need,)
        )
        for key, offset in (("JFK", 1000.0), ("a%2Fb", 2000.0))
    ]
    everyone = stage.model("late-global", "g1", features=("x",), offset=-1.0)
    endpoints = {
        "late": ServedEndpoint("late", "late-{origin}", "late-global"),
        "strict": ServedEndpoint("strict", "late-{origin}"),
    }
    stage.publish(1, [wind, everyone, *members], endpoints)


def test_a_release_is_served_through_both_doors_with_upstreams_families_and_fallback(stage: Any) -> None:
    _publish(stage)
    running = stage.start()
    assert f"at {running.url}: release 1, 4 models" in running.line
    with Client(running.url) as client:
        assert client.ready()
        assert client.models() == ["late", "strict", "late-JFK", "late-a%2Fb", "late-global", "wind"]
        rows: list[dict[str, Any]] = [
            {"origin": "JFK", "x": 1, "sched_hour": 3},
            {"origin": "a/b", "x": 2.5, "sched_hour": 4, "unknown": [1]},
            {"origin": "LAX", "x": 7},
            {"origin": None, "x": 8},
            {"origin": "JFK", "x": "1", "sched_hour": 3},
        ]
        answer = client.predict("late", rows)
        assert answer["predictions"][:4] == [{"y": 1071.0}, {"y": 2092.5}, {"y": 6.0}, {"y": 7.0}]
        assert answer["predictions"][4] == {"error": "row 4: 'x' must be a number, not text '1'"}
        assert answer["release"] == 1
        assert answer["models"][0] == {"model": "late-JFK", "version": "JFK-v1", "fallback": False}
        assert answer["models"][2] == {"model": "late-global", "version": "g1", "fallback": True}
        assert answer["models"][4] is None
        assert len(set(answer["ids"])) == 5
        assert answer["ids"][1].endswith("-1")
        assert answer["ids"][0][14] == "7"

        columns: dict[str, list[Any]] = {"origin": ["JFK", "zz"], "x": [1, 5], "sched_hour": [3, None]}
        assert client.infer("late", columns) == {"y": [1071.0, 4.0]}
        assert client.infer("wind", {"hour": [1, 2]}) == {"speed": [3.0, 5.0]}
        names = {tensor["name"] for tensor in client.metadata("late")["inputs"]}
        assert names == {"origin", "x", "sched_hour"}
        assert client.metadata("late")["versions"] == ["1"]
        with pytest.raises(UnknownModelError, match="no model for origin='LAX'"):
            client.predict("strict", [{"origin": "LAX", "x": 1}])
        with pytest.raises(RequestError, match="'origin' is missing; endpoint 'strict' selects by it"):
            client.predict("strict", [{"x": 1}])
        with pytest.raises(UnknownModelError, match="no model or endpoint 'lat'"):
            client.predict("lat", [{"x": 1}])
    _check_wire(running.url)
    assert running.stop() == 0
    assert read_record(stage.folder) is None
    assert not (stage.folder / "serve.json").exists()
    assert not list((stage.folder / "serving").iterdir())


def _check_wire(url: str) -> None:
    """What OIP clients read: names, versions, ids, shapes, parameters, health bodies."""
    with httpx.Client(base_url=url) as http:
        assert http.get("/v2/health/live").json() == {"live": True}
        assert http.get("/v2/health/ready").json() == {"ready": True}
        assert http.get("/v2").json()["name"] == "retinue"
        assert http.get("/v2/models/wind/versions/w1/ready").json() == {"name": "wind", "ready": True}
        request = {
            "id": "mine",
            "model_name": "ignored",
            "parameters": {"content_type": "np"},
            "inputs": [{"name": "packed", "shape": [2, 2], "datatype": "FP32", "data": [[1, 3], [2.5, 4]]}],
        }
        response = http.post("/v2/models/late-JFK/versions/JFK-v1/infer", json=request)
        answer = response.json()
        assert response.headers["retinue-release"] == "1"
        assert answer["outputs"] == [{"name": "y", "shape": [2], "datatype": "FP64", "data": [1071.0, 1092.5]}]
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "late-JFK", "JFK-v1")
        assert answer["parameters"]["prediction_id"][14] == "7"
        request["inputs"] = [
            {"name": "origin", "shape": [2], "datatype": "BYTES", "data": ["JFK", "?"]},
            {"name": "x", "shape": [2, 1], "datatype": "INT32", "data": [1, 1]},
            {"name": "sched_hour", "shape": [2], "datatype": "FP64", "data": [3.0, None]},
        ]
        answer = http.post("/v2/models/late/infer", json=request).json()
        assert answer["model_version"] == "1"
        assert [row["model"] for row in json.loads(answer["parameters"]["models"])] == ["late-JFK", "late-global"]
        page = http.get("/openapi.json").json()
        assert set(page["paths"]) == {"/predict/late", "/predict/strict"}


def test_nothing_to_serve_is_said_and_the_first_release_is_taken_up(stage: Any) -> None:
    running = stage.start()
    assert "there is no release to serve yet: run `retinue apply`" in running.line
    with Client(running.url) as client:
        assert not client.ready()
        with pytest.raises(UnavailableError, match="no release is served yet"):
            client.predict("m", [{"x": 1}])
        stage.publish(3, [stage.model("m", "v1")])
        running.wait(3)
        assert client.predict("m", [{"x": 1}])["predictions"] == [{"y": 1.0}]


def test_a_port_that_is_taken_and_a_stage_that_is_served_are_clear_errors(stage: Any, tmp_path: Any) -> None:
    _publish(stage)
    running = stage.start()
    other = type(stage)(replace(stage.settings, directory=tmp_path / "other"))
    refusals = []
    for process in (other.launch(port=running.record.port), stage.launch()):
        refusals.append(process.communicate(timeout=20)[1])
        assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{running.record.port}" in refusals[0]
    assert "hint: Stop what uses it, or set [serve] port" in refusals[0]
    assert f"this stage is served already by process {running.record.pid} at {running.url}" in refusals[1]
    assert running.process.poll() is None


def test_sigterm_answers_what_is_in_flight_and_status_and_metrics_count_it(stage: Any) -> None:
    _publish(stage)
    running = stage.start()
    with Client(running.url) as client:
        for _ in range(5):
            client.predict("late", [{"origin": "JFK", "x": 1, "sched_hour": 3}])
        with pytest.raises(RequestError):
            client.predict("late", [{"origin": "JFK", "x": True}])
    status = running.status()
    assert status["gateways"][0]["requests"] == 6
    assert status["gateways"][0]["errors"] == 0
    metrics = httpx.get(f"{running.record.admin_url}/metrics").text
    assert 'retinue_requests_total{endpoint="late",status="200"} 5' in metrics
    assert 'retinue_request_seconds_count{endpoint="late"} 6' in metrics
    assert httpx.get(f"{running.record.admin_url}/health").json() == {"healthy": True}
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0
