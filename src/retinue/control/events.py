"""What an apply tells while it runs and when it is done. Light: whoever only plans or renders imports this alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from retinue.core.checks import CheckResult
from retinue.core.errors import RetinueError

Json = Any
Status = Literal[
    "built", "reused", "rebuilt", "regated", "unchanged", "waiting", "inconclusive", "gate failed", "failed", "skipped"
]


@dataclass(frozen=True, slots=True)
class Event:
    """What an observer of an apply is told: a model's phase, or a line about the whole."""

    kind: Literal["start", "phase", "end", "line"]
    model: str = ""
    text: str = ""
    status: str | None = None  # a Status; of `retinue test` what its verdict says
    seconds: float = 0.0
    results: tuple[Mapping[str, Json], ...] = ()  # of the gates, at the end


Observer = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class ModelResult:
    """How one model fared."""

    model: str
    status: Status
    text: str = ""
    version: str | None = None
    seconds: float = 0.0
    error: RetinueError | None = None
    results: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an apply did."""

    plan: str
    release: int | None  # the new release's number; None when nothing landed
    before: int | None
    models: tuple[ModelResult, ...]
    settings: int | None = None
    seconds: float = 0.0
    checks: tuple[CheckResult, ...] = ()  # of the data that was trained on

    @property
    def failed(self) -> bool:
        """Whether anything that was wished did not come to be."""
        return any(m.status in ("failed", "skipped", "gate failed") for m in self.models)


def utc_now() -> str:
    """The moment as the registry keeps it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
