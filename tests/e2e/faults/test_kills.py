"""`kill -9` under load, at every point and at random: no answer unjournalled, none wrong, no bystander hurt."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.faults.killed_gateway import Point
from tests.e2e.faults.load import Client, asking, journalled
from tests.e2e.serve.conftest import Running, until

from retinue.gateway.main import settings_text
from retinue.gateway.record import read_record

pytestmark = pytest.mark.e2e

DRIVER = """
import asyncio, sys
from retinue.gateway.main import _settings
from retinue.processes.serve import run_supervisor
program = ("-m", "tests.e2e.faults.killed_gateway")
sys.exit(asyncio.run(run_supervisor(_settings(sys.argv[1]), "shop", "prod", print, program)))
"""
ROOT = Path(__file__).resolve().parents[3]
RANDOM_KILLS = int(os.environ.get("RETINUE_TEST_KILLS", "4"))  # RETINUE_TEST_KILLS=20 makes it the long form


def _serve_to_die(stage: Any, point: Point, count: int, gateways: int) -> Running:
    """A supervisor one of whose gateways dies at the point."""
    stage.settings = stage.settings.__class__(
        **{name: getattr(stage.settings, name) for name in stage.settings.__slots__} | {"gateways": gateways}
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", DRIVER, settings_text(stage.settings)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "RETINUE_TEST_KILL": f"{point:d}:{count}:{stage.settings.directory / 'died'}"},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Serving"), line
    record = read_record(stage.folder)
    assert record is not None
    running = Running(process, record, line)
    stage.running.append(running)
    return running


def _clients(running: Running, *models: tuple[str, float]) -> list[Client]:
    return [
        Client(running.record.port, model, slope, rows, 1000.0 * number)
        for number, (model, slope) in enumerate(models)
        for rows in (1, 3)
    ]


def _check_journal(stage: Any, clients: list[Client]) -> None:
    """Everything that was answered is in the journal, with the value that was answered."""
    kept = journalled(stage.settings)
    for client in clients:
        assert client.wrong == []
        assert client.answered
        missing = client.answered - kept.keys()
        assert not missing, f"{len(missing)} of {len(client.answered)} answered predictions are not journalled"


@pytest.mark.parametrize("point", list(Point), ids=lambda point: point.name.lower())
def test_a_gateway_killed_at_a_point_loses_only_what_it_ran(stage: Any, point: Point) -> None:
    stage.publish(1, [stage.model("two", "v1", slopes=(2.0,)), stage.model("three", "v1", slopes=(3.0,))])
    running = _serve_to_die(stage, point, 150, gateways=2)
    clients = _clients(running, ("two", 2.0), ("three", 3.0))
    with asking(clients):
        ends = time.monotonic() + 30
        while running.status()["gateway_restarts"] == 0:
            assert time.monotonic() < ends
            time.sleep(0.02)
        running.status()
        ends = time.monotonic() + 30
        while len([g for g in running.status()["gateways"] if g["serving"]]) < 2:
            assert time.monotonic() < ends
            time.sleep(0.02)
    assert running.status()["gateway_restarts"] == 1
    assert running.status()["demoted"] == []
    assert running.stop() == 0
    assert sum(client.lost for client in clients) >= 1
    assert max(client.lost for client in clients) <= 1  # each had at most one connection in the dead gateway
    assert sum(client.unavailable for client in clients) == 0
    _check_journal(stage, clients)


def test_gateways_killed_at_random_lose_nothing_that_was_answered(stage: Any) -> None:
    stage.publish(1, [stage.model("two", "v1", slopes=(2.0,)), stage.model("three", "v1", slopes=(3.0,))])
    running = stage.start(gateways=2)
    clients = _clients(running, ("two", 2.0), ("three", 3.0), ("two", 2.0))
    rng = random.Random(3)
    with asking(clients):
        for kill in range(1, RANDOM_KILLS + 1):
            time.sleep(rng.uniform(0.05, 0.8))
            victim = rng.choice([g["pid"] for g in running.status()["gateways"]])
            os.kill(victim, signal.SIGKILL)
            ends = time.monotonic() + 30
            while running.status()["gateway_restarts"] < kill or not _all_serve(running, 2):
                assert time.monotonic() < ends
                time.sleep(0.02)
    status = running.status()
    assert status["gateway_restarts"] == RANDOM_KILLS
    assert status["demoted"] == []
    assert running.stop() == 0
    assert max(client.lost for client in clients) <= RANDOM_KILLS
    assert sum(client.unavailable for client in clients) == 0
    _check_journal(stage, clients)


def test_workers_killed_at_random_lose_nothing_at_all(stage: Any, hosted: Any) -> None:
    stage.publish(1, [hosted("line", "line"), stage.model("two", "v1", slopes=(2.0,)), hosted("moody", "moody")])
    running = stage.start(workers_per_environment=2)
    clients = _clients(running, ("moody", 2.0), ("two", 2.0))
    for client in clients:
        client.start += 100  # beyond the values that this model dies of
    rng = random.Random(4)
    gateway = running.status()["gateways"][0]["pid"]
    with asking(clients):
        for kill in range(1, RANDOM_KILLS + 1):
            time.sleep(rng.uniform(0.05, 0.8))
            os.kill(rng.choice(_workers(running)), signal.SIGKILL)
            ends = time.monotonic() + 60
            while running.status()["gateways"][0]["workers"][0]["restarts"] < kill or len(_workers(running)) < 2:
                assert time.monotonic() < ends
                time.sleep(0.02)
    status = running.status()
    assert [g["pid"] for g in status["gateways"]] == [gateway]
    assert status["gateways"][0]["workers"][0]["quarantined"] == {}
    assert running.stop() == 0
    assert [client.lost for client in clients] == [0] * len(clients)
    assert [client.unavailable for client in clients] == [0] * len(
        clients
    )  # what a dead worker ran, its successor runs
    _check_journal(stage, clients)


def _all_serve(running: Running, count: int) -> bool:
    return len([g for g in running.status()["gateways"] if g["serving"]]) == count


def _workers(running: Running) -> list[int]:
    found: list[int] = running.status()["gateways"][0]["workers"][0]["pids"]
    return found


def test_a_hanging_worker_ends_with_its_gateway_and_leaves_no_shared_memory(stage: Any, hosted: Any) -> None:
    stage.publish(1, [hosted("moody", "moody")])
    before = set(os.listdir("/dev/shm"))
    running = stage.start()
    rows = [{"x": 100.0 + number} for number in range(20_000)]  # large enough to travel in shared memory
    body = httpx.post(f"{running.url}/predict/moody", json={"rows": rows}, timeout=30).json()
    assert [row["y"] for row in body["predictions"]] == [2 * row["x"] for row in rows]
    gateway = running.status()["gateways"][0]
    worker = gateway["workers"][0]["pids"][0]
    assert any("retinue" in os.readlink(link) for link in Path(f"/proc/{worker}/fd").iterdir())
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{running.url}/predict/moody", json={"x": 14}, timeout=0.5)  # sleeps for a minute
    os.kill(gateway["pid"], signal.SIGKILL)
    until(lambda: not _lives(worker), 20, "the end of the worker")
    assert set(os.listdir("/dev/shm")) == before


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
