from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from retinue.core.errors import UsageError
from retinue.gateway.tracing import MOST, Parent, Tracing, check_telemetry, read_parent, tracing_of
from retinue.settings import Settings

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, LEFT_OUT = f"00-{TRACE}-{SPAN}-01".encode(), f"00-{TRACE}-{SPAN}-00".encode()


class Told:
    """Tracing into memory, with a clock that stands still until it is moved."""

    def __init__(self, sample: float = 0.0) -> None:
        self.memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.now = 0.0
        self.tracing = Tracing(provider, sample, coin=lambda: 0.5, clock=lambda: self.now)

    @property
    def spans(self) -> Any:
        return self.memory.get_finished_spans()


def call(trace: bytes | None = None, **changes: Any) -> Any:
    """A call of one row: queued at once for 2 ms, 3 ms of running."""
    served = SimpleNamespace(name="m", version="v1")
    run = SimpleNamespace(index=0, rows=1, began=50.0, queued=0.002, seconds=0.003, outputs={})
    group = SimpleNamespace(plan=SimpleNamespace(models=[SimpleNamespace(served=served)]), runs=[run])
    return SimpleNamespace(
        **{
            "to": SimpleNamespace(head=SimpleNamespace(trace=trace, method=b"POST")),
            "release": SimpleNamespace(portfolio="shop", stage="prod", number=7),
            "name": "arrival", "rows": 1, "id": "id", "client": "web", "partial": True, "errors": {}, "kept": None,
            "arrived": 1_000_000_000, "began": 50.0, "groups": [group],
            **changes,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SAMPLED, Parent(int(TRACE, 16), int(SPAN, 16), True)),
        (LEFT_OUT, Parent(int(TRACE, 16), int(SPAN, 16), False)),
        (SAMPLED.replace(b"00-", b"01-", 1) + b"-more", Parent(int(TRACE, 16), int(SPAN, 16), True)),
        (SAMPLED + b"-more", None),
        (SAMPLED.replace(b"00-", b"ff-", 1), None),
        (SAMPLED.upper(), None),
        (b"00-" + b"0" * 32 + b"-" + SPAN.encode() + b"-01", None),
        (b"00-" + TRACE.encode() + b"-" + b"0" * 16 + b"-01", None),
        (b"", None),
        (b"junk", None),
        (b"0" * 100_000, None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says_and_an_invalid_one_counts_as_none(text: bytes, found: Parent | None) -> None:
    assert read_parent(text) == found


def test_a_request_becomes_a_span_below_its_callers_with_queue_and_run_below_it() -> None:
    told = Told()
    told.tracing.answered(call(SAMPLED), 200, 0.006)
    queue, run, server = told.spans
    assert (queue.name, run.name, server.name) == ("queue m", "run m", "POST /predict/{endpoint}")
    assert format(server.context.trace_id, "032x") == TRACE
    assert format(server.parent.span_id, "016x") == SPAN
    assert queue.parent.span_id == run.parent.span_id == server.context.span_id
    assert (server.start_time, server.end_time) == (1_000_000_000, 1_006_000_000)
    assert (queue.start_time, queue.end_time) == (1_000_000_000, 1_002_000_000)
    assert (run.start_time, run.end_time) == (1_002_000_000, 1_005_000_000)
    facts = dict(server.attributes)
    assert (facts["http.request.method"], facts["http.response.status_code"], facts["user.id"]) == ("POST", 200, "web")
    assert (facts["retinue.endpoint"], facts["retinue.release"], facts["retinue.cached"]) == ("arrival", 7, False)
    assert dict(run.attributes) == {"retinue.model": "m", "retinue.version": "v1", "retinue.rows": 1}


def test_the_caller_decides_whether_its_request_is_told_and_a_share_of_the_others_is() -> None:
    for sample, trace, expected in (
        (1.0, LEFT_OUT, 0), (0.0, SAMPLED, 3), (0.0, None, 0), (1.0, None, 3), (0.4, None, 0), (0.6, b"junk", 3),
    ):  # fmt: skip
        told = Told(sample)
        told.tracing.answered(call(trace), 200, 0.006)
        assert len(told.spans) == expected, (sample, trace)


def test_an_error_and_a_repeated_answer_are_told_as_such() -> None:
    told = Told(1.0)
    told.tracing.answered(call(errors={0: UsageError("x")}, groups=[]), 503, 0.001)
    told.tracing.answered(call(kept=object()), 200, 0.001)
    failed, repeated = told.spans
    assert failed.attributes["error.type"] == "UsageError"
    assert failed.status.status_code.name == "ERROR"
    assert repeated.attributes["retinue.cached"] is True


def test_callers_cannot_make_tracing_the_work() -> None:
    told = Told()
    for _ in range(3 * MOST):
        told.tracing.answered(call(SAMPLED, groups=[]), 200, 0.001)
    assert len(told.spans) == MOST
    told.now = 1.0
    told.tracing.answered(call(SAMPLED, groups=[]), 200, 0.001)
    assert len(told.spans) == MOST + 1


def test_a_load_is_a_trace_of_its_own() -> None:
    told = Told()
    told.tracing.loaded("m", "v1", 0.25)
    told.tracing.loaded("m", "v2", 0.0, "no such file")
    good, bad = told.spans
    assert good.name == "load m"
    assert good.end_time - good.start_time == 250_000_000
    assert bad.attributes["error.type"] == "no such file"


def test_nothing_is_traced_unless_somebody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert tracing_of(Settings(tmp_path, "", "")) is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing_of(Settings(tmp_path, "", "", telemetry_endpoint="http://localhost:1")) is None


def test_an_endpoint_that_is_no_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'localhost:4318' is no URL"):
        check_telemetry(Settings(tmp_path, "", "", telemetry_endpoint="localhost:4318"))
