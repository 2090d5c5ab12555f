"""Two appliers at once, as processes, on SQLite and PostgreSQL: refused, side by side, frozen and fenced off."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import postgres

from retinue.control.events import utc_now
from retinue.control.leases import later, name_holder
from retinue.control.waiting import wait_for
from retinue.core.errors import LeaseHeldError
from retinue.store.fake import MemoryRegistry
from retinue.store.registry import SqlRegistry
from retinue.store.releasefile import current

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Place:
    """Where several appliers meet."""

    url: str
    folder: Path

    def start(self, models: str, quality: int, stop: str = "", lease: float = 60.0) -> subprocess.Popen[str]:
        script = str(Path(__file__).with_name("applier.py"))
        command = [sys.executable, script, self.url, str(self.folder), models, str(quality), str(lease), stop]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def apply(self, models: str, quality: int) -> str:
        return self.start(models, quality).communicate(timeout=60)[0].strip()

    def registry(self) -> SqlRegistry:
        return SqlRegistry(self.url)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database with a release of two components, a+b and c."""
    url = f"sqlite:///{tmp_path / 'state.db'}" if request.param == "sqlite" else postgres.new_database()
    folder = tmp_path / "releases"
    made = Place(url, folder)
    assert made.apply("a+b,c", 3) == "release 1"
    return made


def at(process: subprocess.Popen[str], stop: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"at {stop}\n"


@pytest.mark.e2e
def test_two_appliers_on_one_component_one_is_refused_with_who_since_when_and_until_when(place: Place) -> None:
    first = place.start("a+b,c", 4, "DEFINITIONS_STORED")
    at(first, "DEFINITIONS_STORED")
    refused = place.apply("a+b,c", 5)
    moment = r"\d{4}-\d\d-\d\dT[\d:.]+Z"
    assert re.match(rf"LeaseHeldError ada@\S+ pid {first.pid} \[.*\] is at work on a, b, c since {moment}", refused)
    assert re.search(rf"its lease ends {moment} unless", refused)
    assert first.communicate("go\n", timeout=60)[0] == "release 2\n"
    assert place.apply("a+b,c", 5) == "release 3"
    with closing(place.registry()) as registry:
        assert registry.applies("p", "prod", "running") == []
        assert registry.leases("p", "prod", utc_now()) == []


@pytest.mark.e2e
def test_an_applier_frozen_past_its_lease_is_fenced_off_and_says_so(place: Place) -> None:
    frozen = place.start("a+b,c", 4, "DEFINITIONS_STORED", lease=0.5)
    at(frozen, "DEFINITIONS_STORED")
    os.kill(frozen.pid, signal.SIGSTOP)
    with closing(place.registry()) as registry:
        while registry.leases("p", "prod", utc_now()):
            pass
        assert place.apply("a+b,c", 5) == "release 2"
        landed = registry.current("p", "prod")
        held, audit = registry.holds("p", "prod", ended=True), registry.audit("p")
        os.kill(frozen.pid, signal.SIGCONT)
        told = frozen.communicate("go\n", timeout=60)[0]
        assert told.startswith("ConflictError the lease of ada@")
        assert "was lost" in told
        assert registry.current("p", "prod") == landed
        assert current(place.folder) == 2
        assert registry.holds("p", "prod", ended=True) == held
        assert registry.audit("p") == audit
        assert registry.applies("p", "prod", "running") == []
    assert place.apply("a+b,c", 4) == "release 3"  # what it had built is used


@pytest.mark.e2e
def test_two_appliers_on_two_components_both_land(place: Place) -> None:
    with closing(place.registry()) as registry:
        before = registry.current("p", "prod")
        assert before is not None
        first = place.start("a+b,c", 3, "APPLY_RECORDED")  # nothing to do: it has no lease to be in the way
        assert first.communicate("go\n", timeout=60)[0] in ("release None\n", "at APPLY_RECORDED\nrelease None\n")
        only_c = place.start("a+b=3,c=4", 0, "DEFINITIONS_STORED")
        at(only_c, "DEFINITIONS_STORED")
        assert place.apply("a+b=5,c=3", 0) == "release 2"
        assert only_c.communicate("go\n", timeout=60)[0] == "release 3\n"
        after = registry.current("p", "prod")
        assert after is not None
        assert all(after.models[m].version != before.models[m].version for m in "abc")
        assert current(place.folder) == 3


def test_waiting_ends_with_the_other_apply_or_with_the_time_that_was_given() -> None:
    registry = MemoryRegistry()
    said: list[str] = []
    slept: list[float] = []
    now = utc_now()
    lease = registry.acquire("p", "prod", ["a"], holder=f"x{name_holder('bob')}", now=now, expires=later(now, 60))

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            registry.free(lease)

    def wait(seconds: float, model: str = "a") -> bool:
        return wait_for(
            registry, ("p", "prod"), {model: None}, seconds=seconds, say=said.append, clock=utc_now, sleep=sleep
        )

    assert wait(60, "b") is False
    with pytest.raises(LeaseHeldError, match="is at work on a"):
        wait(0)
    assert wait(60) is True
    assert len(slept) == 3
    assert len(said) == 1
    assert said[0].startswith("waiting: xbob@")
