"""Journals to test with: real segments in a temporary folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.core.contract import Field
from retinue.core.state import ServedEndpoint, ServedJournal
from retinue.gateway.recorder import Answered, NodeFacts, Ran, Recorder
from retinue.settings import Settings

NOON = 1_767_268_800_000_000_000  # 2026-01-01 12:00 UTC in nanoseconds
DAY = 86_400_000_000_000
LATE = NodeFacts(
    "late-JFK",
    "v1",
    [Field("hour", "INT64"), Field("temp", "FP64"), Field("carrier", "BYTES")],
    [Field("label", "BOOL"), Field("probability", "FP64")],
)
DELAY = NodeFacts("delay", "v7", [Field("temp", "FP64"), Field("p", "FP64")], [Field("minutes", "FP64")])


class Clock:
    """Nanoseconds that move when told to, and by one at each look."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        self.now += 1
        return self.now


class Journal:
    """One gateway's recorder with a clock of its own."""

    def __init__(self, directory: Path, coin: Callable[[], float] = lambda: 0.5, **settings: Any) -> None:
        self.settings = Settings(directory, "", "", **settings)
        self.clock = Clock()
        self.recorder = Recorder(self.settings, clock=self.clock, coin=coin)
        self.folder = self.settings.journal("shop", "prod")
        self._numbers = itertools.count()

    def follow(self, **endpoints: ServedJournal) -> Journal:
        served = {name: ServedEndpoint(name, "late-JFK", journal=wish) for name, wish in endpoints.items()}
        self.recorder.follow(1, "shop", "prod", served)
        return self

    def ask(self, carrier: str | None = "AA", *, facts: NodeFacts = LATE, arrived: int = NOON, **more: Any) -> str:
        """Journal a request of one row; returns its id."""
        identity = f"id-{next(self._numbers):06d}"
        run = Ran(facts, None, [(7, 21.5, carrier)], {"label": [True], "probability": [0.75]}, 0.001, 0.002)
        record = Answered(identity, "late", 1, "acme", None, 200, 1, arrived, 0.004, (run,))
        self.recorder.answered(record._replace(**more))
        return identity

    def close(self) -> None:
        self.recorder.close()


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    made = Journal(tmp_path).follow()
    yield made
    made.close()
