"""Counts of versions: per batch, per request, over an endpoint's members; bounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from retinue.core.routing import placeholders
from retinue.core.state import ServedEndpoint, ServedModel
from retinue.gateway import statistics
from retinue.gateway.batcher import Batch
from retinue.gateway.statistics import Statistics


@dataclass
class Waits:
    began: float


@dataclass
class Loaded:
    served: ServedModel


@dataclass
class Way:
    endpoint: ServedEndpoint
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.endpoint.select


@dataclass
class Held:
    number: int = 7
    models: dict[str, Any] = field(default_factory=dict)
    routes: dict[str, Any] = field(default_factory=dict)


def served(name: str, memory: int = 0) -> ServedModel:
    return ServedModel(name, f"{name}-v1", "a", "onnx", {}, "e", memory=memory)


def batch(rows: int, seconds: float, *began: float) -> Batch:
    items: Any = [Waits(moment) for moment in began]
    made = Batch(items, rows, 10.0)
    made.seconds = seconds
    return made


def test_each_request_waits_on_its_own_and_runs_as_long_as_its_batch() -> None:
    counts = Statistics()
    seen: list[Batch] = []
    version = counts.observer(served("m", memory=4096), seen.append)
    observe = version.ran
    observe(batch(1, 0.5, 9.0))
    observe(batch(5, 0.25, 9.5, 9.75))
    version.failed(2.0)
    (told,) = counts.of(Held(models={"m": Loaded(served("m"))}), "m")
    assert (told["name"], told["version"], told["inference_count"], told["execution_count"]) == ("m", "m-v1", 6, 2)
    spent = told["inference_stats"]
    assert spent["queue"] == {"count": 3, "ns": 1_750_000_000}
    assert spent["compute_infer"] == {"count": 3, "ns": 1_000_000_000}
    assert spent["success"] == {"count": 3, "ns": 2_750_000_000}
    assert spent["fail"] == {"count": 1, "ns": 2_000_000_000}
    assert [(size["batch_size"], size["compute_infer"]["count"]) for size in told["batch_stats"]] == [(1, 1), (5, 1)]
    assert told["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 4096}]
    assert told["last_inference"] > 0
    assert len(seen) == 2


def test_an_endpoint_is_the_sum_of_its_members() -> None:
    counts = Statistics()
    for name in ("late-JFK", "late-LGA", "other"):
        counts.observer(served(name), lambda made: None).ran(batch(2, 0.5, 10.0))
    route = Way(ServedEndpoint("late", "late-{origin}"), placeholders("late-{origin}"))
    single = Way(ServedEndpoint("one", "other"), ())
    release = Held(routes={"late": route, "one": single})
    assert [(t["version"], t["inference_count"]) for t in counts.of(release, "late")] == [("7", 4)]
    assert [t["inference_count"] for t in counts.of(release, "one")] == [2]
    assert [t["name"] for t in counts.of(release, None)] == ["late-JFK", "late-LGA", "other"]


def test_a_model_that_never_ran_has_counts_of_zero() -> None:
    (told,) = Statistics().of(Held(models={"m": Loaded(served("m"))}), "m")
    assert (told["inference_count"], told["last_inference"], told["batch_stats"]) == (0, 0, [])


def test_versions_and_sizes_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(statistics, "MAX_VERSIONS", 8)
    counts = Statistics()
    for number in range(50):
        made = batch(1, 0.1, 10.0)
        made.began = 10.0 + number
        counts.observer(served(f"m{number}"), lambda made: None).ran(made)
    told = counts.of(Held(), None)
    assert len(told) <= 8
    assert told[-1]["name"] == "m49"
    observe = counts.observer(served("m49"), lambda made: None).ran
    for rows in range(1, 4000):
        observe(batch(rows, 0.1, 10.0))
    last = counts.of(Held(), None)[-1]
    assert len(last["batch_stats"]) <= statistics.MAX_SIZES + 12
    assert sum(size["compute_infer"]["count"] for size in last["batch_stats"]) == 4000
