"""What was answered is in the journal: across kills, compaction, queries and erasure, from real processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.serve.conftest import until

from retinue.cli.main import run
from retinue.control.query import query
from retinue.core.state import ServedEndpoint, ServedJournal, ServedNeed
from retinue.store.journal import list_segments
from retinue.store.journal_days import days

pytestmark = pytest.mark.e2e


def _publish(stage: Any) -> None:
    need = ServedNeed("wind", "speed", "wind", {"hour": "sched_hour"})
    wind = stage.model("wind", "w1", features=("hour",), slopes=(2.0,), offset=1.0, target="speed")
    late = stage.model("late-JFK", "v1", features=("x", "wind"), slopes=(1.0, 10.0), needs=(need,))
    plain = stage.model("plain", "p1", features=("x", "who"), slopes=(1.0, 0.0))
    endpoints = {
        "late": ServedEndpoint("late", "late-{origin}"),
        "plain": ServedEndpoint("plain", "plain"),
        "shy": ServedEndpoint("shy", "plain", journal=ServedJournal(hash=("who",))),
    }
    stage.publish(1, [wind, late, plain], endpoints)


def _folder(stage: Any) -> Path:
    folder: Path = stage.settings.journal("shop", "prod")
    return folder


def _ask(url: str, endpoint: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.post(f"{url}/predict/{endpoint}", json={"rows": rows}).json()
    return answer


def test_every_row_and_every_node_call_of_an_answer_can_be_queried_at_once(stage: Any) -> None:
    _publish(stage)
    running = stage.start()
    answer = _ask(
        running.url,
        "late",
        [{"origin": "JFK", "x": 1.5, "sched_hour": 3}, {"origin": "LAX", "x": 1.0, "sched_hour": 3}],
    )
    shown = query(_folder(stage), "select prediction_id, model, version, y, speed, error is null, inputs.x "
                  "from predictions order by row, model")  # fmt: skip
    first, second = answer["ids"]
    assert shown.rows == [
        (first, "late-JFK", "v1", 71.5, None, True, 1.5),
        (first, "wind", "w1", None, 7.0, True, None),
        (second, None, None, None, None, False, None),
    ]
    (requests,) = query(_folder(stage), "select endpoint, release, status, rows from requests").rows
    assert requests == ("late", 1, 200, 2)


def test_no_answered_prediction_is_missing_after_kills_of_gateways(stage: Any) -> None:
    _publish(stage)
    running = stage.start(gateways=2, journal_rotate_seconds=1.0)
    told: list[str] = []
    stop = threading.Event()

    def work() -> None:
        with httpx.Client(base_url=running.url, timeout=10) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/predict/plain", json={"rows": [{"x": 1.0, "who": 2.0}]})
                except httpx.TransportError:
                    continue  # the killed gateway was running it
                if answer.status_code == 200:
                    told.extend(answer.json()["ids"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        before = len(told)
        until(lambda before=before: len(told) > before + 100, 30, "answers")
        os.kill(running.status()["gateways"][0]["pid"], signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join()
    found = {row[0] for row in query(_folder(stage), "select prediction_id from predictions").rows}
    assert set(told) <= found
    until(lambda: days(_folder(stage)), 60, "the controller's first compaction")
    assert set(told) <= {row[0] for row in query(_folder(stage), "select prediction_id from predictions").rows}
    (count, distinct) = query(_folder(stage), "select count(*), count(distinct prediction_id) from predictions").rows[0]
    assert count == distinct
    assert running.stop() == 0
    assert [path.suffix for path in list_segments(_folder(stage)) if path.suffix == ".open"] == []


def test_the_command_line_queries_tells_and_erases(
    stage: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _publish(stage)
    home = tmp_path / "home"
    home.mkdir()
    (home / "portfolio.yaml").write_text("portfolio: shop\n")
    (home / "retinue.toml").write_text(f'[state]\ndirectory = "{stage.settings.directory}"\n')
    running = stage.start()
    for who in (1, 2):
        _ask(running.url, "plain", [{"x": 5, "who": who}])
        _ask(running.url, "shy", [{"x": 5, "who": who}])

    def told(*words: str) -> str:
        assert run(["-f", str(home / "portfolio.yaml"), *words]) == 0
        return capsys.readouterr().out

    sql = "select endpoint, inputs.who as who from predictions where endpoint = 'plain' order by who"
    assert told("query", sql, "-o", "csv") == "endpoint,who\nplain,1.0\nplain,2.0\n"
    assert "(2 rows)" in told("query", sql)
    assert "1 open" in told("journal", "status")
    assert "4 answers journalled, 0 left unjournalled" in told("journal", "status")
    status = json.loads(told("journal", "status", "-o", "json"))
    assert (status["open"], status["gateways"][0]["records"]) == (1, 4)
    metrics = httpx.get(f"{running.record.admin_url}/metrics").text
    assert "retinue_journal_records_total 4" in metrics
    assert "retinue_journal_stopped 0" in metrics
    erase = ("journal", "erase", "--endpoint", "plain", "--where", "who=1", "--reason", "asked for", "--yes")
    assert told(*erase).startswith("Erased 1 rows, of 1 day(s); 1 requests went whole.")
    assert json.loads(told("query", sql, "-o", "json")) == [{"endpoint": "plain", "who": "2.0"}]
    assert told(*erase, "-o", "json").count('"rows": 0') == 1
    again = ("journal", "erase", "--endpoint", "shy", "--where", "who=2", "--reason", "asked for", "--yes")
    assert told(*again).startswith("Erased 1 rows")
    assert "Compacted" in told("journal", "compact")
    assert run(["-f", str(home / "portfolio.yaml"), "query", "drop table predictions"]) == 64
    assert "only read" in capsys.readouterr().err
    assert _ask(running.url, "plain", [{"x": 5, "who": 1}])["predictions"] == [{"y": 5.0}]


def test_a_controller_that_is_killed_comes_back_and_ends_with_its_server(stage: Any) -> None:
    _publish(stage)
    running = stage.start()

    def controllers() -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"retinue.processes.controller" in words and str(stage.settings.directory).encode() in b"".join(words):
                found.append(int(folder.name))
        return found

    until(lambda: len(controllers()) == 1, 20, "the controller")
    (first,) = controllers()
    os.kill(first, signal.SIGKILL)
    until(lambda: controllers() and controllers() != [first], 20, "another controller")
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    until(lambda: not controllers(), 20, "the controller's end")
