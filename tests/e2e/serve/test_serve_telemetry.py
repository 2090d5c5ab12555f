"""Traces reach a real collector, logs a real file; neither holds what clients sent."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.e2e.serve.conftest import Stage, until

from retinue.core.state import ServedEndpoint, ServedNeed

pytestmark = pytest.mark.e2e
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> dict[str, tuple[str, str]]:
        """Name → (trace id, parent's id)."""
        found: dict[str, tuple[str, str]] = {}
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found |= {span.name: (span.trace_id.hex(), span.parent_span_id.hex()) for span in scope.spans}
        return found


class Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_traced_request_through_a_graph_reaches_the_collector_below_its_caller(
    stage: Stage, collector: Collector
) -> None:
    up = stage.model("up", "u1", target="u")
    down = stage.model("down", "d1", ("x", "u"), (1.0, 1.0), needs=(ServedNeed("up", "u", "u", {}),))
    stage.publish(1, [up, down], {"arrival": ServedEndpoint("arrival", "down")})
    running = stage.start(telemetry_endpoint=collector.url, telemetry_sample=0.0)
    row = {"rows": [{"x": 2.0, "note": "a-secret-of-the-client"}]}
    assert httpx.post(f"{running.url}/predict/arrival", json=row).status_code == 200  # not sampled
    traced = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert httpx.post(f"{running.url}/predict/arrival", json=row, headers=traced).status_code == 200
    assert running.stop() == 0  # what waits is sent at the end
    spans = collector.spans()
    assert spans["POST /predict/{endpoint}"] == (TRACE, SPAN)
    assert {"queue up", "run up", "queue down", "run down", "load up", "load down"} <= spans.keys()
    assert {spans[name][0] for name in ("run up", "run down")} == {TRACE}
    assert not any(b"a-secret-of-the-client" in body for body in collector.bodies)


def test_a_collector_that_is_down_costs_no_request_and_is_logged(stage: Stage) -> None:
    stage.publish(1, [stage.model("m", "v1")], {"arrival": ServedEndpoint("arrival", "m")})
    log = stage.settings.directory / "serve.log"
    running = stage.start(
        telemetry_endpoint="http://127.0.0.1:9", telemetry_sample=1.0, log_file=str(log), log_level="info"
    )
    for _ in range(50):
        assert httpx.post(f"{running.url}/predict/arrival", json={"x": 1.0}).status_code == 200
    assert running.stop() == 0
    assert "telemetry.failed" in {json.loads(line)["event"] for line in log.read_text().splitlines()}


def test_what_happens_is_logged_as_lines_of_json_without_payloads_or_keys(stage: Stage) -> None:
    stage.publish(1, [stage.model("m", "v1")], {"arrival": ServedEndpoint("arrival", "m")})
    log = stage.settings.directory / "serve.log"
    running = stage.start(log_file=str(log), log_level="info", log_slow=0.000_001)
    secret = {"x": 2.0, "note": "a-secret-of-the-client"}
    assert httpx.post(f"{running.url}/predict/arrival", json=secret).status_code == 200
    stage.publish(2, [stage.model("m", "v2")], {"arrival": ServedEndpoint("arrival", "m")})
    running.wait(2)
    (stage.folder / "3.release").write_bytes(b"junk")
    (stage.folder / "current").write_text("3 0000\n", encoding="ascii")

    def events() -> set[str]:
        return {json.loads(line)["event"] for line in log.read_text(encoding="utf-8").splitlines()}

    until(lambda: "release.refused" in events(), 10, "the refusal in the log")
    pid = running.status()["gateways"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: "gateway.died" in events(), 10, "the death in the log")
    until(lambda: any(g["serving"] for g in running.status()["gateways"]), 15, "its successor")
    assert running.stop() == 0
    assert {"server.started", "release.changed", "request.slow", "server.stopping"} <= events()
    assert "a-secret-of-the-client" not in log.read_text(encoding="utf-8")
