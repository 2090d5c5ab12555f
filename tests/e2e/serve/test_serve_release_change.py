"""Release changes and dying gateways under load: nothing is lost, nothing is mixed, nobody sees new then old."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from retinue.client import Client
from retinue.core.state import ServedEndpoint, ServedNeed

from .conftest import until

pytestmark = pytest.mark.e2e

ROW = json.dumps({"rows": [{"x": 0}, {"x": 0, "k": "b"}]}).encode()
REQUEST = b"POST /predict/chain HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n" % len(ROW) + ROW


def _publish(stage: Any, number: int) -> None:
    """Every answer is number × 1001: the upstream gives the thousands, the downstream the ones."""
    up = stage.model("up", f"up-{number}", offset=float(number), slopes=(0.0,), target="u")
    need = ServedNeed("up", "u", "u", {})
    downs = [
        stage.model(f"down-{key}", f"{key}-{number}", ("u", "x"), (1000.0, 0.0), float(number), needs=(need,))
        for key in "ab"
    ]
    stage.publish(number, [up, *downs], {"chain": ServedEndpoint("chain", "down-{k}", "down-a")})


class Wire:
    """A keep-alive connection, as bare as can be: 16 of them must not be busier than the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.file = self.socket.makefile("rb")

    def ask(self) -> tuple[int, int, dict[str, Any]]:
        """Status, release of the header, body. Raises ConnectionError when the connection ends first."""
        self.socket.sendall(REQUEST)
        line = self.file.readline()
        if not line:
            raise ConnectionError("closed")
        headers = {}
        while (header := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = header.decode().partition(": ")
            headers[name] = value.strip()
        content = self.file.read(int(headers["content-length"]))
        return int(line.split()[1]), int(headers.get("retinue-release", 0)), json.loads(content)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@dataclass
class Tally:
    """What the observers saw."""

    answers: int = 0
    failed: list[str] = field(default_factory=list)
    lost: int = 0
    refused: int = 0
    releases: set[int] = field(default_factory=set)

    def check(self, status: int, release: int, body: dict[str, Any]) -> int:
        """One answer: whole, and of one release throughout."""
        self.answers += 1
        values = {prediction.get("y") for prediction in body.get("predictions", [{}])}
        versions = {model["version"].rpartition("-")[2] for model in body.get("models") or [] if model}
        if status != 200 or values != {release * 1001.0} or versions != {str(release)} or body["release"] != release:
            self.failed.append(f"{status} {release} {body}")
        self.releases.add(release)
        return release


def _observe_pairs(port: int, stop: threading.Event, tally: Tally) -> None:
    """Two connections of one observer: what one has shown, the other may not be older than."""
    first, second = Wire(port), Wire(port)
    newest = 0
    while not stop.is_set():
        for wire in (first, second):
            release = tally.check(*wire.ask())
            if release < newest:
                tally.failed.append(f"release {release} after {newest}")
            newest = max(newest, release)
    first.close()
    second.close()


def test_releases_flip_under_load_without_a_failed_mixed_or_older_answer(stage: Any) -> None:
    _publish(stage, 1)
    running = stage.start(gateways=2)
    stop = threading.Event()
    tallies = [Tally() for _ in range(8)]
    threads = [threading.Thread(target=_observe_pairs, args=(running.record.port, stop, tally)) for tally in tallies]
    for thread in threads:
        thread.start()
    last = 1
    ends = time.monotonic() + 4
    while time.monotonic() < ends:
        last += 1
        _publish(stage, last)
        time.sleep(0.1)
    running.wait(last)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert [failure for tally in tallies for failure in tally.failed] == []
    assert min(tally.answers for tally in tallies) > 0
    assert len(set().union(*(tally.releases for tally in tallies))) > 5
    status = running.status()
    assert all(gateway["errors"] == 0 for gateway in status["gateways"])
    assert status["gateway_restarts"] == 0


def _observe_alone(port: int, stop: threading.Event, tally: Tally) -> None:
    """One connection, opened anew when it was lost; a refused connection is one failure too many."""
    wire: Wire | None = None
    while not stop.is_set():
        if wire is None:
            try:
                wire = Wire(port)
            except ConnectionRefusedError:
                tally.refused += 1
                return
        try:
            tally.check(*wire.ask())
        except ConnectionError:
            tally.lost += 1
            wire.close()
            wire = None
    if wire is not None:
        wire.close()


def test_a_killed_gateway_loses_only_what_it_was_running_and_is_replaced(stage: Any) -> None:
    _publish(stage, 7)
    running = stage.start(gateways=2)
    stop = threading.Event()
    tallies = [Tally() for _ in range(12)]
    threads = [threading.Thread(target=_observe_alone, args=(running.record.port, stop, tally)) for tally in tallies]
    for thread in threads:
        thread.start()
    kills = 0
    for _ in range(3):
        time.sleep(0.3)
        victim = running.status()["gateways"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        kills += 1
        _wait_for_two(running, victim)
    before = [tally.answers for tally in tallies]
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert [failure for tally in tallies for failure in tally.failed] == []
    assert [tally.refused for tally in tallies] == [0] * len(tallies)
    assert max(tally.lost for tally in tallies) <= kills
    assert all(tally.answers > count for tally, count in zip(tallies, before, strict=True))
    assert running.status()["gateway_restarts"] == kills


def _wait_for_two(running: Any, victim: int) -> None:
    ends = time.monotonic() + 20
    while True:
        gateways = running.status()["gateways"]
        if sum(g["serving"] for g in gateways) == 2 and victim not in {g["pid"] for g in gateways}:
            return
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_gateways_end_when_their_supervisor_is_killed_and_the_record_is_known_to_be_stale(stage: Any) -> None:
    from retinue.gateway.record import read_record

    _publish(stage, 1)
    running = stage.start(gateways=2)
    pids = running.record.gateways
    running.process.kill()
    running.process.wait()
    ends = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert (stage.folder / "serve.json").exists()
    assert read_record(stage.folder) is None
    assert stage.start().url


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_release_in_which_a_healthy_model_does_not_load_is_refused_and_said(stage: Any) -> None:
    good = stage.model("m", "v1", offset=1.0)
    stage.publish(1, [good])
    running = stage.start(gateways=2)
    bad = stage.model("m", "v2", offset=2.0)
    path = stage.artifacts.local(bad.artifact)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    stage.publish(2, [bad])
    ends = time.monotonic() + 20
    while running.status()["refused"] is None:
        assert time.monotonic() < ends
        time.sleep(0.02)
    status = running.status()
    assert (status["release"], status["wanted"], status["refused"]["release"]) == (1, 2, 2)
    assert "'m', healthy in release 1, does not load" in status["refused"]["why"]
    assert "is damaged: the bytes have another digest" in status["refused"]["why"]
    with Client(running.url) as client:
        assert client.predict("m", [{"x": 1}])["predictions"] == [{"y": 2.0}]
        (stage.folder / "3.release").write_bytes(b"RETREL rubbish")
        (stage.folder / "current").write_text("3 00\n")
        until = time.monotonic() + 20
        while (running.status()["refused"] or {}).get("release") != 3:
            assert time.monotonic() < until
            time.sleep(0.02)
        stage.publish(4, [good, stage.model("n", "n1", offset=5.0)])
        running.wait(4)
        assert running.status()["refused"] is None
        assert client.predict("n", [{"x": 1}])["predictions"] == [{"y": 6.0}]


@pytest.mark.parametrize("damage", ["no number", "9" * 30 + " 00", "a pipe"])
def test_a_damaged_pointer_is_said_until_it_is_written_anew(stage: Any, damage: str) -> None:
    stage.publish(1, [stage.model("m", "v1", offset=1.0)])
    running = stage.start()
    current = stage.folder / "current"
    sound = current.read_bytes()
    current.unlink()
    if damage == "a pipe":
        os.mkfifo(current)
    else:
        current.write_text(damage)
    until(lambda: running.status()["refused"], 20, "the damage to be seen")
    assert "the release pointer" in running.status()["refused"]["why"]
    current.unlink()
    current.write_bytes(sound)
    until(lambda: running.status()["refused"] is None, 20, "the damage to be forgotten")
    with Client(running.url) as client:
        assert client.predict("m", [{"x": 1}])["predictions"] == [{"y": 2.0}]


def test_a_damaged_artifact_makes_only_its_own_model_unavailable_and_fallback_answers(stage: Any) -> None:
    broken = stage.model("late-b", "b1", offset=2.0)
    path = stage.artifacts.local(broken.artifact)
    path.unlink()
    models = [broken, stage.model("late-a", "a1", offset=1.0), stage.model("spare", "s1", offset=9.0)]
    stage.publish(
        1, models, {"late": ServedEndpoint("late", "late-{k}", "spare"), "n": ServedEndpoint("n", "late-{k}")}
    )
    running = stage.start()
    assert "3 models (1 unavailable)" in running.line
    with httpx.Client(base_url=running.url) as http:
        rows = {"rows": [{"k": "a", "x": 0}, {"k": "b", "x": 0}]}
        answer = http.post("/predict/late", json=rows).json()
        assert answer["predictions"] == [{"y": 1.0}, {"y": 9.0}]
        assert [model["fallback"] for model in answer["models"]] == [False, True]
        answer = http.post("/predict/n", json=rows).json()
        assert answer["predictions"][0] == {"y": 1.0}
        assert "'late-b' is not available" in answer["predictions"][1]["error"]
        ready = http.get("/v2/models/late-b/ready")
        assert ready.status_code == 503
        assert ready.headers["retry-after"] == "1"
        assert http.get("/v2/models/late-a/ready").status_code == 200
        assert http.get("/v2/health/ready").status_code == 200
    assert "gone" in running.status()["unavailable"]["late-b"]


def test_the_same_number_with_other_settings_is_taken_up(stage: Any) -> None:
    models = [stage.model("a", "a1", offset=1.0), stage.model("b", "b1", offset=2.0)]
    stage.publish(1, models, {"e": ServedEndpoint("e", "a")})
    running = stage.start()
    with Client(running.url) as client:
        assert client.predict("e", [{"x": 0}])["predictions"] == [{"y": 1.0}]
        stage.publish(1, models, {"e": ServedEndpoint("e", "b")})
        ends = time.monotonic() + 20
        while client.predict("e", [{"x": 0}])["predictions"] != [{"y": 2.0}]:
            assert time.monotonic() < ends
