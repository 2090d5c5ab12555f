"""Rounds in turn and what is said of them: ratios within a round, their median and spread, beside a target."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import _load
from benchmarks._load import Measured, Traffic
from benchmarks._world import Place

RESULTS = Path(__file__).resolve().parent / ".cache" / "results"


@dataclass(frozen=True, slots=True)
class Spread:
    """Lowest, median, highest."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of some values."""
        found = sorted(values)
        return cls(found[0], statistics.median(found), found[-1])

    def text(self, form: Callable[[float], str]) -> str:
        """`median (low–high)`."""
        return f"{form(self.median)} ({form(self.low)}–{form(self.high)})"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing under load. `port` is another one of the same server where it is not the place's."""

    label: str
    place: Place
    traffic: Traffic
    port: int = 0
    connections: int = 64


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often."""

    rounds: int
    seconds: float
    warmup: float = 0.3


class Turns:
    """All rounds of some cases: full load, then half of what each could take."""

    def __init__(self, cases: Sequence[Case], effort: Effort) -> None:
        self.cases = {case.label: case for case in cases}
        self.effort = effort
        self.full: dict[str, list[Measured]] = {case.label: [] for case in cases}
        self.half: dict[str, list[Measured]] = {case.label: [] for case in cases}

    def run(self, *, half: bool = True) -> Turns:
        """Warm up, then take turns; each round's half load follows that round's own maximum."""
        for case in self.cases.values():
            _run(case, max(0.5, 2 * self.effort.warmup), 0.0, self.effort)
        for _ in range(self.effort.rounds):
            for label, case in self.cases.items():
                self.full[label].append(_run(case, self.effort.seconds, 0.0, self.effort))
            for label, case in self.cases.items() if half and _load.program() else ():
                rate = self.full[label][-1].rate / 2
                self.half[label].append(_run(case, self.effort.seconds, rate, self.effort))
        return self

    def ratio(self, label: str, base: str, of: Callable[[Measured], float] = lambda m: m.rate) -> Spread:
        """`of` this case over that of the base, round by round."""
        return Spread.of(of(a) / of(b) for a, b in zip(self.full[label], self.full[base], strict=True))

    def cpu_ratio(self, label: str, base: str) -> Spread | None:
        """CPU time per request of the base over that of this case; None where it could not be measured."""
        if any(m.cpu == 0 for name in (label, base) for m in self.full[name]):
            return None
        return Spread.of(b.micros / a.micros for a, b in zip(self.full[label], self.full[base], strict=True))

    def core_share(self) -> str:
        """How much of its core the servers had under full load: less than all of it means a busy machine, or load."""
        shares = [m.cpu / m.seconds for found in self.full.values() for m in found]
        return f"{statistics.median(shares):.0%} of it (lowest round {min(shares):.0%})"

    def spread(self, label: str, of: Callable[[Measured], float] = lambda m: m.rate) -> Spread:
        """Of one case under full load."""
        return Spread.of(map(of, self.full[label]))

    def median_half(self, label: str, of: Callable[[Measured], float]) -> float | None:
        """Under half of its maximum; None where that was not measured."""
        return statistics.median(map(of, self.half[label])) if self.half[label] else None


def _run(case: Case, seconds: float, rate: float, effort: Effort) -> Measured:
    return _load.load(
        case.port or case.place.port,
        case.traffic,
        connections=case.connections,
        seconds=seconds,
        warmup=effort.warmup,
        rate=rate,
        pids=case.place.pids,
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report: a ratio with its spread, what it is measured against, and what was asked for."""

    label: str
    ratio: Spread
    form: str  # "%" or "×"
    against: str
    target: float | None = None
    at_most: bool = False
    rate: Spread | None = None
    micros: float | None = None  # CPU µs of the server per request
    cpu_ratio: Spread | None = None
    p50: float | None = None  # at half of its maximum, milliseconds
    p99: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None without one."""
        if self.target is None:
            return None
        return self.ratio.median <= self.target if self.at_most else self.ratio.median >= self.target

    def number(self, value: float) -> str:
        """A ratio as this line writes it."""
        if self.form == "%":
            return f"{value:.0%}"
        return f"{value:.2f} ×" if value < 10 else f"{value:,.0f} ×"

    def cells(self) -> list[str]:
        """Label, rate, CPU, ratio, CPU ratio, latencies, target."""
        return [
            self.label,
            f"{self.rate.median:,.0f}" if self.rate else "",
            f"{self.micros:,.1f}" if self.micros else "",
            f"{self.ratio.text(self.number)} of {self.against}",
            self.cpu_ratio.text(self.number) if self.cpu_ratio else "",
            f"{self.p50:.2f}" if self.p50 is not None else "",
            f"{self.p99:.2f}" if self.p99 is not None else "",
            f"{'≤' if self.at_most else '≥'} {self.number(self.target)}" if self.target is not None else "",
            {True: "met", False: "MISSED", None: ""}[self.met],
        ]


HEADS = ("", "requests/s", "CPU µs", "ratio: median (min–max)", "CPU ratio", "p50 ms", "p99 ms", "target", "")


def lined(turns: Turns, label: str, base: str, *, form: str = "%", target: float | None = None, note: str = "") -> Line:
    """The line of one case against another."""
    return Line(
        label,
        turns.ratio(label, base),
        form,
        base,
        target,
        rate=turns.spread(label),
        micros=turns.spread(label, lambda m: m.micros).median or None,
        cpu_ratio=None if label == base else turns.cpu_ratio(label, base),
        p50=turns.median_half(label, lambda m: m.p50),
        p99=turns.median_half(label, lambda m: m.p99),
        note=note,
    )


def table(lines: Sequence[Line]) -> str:
    """For a terminal."""
    rows = [list(HEADS), *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    text = [
        "  ".join(
            f"{cell:<{w}}" if i in (0, 3, 8) else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    ]
    return "\n".join(
        [*(line.rstrip() for line in text), *(f"  {line.label}: {line.note}" for line in lines if line.note)]
    )


def keep(name: str, lines: Sequence[Line], facts: dict[str, str]) -> None:
    """Write what a benchmark found where the report finds it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    body = {"facts": facts, "lines": [asdict(line) for line in lines]}
    (RESULTS / f"{name}.json").write_text(json.dumps(body, indent=1), encoding="utf-8")


def kept(name: str) -> tuple[list[Line], dict[str, str]]:
    """What a benchmark found when it last ran; nothing if it never did."""
    try:
        body = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [], {}
    return [_line(line) for line in body["lines"]], body["facts"]


def _line(values: dict[str, Any]) -> Line:
    spreads: dict[str, Any] = {
        name: Spread(**values.pop(name)) for name in ("ratio", "rate", "cpu_ratio") if values.get(name)
    }
    return Line(**values, **spreads)
