"""The statistics extension: what each version did in this gateway, counted once per batch.

With several gateways each counts its own requests, and an answer tells what the gateway that gives it has counted;
the admin port's metrics are the sum over all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

from retinue.core.routing import member_pattern
from retinue.core.state import ServedModel
from retinue.gateway.batcher import Batch

MAX_VERSIONS = 10_000  # that are counted; when there are more, those that ran longest ago are forgotten
MAX_SIZES = 128  # sizes of batches that are told apart; others count as the next power of two

Observe = Callable[[Batch], None]


class Release(Protocol):
    """What is read of a release: its endpoints, its models."""

    number: int

    @property
    def routes(self) -> Mapping[str, Any]:
        """Endpoints by name."""

    @property
    def models(self) -> Mapping[str, Any]:
        """Models by name."""


class ModelStatistics:
    """One version's counts; seconds. `ran` is called for each batch, `failed` for each request that a model failed."""

    __slots__ = ("_then", "batches", "fail", "failures", "last", "memory", "queue", "requests", "rows", "run", "sizes")

    def __init__(self, memory: int, then: Observe) -> None:
        self._then = then
        self.memory = memory
        self.batches = self.rows = self.requests = self.failures = 0
        self.queue = self.run = self.fail = 0.0
        self.last = 0.0  # the monotonic clock
        self.sizes: dict[int, list[float]] = {}  # rows → [batches, seconds]

    def ran(self, batch: Batch) -> None:
        """A batch has run: each of its requests waited on its own, and ran as long as the batch did."""
        items, began, seconds, rows = batch.items, batch.began, batch.seconds, batch.rows
        count = len(items)
        self.batches += 1
        self.rows += rows
        self.requests += count
        self.run += seconds * count
        self.queue += began - items[0].began if count == 1 else began * count - sum([item.began for item in items])
        self.last = began
        size = self.sizes.get(rows)
        if size is None:
            if len(self.sizes) >= MAX_SIZES:
                rows = 1 << (rows - 1).bit_length()
            size = self.sizes.setdefault(rows, [0, 0.0])
        size[0] += 1
        size[1] += seconds
        self._then(batch)

    def failed(self, seconds: float) -> None:
        """A request was not answered because the model failed, so long after it came."""
        self.failures += 1
        self.fail += seconds


class Statistics:
    """All versions that ran in this gateway."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], ModelStatistics] = {}
        self.looks: Mapping[str, Sequence[float]] = {}  # endpoint → hits of kept answers, their seconds, misses, theirs

    def observer(self, served: ServedModel, then: Observe) -> ModelStatistics:
        """What a batcher of that version tells of each batch and failure; of a batch, `then` is told in turn."""
        key = (served.name, served.version)
        found = self._of.get(key)
        if found is None:
            if len(self._of) >= MAX_VERSIONS:
                old = sorted(self._of, key=lambda key: self._of[key].last)[: MAX_VERSIONS // 4]
                for each in old:
                    del self._of[each]
            found = self._of[key] = ModelStatistics(served.memory, then)
        return found

    def of(self, release: Release, name: str | None) -> list[dict[str, Any]]:
        """`model_stats`: of one model or endpoint, or (None) of all models that have run.

        An endpoint's are the sum over the members it selects.
        """
        if name is None:
            return [_told(model, version, [one]) for (model, version), one in list(self._of.items())]
        route = release.routes.get(name)
        if route is None:
            version = release.models[name].served.version
            found = self._of.get((name, version))
            return [_told(name, version, [found] if found else [])]
        if route.keys:
            pattern = member_pattern(route.endpoint.select)
            members = [one for (model, _), one in list(self._of.items()) if pattern.fullmatch(model)]
        else:
            members = [one for (model, _), one in list(self._of.items()) if model == route.name]
        return [_told(name, str(release.number), members, self.looks.get(name, _NO_LOOKS))]


_NO_LOOKS = (0, 0.0, 0, 0.0)


def _told(
    name: str, version: str, found: Iterable[ModelStatistics], looks: Sequence[float] = _NO_LOOKS
) -> dict[str, Any]:
    """As the extension's JSON has it: nanoseconds, and milliseconds since 1970 for the last inference."""
    every = list(found)
    requests = sum(one.requests for one in every)
    queue, run = (sum(getattr(one, what) for one in every) for what in ("queue", "run"))
    last = max((one.last for one in every), default=0.0)
    sizes: dict[int, list[float]] = {}
    for one in every:
        for rows, (count, seconds) in one.sizes.items():
            into = sizes.setdefault(rows, [0, 0.0])
            into[0] += count
            into[1] += seconds
    nothing = _duration(0, 0.0)
    return {
        "name": name,
        "version": version,
        "last_inference": int((time.time() - (monotonic() - last)) * 1000) if last else 0,
        "inference_count": sum(one.rows for one in every),
        "execution_count": sum(one.batches for one in every),
        "inference_stats": {
            "success": _duration(requests, queue + run),
            "fail": _duration(sum(one.failures for one in every), sum(one.fail for one in every)),
            "queue": _duration(requests, queue),
            "compute_input": nothing,  # part of the run
            "compute_infer": _duration(requests, run),
            "compute_output": nothing,
            "cache_hit": _duration(int(looks[0]), looks[1]),
            "cache_miss": _duration(int(looks[2]), looks[3]),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": nothing,
                "compute_infer": _duration(int(count), seconds),
                "compute_output": nothing,
            }
            for rows, (count, seconds) in sorted(sizes.items())
        ],
        "memory_usage": [
            {"type": "CPU", "id": 0, "byte_size": one.memory} for one in every[:1] if one.memory and len(every) == 1
        ],
    }


def _duration(count: int, seconds: float) -> Mapping[str, int]:
    return {"count": count, "ns": max(0, round(seconds * 1e9))}
