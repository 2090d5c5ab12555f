"""Counts of one gateway, the merge of many, and their text for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retinue import telemetry
from retinue.gateway.batcher import Batch

Snapshot = dict[str, Any]
"""JSON: metric name → {label values joined by "|": number, or for histograms [count per bucket…, sum]}."""


class Series:
    """The counts of one endpoint."""

    __slots__ = ("fallbacks", "rows", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.seconds = [0.0] * (len(telemetry.BUCKETS) + 2)
        self.rows = 0
        self.fallbacks = 0


class Meter:
    """What one gateway has done since it started. Not thread-safe: the loop's thread only."""

    def __init__(self) -> None:
        self.in_flight: Callable[[], int] = lambda: 0
        self.batches = 0
        self.batch_rows = 0
        self._series: dict[str, Series] = {}

    def batch(self, batch: Batch) -> None:
        """One batch has run."""
        self.batches += 1
        self.batch_rows += batch.rows

    def answered(self, endpoint: str, status: int, seconds: float, rows: int, by_fallback: int) -> None:
        """One request was answered; so many of its rows by models, some of them by the endpoint's fallback."""
        series = self._series.get(endpoint)
        if series is None:
            series = self._series[endpoint] = Series()
        statuses = series.statuses
        statuses[status] = statuses.get(status, 0) + 1
        histogram = series.seconds
        histogram[bisect_left(telemetry.BUCKETS, seconds)] += 1
        histogram[-1] += seconds
        series.rows += rows
        if by_fallback:
            series.fallbacks += by_fallback

    def snapshot(self, worker_restarts: int = 0) -> Snapshot:
        """All counts as JSON."""
        series = self._series
        return {
            telemetry.REQUESTS: {f"{n}|{status}": c for n, s in series.items() for status, c in s.statuses.items()},
            telemetry.SECONDS: {name: list(s.seconds) for name, s in series.items()},
            telemetry.ROWS: {name: s.rows for name, s in series.items() if s.rows},
            telemetry.FALLBACKS: {name: s.fallbacks for name, s in series.items() if s.fallbacks},
            telemetry.BATCHES: {"": self.batches},
            telemetry.BATCH_ROWS: {"": self.batch_rows},
            telemetry.IN_FLIGHT: {"": self.in_flight()},
            telemetry.WORKER_RESTARTS: {"": worker_restarts},
        }


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The sum of several gateways' counts; associative and commutative."""
    total: Snapshot = {}
    for snapshot in snapshots:
        for metric, series in snapshot.items():
            into = total.setdefault(metric, {})
            for labels, value in series.items():
                before = into.get(labels)
                if isinstance(value, list):
                    into[labels] = [a + b for a, b in zip(before, value, strict=True)] if before else list(value)
                else:
                    into[labels] = value + (before or 0)
    return total


def without_gauges(snapshot: Snapshot) -> Snapshot:
    """What a gateway that has ended leaves behind: its counters, not its momentary values."""
    return {name: series for name, series in snapshot.items() if telemetry.METRICS[name].kind != "gauge"}


def requests_and_errors(snapshot: Snapshot) -> tuple[int, int]:
    """All requests of a snapshot, and those answered with a status of 500 or more."""
    series: Mapping[str, int] = snapshot.get(telemetry.REQUESTS, {})
    return sum(series.values()), sum(count for key, count in series.items() if int(key.rpartition("|")[2]) >= 500)


def render(snapshot: Snapshot) -> str:
    """The Prometheus text format."""
    lines: list[str] = []
    for name, metric in telemetry.METRICS.items():
        series = snapshot.get(name)
        if series is None:
            continue
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        for key, value in sorted(series.items()):
            labels = _labels(metric.labels, key)
            if metric.kind == "histogram":
                lines += _histogram(name, labels, value)
            else:
                lines.append(f"{name}{_braces(labels)} {value}")
    return "\n".join(lines) + "\n"


def _histogram(name: str, labels: list[str], value: list[float]) -> list[str]:
    lines: list[str] = []
    running = 0.0
    for bound, count in zip([*map(str, telemetry.BUCKETS), "+Inf"], value[:-1], strict=True):
        running += count
        upto = [*labels, f'le="{bound}"']
        lines.append(f"{name}_bucket{_braces(upto)} {int(running)}")
    return [*lines, f"{name}_sum{_braces(labels)} {value[-1]}", f"{name}_count{_braces(labels)} {int(running)}"]


def _labels(names: tuple[str, ...], key: str) -> list[str]:
    if not names:
        return []
    values = key.rsplit("|", len(names) - 1)
    escaped = [value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in values]
    return [f'{name}="{value}"' for name, value in zip(names, escaped, strict=True)]


def _braces(labels: list[str]) -> str:
    return "{" + ",".join(labels) + "}" if labels else ""
