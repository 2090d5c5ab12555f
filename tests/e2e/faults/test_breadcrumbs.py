"""A compiled model that crashes the gateway it runs in is found out, and runs in a process of its own from then on."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import httpx
import orjson
import pytest

pytestmark = pytest.mark.e2e


def _ask(url: str, model: str, x: float) -> httpx.Response | None:
    """The answer; None when the gateway died of the question."""
    try:
        return httpx.post(f"{url}/predict/{model}", json={"x": x}, timeout=20)
    except httpx.TransportError:
        return None


def _answers(url: str, model: str, x: float, y: float) -> None:
    """It answers, at the latest when the dead gateway has its successor."""
    ends = time.monotonic() + 30
    while True:
        answer = _ask(url, model, x)
        if answer is not None and answer.status_code == 200:
            assert answer.json()["predictions"] == [{"y": y}]
            return
        assert time.monotonic() < ends, answer and answer.text
        time.sleep(0.05)


def test_a_model_that_kills_two_gateways_runs_in_its_own_process_also_after_a_restart(stage: Any, deadly: Any) -> None:
    stage.publish(1, [deadly("bomb", "bomb-v1"), stage.model("line", "line-v1")])
    running = stage.start()
    url = running.url
    _answers(url, "bomb", 1, 2.0)
    for deaths in (1, 2):
        assert _ask(url, "bomb", 13) is None
        _answers(url, "line", 5, 5.0)
        status = running.status()
        assert status["deaths"] == [{"version": "bomb-v1", "deaths": deaths, "signal": "SIGFPE"}]
        assert status["gateway_restarts"] == deaths
    assert status["demoted"] == ["bomb-v1"]
    assert "retinue_demoted_models 1" in httpx.get(f"{running.record.admin_url}/metrics").text
    gateway = status["gateways"][0]["pid"]
    _answers(url, "bomb", 1, 2.0)
    died = _ask(url, "bomb", 13)
    assert died is not None
    assert died.status_code == 503
    assert "ended its worker process" in died.json()["error"]
    _answers(url, "line", 6, 6.0)
    status = running.status()
    assert [g["pid"] for g in status["gateways"]] == [gateway]  # nobody else felt it
    assert [worker["environment"] for worker in status["gateways"][0]["workers"]] == ["platform"]
    assert running.stop() == 0

    again = stage.start()
    assert again.status()["demoted"] == ["bomb-v1"]
    _answers(again.url, "bomb", 4, 8.0)
    gateway = again.status()["gateways"][0]["pid"]
    assert _ask(again.url, "bomb", 13) is not None
    assert again.status()["gateways"][0]["pid"] == gateway

    stage.publish(2, [deadly("bomb", "bomb-v2"), stage.model("line", "line-v1")])
    again.wait(2)
    _answers(again.url, "bomb", 4, 8.0)
    assert again.status()["demoted"] == ["bomb-v1"]  # a new version starts anew


def test_a_model_that_crashes_while_it_is_loaded_costs_one_gateway_at_a_time_and_its_release(
    stage: Any, deadly: Any
) -> None:
    stage.publish(1, [stage.model("line", "line-v1")])
    running = stage.start(gateways=2)
    _answers(running.url, "line", 1, 1.0)
    stage.publish(
        2, [stage.model("line", "line-v1"), deadly("bomb", "bomb-v1", at=0.0)]
    )  # zeros are what it warms with
    ends = time.monotonic() + 60
    while "bomb-v1" not in running.status()["demoted"]:
        assert len([g for g in running.status()["gateways"] if g["serving"]]) >= 1
        assert time.monotonic() < ends
        time.sleep(0.05)
    while running.status()["release"] != 2:
        assert time.monotonic() < ends, running.status()
        time.sleep(0.05)
    status = running.status()
    assert status["gateway_restarts"] == 2
    _answers(running.url, "line", 2, 2.0)


def test_a_gateway_that_somebody_kills_is_held_against_nobody(stage: Any, deadly: Any) -> None:
    stage.publish(1, [deadly("bomb", "bomb-v1")])
    running = stage.start()
    for _ in range(3):
        os.kill(running.status()["gateways"][0]["pid"], signal.SIGKILL)
        _answers(running.url, "bomb", 3, 6.0)
    status = running.status()
    assert status["gateway_restarts"] == 3
    assert (status["deaths"], status["demoted"]) == ([], [])


def test_what_was_learnt_is_a_small_file_and_a_damaged_one_is_none(stage: Any, deadly: Any) -> None:
    stage.publish(1, [deadly("bomb", "bomb-v1")])
    file = stage.folder / "demoted.json"
    file.write_bytes(b"{not json")
    running = stage.start()
    assert running.status()["demoted"] == []
    assert _ask(running.url, "bomb", 13) is None
    _answers(running.url, "bomb", 1, 2.0)
    assert orjson.loads(file.read_bytes()) == [{"version": "bomb-v1", "deaths": 1, "signal": "SIGFPE"}]
