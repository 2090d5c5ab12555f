"""Counts add up over gateways, whatever the order, and read as Prometheus text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retinue import telemetry
from retinue.gateway.batcher import Batch
from retinue.gateway.meter import Meter, Snapshot, merge, render, requests_and_errors, without_gauges

EVENTS = st.lists(st.tuples(st.sampled_from(["a", "b|c"]), st.sampled_from([200, 400, 503]), st.integers(0, 40)))


def _snapshot(events: list[tuple[str, int, int]]) -> Snapshot:
    meter = Meter()
    for endpoint, status, seconds in events:
        meter.answered(endpoint, status, float(seconds), 2, 1)
        meter.batch(Batch([], 2, 0.0))
    return meter.snapshot()


@given(EVENTS, EVENTS, EVENTS)
def test_merging_is_associative_and_commutative_and_nothing_is_lost(
    a: list[tuple[str, int, int]], b: list[tuple[str, int, int]], c: list[tuple[str, int, int]]
) -> None:
    x, y, z = _snapshot(a), _snapshot(b), _snapshot(c)
    assert merge([merge([x, y]), z]) == merge([x, merge([y, z])])
    assert merge([x, y]) == merge([y, x])
    assert merge([x, y, z]) == _snapshot([*a, *b, *c])
    total, errors = requests_and_errors(merge([x, y, z]))
    assert total == len([*a, *b, *c])
    assert errors == sum(status >= 500 for _, status, _ in [*a, *b, *c])


def test_the_text_has_cumulative_buckets_and_escaped_labels() -> None:
    text = render(_snapshot([('q"', 200, 0), ('q"', 200, 1), ('q"', 503, 40)]))
    assert 'retinue_requests_total{endpoint="q\\"",status="200"} 2' in text
    assert 'retinue_request_seconds_bucket{endpoint="q\\"",le="0.0005"} 1' in text
    assert 'retinue_request_seconds_bucket{endpoint="q\\"",le="1.0"} 2' in text
    assert 'retinue_request_seconds_bucket{endpoint="q\\"",le="+Inf"} 3' in text
    assert 'retinue_request_seconds_sum{endpoint="q\\""} 41.0' in text
    assert "retinue_batches_total 3" in text
    assert all(line.startswith(("#", "retinue_")) for line in text.splitlines())


def test_a_gateway_that_ended_leaves_its_counters_and_no_gauges() -> None:
    left = without_gauges(_snapshot([("a", 200, 0)]))
    assert telemetry.REQUESTS in left
    assert telemetry.IN_FLIGHT not in left
