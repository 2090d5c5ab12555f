"""A served portfolio is changed and rolled back while clients ask: nobody notices but by the answers getting newer."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.routes.harbour import MEMBERS, Harbour, steps

from retinue.client import Client
from retinue.core.errors import RetinueError
from retinue.gateway.record import read_record

pytestmark = pytest.mark.e2e

ROWS = [
    {"region": region, "hour": hour, "swell": 0.3 * hour - 2, "wind": 0.1 * hour}
    for hour, region in enumerate(["north", "south", "west", "nowhere"] * 2)
]


@pytest.fixture
def server(harbour: Harbour) -> Iterator[str]:
    """A real server with two gateways on the harbour's stage; its URL."""
    (harbour.root / "retinue.toml").write_text("[serve]\nport = 0\nadmin_port = 0\ngateways = 2\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "retinue", "serve"], cwd=harbour.root, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "release 1" in process.stdout.readline()
        record = read_record(Path(harbour.root, ".retinue", "releases", "harbour", "prod"))
        assert record is not None
        yield record.url
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
        if process.stdout is not None:
            process.stdout.close()


class Clients:
    """Six clients that ask all the time; each answer is kept with the newest release anybody had seen before."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.errors: list[str] = []
        self._newest = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(6)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with Client(self.url) as client:
            while not self._end.is_set():
                before = self._newest
                try:
                    answer = client.predict("late", ROWS)
                except RetinueError as error:
                    self.errors.append(str(error))
                    continue
                with self._lock:
                    self._newest = max(self._newest, answer["release"])
                    self.answers.append((before, answer))
                time.sleep(0.002)

    def until(self, release: int) -> None:
        """Wait until that release has answered."""
        deadline = time.monotonic() + 30
        while self._newest < release:
            assert time.monotonic() < deadline, f"release {release} never answered"
            time.sleep(0.01)


def test_changes_and_rollbacks_under_load_fail_no_request_and_mix_no_releases(harbour: Harbour, server: str) -> None:
    with Clients(server) as clients:
        clients.until(1)
        harbour.edit("alpha: 1.0", "alpha: 5.0")
        harbour.apply()
        clients.until(2)
        harbour.do(lambda p: p.rollback(["delay"], why="a model rollback"))
        clients.until(3)
        harbour.edit(
            "C: 1.0}\n    gates:\n      roc_auc: {min: 0.55}\n\n", "C: 2.0}\n    gates:\n      roc_auc: {min: 0.55}\n\n"
        )
        harbour.apply()
        clients.until(4)
        harbour.do(lambda p: p.rollback(to=1, why="a whole rollback"))
        clients.until(5)
    assert clients.errors == []
    releases = {r.number: r for r in harbour.do(lambda p: p.registry.releases("harbour", "prod"))}
    seen = set()
    for before, answer in clients.answers:
        number = answer["release"]
        assert number >= before, "an older release answered after a newer one had been seen"
        seen.add(number)
        for prediction, model in zip(answer["predictions"], answer["models"], strict=True):
            assert "error" not in prediction
            assert model["version"] == releases[number].models[model["model"]].version
    assert seen == {1, 2, 3, 4, 5}
    assert harbour.live() == {m: e.version for m, e in releases[1].models.items()}


def test_what_was_rolled_back_does_not_come_back_with_the_next_apply(harbour: Harbour) -> None:
    harbour.edit("alpha: 1.0", "alpha: 5.0")
    harbour.apply()
    harbour.do(lambda p: p.rollback(["delay"], why="worse in practice"))
    before = harbour.live()
    plan = harbour.plan()
    assert [held.model for held in plan.held] == ["delay"]
    assert steps(plan) == {}
    outcome = harbour.apply()
    assert outcome.release is None
    assert harbour.live() == before
    assert set(MEMBERS) <= set(before)
