"""Traces for OpenTelemetry, off unless an endpoint is configured; then told after the fact, off the loop's thread.

A request carries its times with it, so nothing is measured for a trace: when the answer is known, a sampled request
becomes spans with the starts and ends that were, and the SDK's own thread sends them. A caller's `traceparent` decides
whether its request is sampled, ours by share otherwise; more than `MOST` traced requests a second are not told, so
that callers cannot make tracing the work.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable
from importlib.util import find_spec
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from retinue.core.errors import UsageError
from retinue.gateway.calls import Call
from retinue.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

MOST = 200  # traced requests a second, of one gateway
_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_random = random.Random()  # noqa: S311  a share of requests, nobody's secret


class Parent(NamedTuple):
    """What a `traceparent` says."""

    trace: int
    span: int
    sampled: bool


class Tracing:
    """Makes spans of what has happened. Call from the loop's thread."""

    def __init__(
        self,
        provider: TracerProvider,
        sample: float,
        *,
        coin: Callable[[], float] = _random.random,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context

        self._trace = trace
        self._nothing = Context()  # a root: nothing that is current by accident is above it
        self._provider = provider
        self._tracer = provider.get_tracer("retinue.gateway")
        self._sample, self._coin, self._clock = sample, coin, clock
        self._second, self._told = 0.0, 0

    def answered(self, call: Call, status: int, seconds: float) -> None:
        """A request whose answer is known: a server's span, with the waiting and the running of each node below it."""
        head = getattr(call.to, "head", None)
        parent = read_parent(head.trace) if head is not None and head.trace is not None else None
        if not (parent.sampled if parent is not None else self._coin() < self._sample) or not self._may():
            return
        trace, start = self._trace, call.arrived
        method = getattr(head, "method", None)
        route = "/predict/{endpoint}" if call.partial else "/v2/models/{endpoint}/infer"
        facts: dict[str, Any] = {
            "retinue.endpoint": call.name,
            "retinue.portfolio": call.release.portfolio,
            "retinue.stage": call.release.stage,
            "retinue.release": call.release.number,
            "retinue.rows": call.rows,
            "retinue.prediction.id": call.id,
            "retinue.cached": call.kept is not None,
        }
        if call.client is not None:
            facts["user.id"] = call.client
        if method:
            name = f"{method.decode()} {route}"
            facts |= {"http.request.method": method.decode(), "http.route": route, "http.response.status_code": status}
        else:
            name = "inference.GRPCInferenceService/ModelInfer"
            facts |= {"rpc.system": "grpc", "rpc.method": name}
        if call.errors:
            facts["error.type"] = type(next(iter(call.errors.values()))).__name__
        span = self._tracer.start_span(
            name, self._below(parent), trace.SpanKind.SERVER, attributes=facts, start_time=start
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        below = trace.set_span_in_context(span)
        for model, version, rows, queued_at, queued, ran in _nodes(call):
            node = {"retinue.model": model, "retinue.version": version, "retinue.rows": rows}
            begun = queued_at + int(queued * 1e9)
            self._span(f"queue {model}", below, node, queued_at, begun)
            self._span(f"run {model}", below, node, begun, begun + int(ran * 1e9))
        span.end(start + int(seconds * 1e9))

    def loaded(self, model: str, version: str, seconds: float, error: str | None = None) -> None:
        """A model was loaded, or could not be, in so many seconds until now."""
        if not self._may():
            return
        now = time_ns()
        facts = {"retinue.model": model, "retinue.version": version, **({"error.type": error} if error else {})}
        self._span(f"load {model}", self._nothing, facts, now - int(seconds * 1e9), now)

    def close(self) -> None:
        """Send what waits, for at most two seconds."""
        self._provider.force_flush(2000)
        self._provider.shutdown()

    def _may(self) -> bool:
        now = self._clock()
        if now - self._second >= 1.0:
            self._second, self._told = now, 0
        self._told += 1
        return self._told <= MOST

    def _below(self, parent: Parent | None) -> Any:
        if parent is None:
            return self._nothing
        flags = self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED)
        context = self._trace.SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=flags)
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(context))

    def _span(self, name: str, below: Any, facts: dict[str, Any], start: int, end: int) -> None:
        self._tracer.start_span(name, below, attributes=facts, start_time=start).end(end)


def read_parent(text: bytes) -> Parent | None:
    """A W3C `traceparent`; None for one that is not valid, which counts as none."""
    found = _PARENT.fullmatch(text.strip()) if len(text) <= 256 else None
    if found is None or text.startswith(b"ff") or (text.startswith(b"00") and found[4] is not None):
        return None
    trace, span = int(found[1], 16), int(found[2], 16)
    return Parent(trace, span, bool(int(found[3], 16) & 1)) if trace and span else None


def tracing_of(settings: Settings, tell: Callable[[str, str], None] = lambda event, text: None) -> Tracing | None:
    """Tracing as settings or OTEL_EXPORTER_OTLP_ENDPOINT ask for it; None when nobody does.

    Raises UsageError when settings ask for it and the packages are not there.
    """
    endpoint = settings.telemetry_endpoint
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if not endpoint and not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    check_telemetry(settings)
    if not _installed():
        return None  # the variable may be meant for others
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    _listen(tell)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # it would tell every retry on standard error
    url = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
    return Tracing(provider_of(OTLPSpanExporter(endpoint=url, timeout=5)), settings.telemetry_sample)


def check_telemetry(settings: Settings) -> None:
    """Raise UsageError when settings ask for traces and the packages that make them are not there."""
    if settings.telemetry_endpoint and not _installed():
        raise UsageError(
            "[telemetry] endpoint is set, but OpenTelemetry is not installed",
            hint="Install `retinue[otel]`, or remove the setting.",
        )
    if settings.telemetry_endpoint and not settings.telemetry_endpoint.startswith(("http://", "https://")):
        raise UsageError(
            f"[telemetry] endpoint {settings.telemetry_endpoint!r:.120} is no URL",
            hint="Write the base URL of a collector that takes OTLP over HTTP: http://localhost:4318.",
        )


def _installed() -> bool:
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.exporter") is not None


def provider_of(exporter: SpanExporter) -> TracerProvider:
    """A provider that sends in batches from a thread of its own; what is over its queue is dropped."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    resource = Resource.create(
        {"service.name": os.environ.get("OTEL_SERVICE_NAME", "retinue"), "process.pid": os.getpid()}
    )
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _nodes(call: Call) -> list[tuple[str, str, int, int, float, float]]:
    """(model, version, rows, when it was queued in ns since 1970, seconds queued, seconds run) of each node."""
    if call.kept is not None:
        return []
    found = []
    for group in call.groups:
        for run in group.runs:
            if run.outputs is not None:
                served = group.plan.models[run.index].served
                queued_at = call.arrived + int((run.began - call.began) * 1e9)
                found.append((served.name, served.version, run.rows, queued_at, run.queued, run.seconds))
    return found


class _Listener(logging.Handler):
    def __init__(self, tell: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell("telemetry.failed", record.getMessage()[:500])


def _listen(tell: Callable[[str, str], None]) -> None:
    """What the SDK complains of, such as a collector that is down, goes to our log, once in a while."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_Listener(tell)]
