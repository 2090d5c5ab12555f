"""The table of metric names: everything that is emitted is named here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One Prometheus metric: what kind it is, what it says, its labels."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


REQUESTS = "retinue_requests_total"
SECONDS = "retinue_request_seconds"
ROWS = "retinue_rows_total"
FALLBACKS = "retinue_fallback_rows_total"
BATCHES = "retinue_batches_total"
BATCH_ROWS = "retinue_batch_rows_total"
IN_FLIGHT = "retinue_in_flight"
RELEASE = "retinue_release"
GATEWAYS = "retinue_gateways"
GATEWAY_RESTARTS = "retinue_gateway_restarts_total"
WORKER_RESTARTS = "retinue_worker_restarts_total"
QUARANTINED = "retinue_quarantined"
DEMOTED = "retinue_demoted_models"
MODELS_LOADED = "retinue_models_loaded"
CACHE_BYTES = "retinue_model_cache_bytes"
CACHE_BUDGET = "retinue_model_cache_budget_bytes"
CACHE_MISSES = "retinue_model_cache_misses_total"
LOADS = "retinue_model_loads_total"
LOAD_SECONDS = "retinue_model_load_seconds_total"
LOAD_FAILURES = "retinue_model_load_failures_total"
EVICTIONS = "retinue_model_evictions_total"
JOURNAL_RECORDS = "retinue_journal_records_total"
JOURNAL_BYTES = "retinue_journal_bytes_total"
JOURNAL_SAMPLED_OUT = "retinue_journal_sampled_out_total"
UNJOURNALLED = "retinue_unjournalled_answers_total"
JOURNAL_STOPPED = "retinue_journal_stopped"
JOURNAL_LAG = "retinue_journal_lag_seconds"
ANSWERS_REPEATED = "retinue_answer_cache_hits_total"
ANSWERS_NOT_KNOWN = "retinue_answer_cache_misses_total"
ANSWERS_BYTES = "retinue_answer_cache_bytes"

METRICS: Mapping[str, Metric] = {
    REQUESTS: Metric("counter", "Requests answered, by endpoint and HTTP status.", ("endpoint", "status")),
    SECONDS: Metric("histogram", "Seconds from a request's last byte to its answer.", ("endpoint",)),
    ROWS: Metric("counter", "Rows answered by a model.", ("endpoint",)),
    FALLBACKS: Metric("counter", "Rows answered by an endpoint's fallback.", ("endpoint",)),
    BATCHES: Metric("counter", "Batches run."),
    BATCH_ROWS: Metric("counter", "Rows run in batches."),
    IN_FLIGHT: Metric("gauge", "Requests admitted and not yet answered."),
    RELEASE: Metric("gauge", "Number of the release that is served, 0 for none."),
    GATEWAYS: Metric("gauge", "Gateway processes that serve."),
    GATEWAY_RESTARTS: Metric("counter", "Gateway processes started in place of dead ones."),
    WORKER_RESTARTS: Metric("counter", "Worker processes started in place of dead ones."),
    QUARANTINED: Metric("gauge", "Gateways whose workers do not run the model because it ended them.", ("model",)),
    DEMOTED: Metric("gauge", "Versions that run in a process of their own because gateways died of them."),
    MODELS_LOADED: Metric("gauge", "Models that are loaded, each counted in every gateway that has it."),
    CACHE_BYTES: Metric("gauge", "Bytes that loaded models take, corrected by what processes really take."),
    CACHE_BUDGET: Metric("gauge", "Bytes that loaded models may take."),
    CACHE_MISSES: Metric("counter", "Runs that found their model not loaded."),
    LOADS: Metric("counter", "Models loaded."),
    LOAD_SECONDS: Metric("counter", "Seconds that loading took."),
    LOAD_FAILURES: Metric("counter", "Models that could not be loaded."),
    EVICTIONS: Metric("counter", "Models unloaded to make room."),
    JOURNAL_RECORDS: Metric("counter", "Answered requests written to the journal."),
    JOURNAL_BYTES: Metric("counter", "Bytes written to the journal."),
    JOURNAL_SAMPLED_OUT: Metric("counter", "Journalled requests whose tensors were not kept: over budget or by wish."),
    UNJOURNALLED: Metric("counter", "Answers that left without a record in the journal."),
    JOURNAL_STOPPED: Metric("gauge", "Gateways that cannot write their journal, such as on a full disk."),
    JOURNAL_LAG: Metric("gauge", "Seconds since the oldest segment that waits to be compacted was begun."),
    ANSWERS_REPEATED: Metric("counter", "Answers that were given again, of endpoints with a cache."),
    ANSWERS_NOT_KNOWN: Metric("counter", "Questions to endpoints with a cache that had to be answered."),
    ANSWERS_BYTES: Metric("gauge", "Bytes of the answers that are kept, roughly."),
}

BUCKETS: Sequence[float] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds of the latency histogram, in seconds; one more bucket is unbounded."""

DIRECT = "(models)"
"""The `endpoint` label of requests that name a model itself: thousands of models must not be thousands of series."""
