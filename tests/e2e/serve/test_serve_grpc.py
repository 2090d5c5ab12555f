"""The gRPC door of real processes: over TLS, with keys, gateways killed under load, and what is journalled of it."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.e2e.serve.conftest import until
from tests.gateway.certificates import make

from retinue.core.access import ClientRecord, new_key
from retinue.core.state import ServedCache, ServedEndpoint
from retinue.gateway.grpc_messages import message
from retinue.store.accessfile import write_access
from retinue.store.journal import list_segments, read_segment

grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.e2e
INFER = "/inference.GRPCInferenceService/ModelInfer"


def asked(value: float, name: str = "line", rows: int = 1) -> bytes:
    request = message("ModelInferRequest")(model_name=name, id=f"i{value:g}")
    request.inputs.add(name="x", datatype="FP64", shape=[rows])
    request.raw_input_contents.append(np.full(rows, value).tobytes())
    return bytes(request.SerializeToString())


def told(data: bytes) -> list[float]:
    found = message("ModelInferResponse").FromString(data)
    values: list[float] = np.frombuffer(found.raw_output_contents[0]).tolist()
    return values


def test_over_tls_with_keys_large_and_packed_and_the_http_door_beside_it(stage: Any, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    make(certificate, key, "first")
    stage.publish(1, [stage.model("line", "v1", slopes=(2.0,))])
    text, record = new_key(bytes(range(37)), "2026-01-01T00:00:00Z")
    write_access(stage.folder, "shop", [ClientRecord("ann", allow=("line",), keys=(record,))])
    running = stage.start(grpc_port=0, tls_certificate=str(certificate), tls_key=str(key))
    where = f"localhost:{running.record.grpc_port}"
    trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
    large = [("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(where, trusted, options=large, compression=grpc.Compression.Gzip) as channel:
        infer = channel.unary_unary(INFER)
        for name in ("retinue-key", "authorization"):
            metadata = [(name, text if name == "retinue-key" else f"Bearer {text}")]
            for _ in range(3):
                assert told(infer(asked(4.0), metadata=metadata, timeout=20)) == [8.0]
        assert told(infer(asked(4.0, rows=50_000), metadata=metadata, timeout=20)) == [8.0] * 50_000
        for wrong, code in ((None, "UNAUTHENTICATED"), ("nobody", "UNAUTHENTICATED")):
            with pytest.raises(grpc.RpcError) as refused:
                infer(asked(4.0), metadata=[("retinue-key", wrong)] if wrong else None, timeout=20)
            assert refused.value.code().name == code
    with pytest.raises(grpc.RpcError), grpc.insecure_channel(where) as channel:
        channel.unary_unary(INFER)(asked(1.0), timeout=3)
    answer = httpx.get(f"https://localhost:{running.record.port}/v2/health/live", verify=False)
    assert answer.status_code == 200


def test_a_gateway_killed_under_grpc_load_loses_no_answered_prediction(stage: Any) -> None:
    stage.publish(1, [stage.model("line", "v1", slopes=(2.0,))])
    running = stage.start(grpc_port=0, gateways=2, memory="1GiB")
    where = f"127.0.0.1:{running.record.grpc_port}"
    answered: set[str] = set()
    codes: Counter[str] = Counter()
    stop = threading.Event()

    def load(first: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50)]
        number = first
        with grpc.insecure_channel(where, options=options) as channel:
            infer = channel.unary_unary(INFER)
            while not stop.is_set():
                number += 1
                try:
                    assert told(infer(asked(float(number)), timeout=10, wait_for_ready=True)) == [2.0 * number]
                except grpc.RpcError as error:
                    codes[error.code().name] += 1
                else:
                    answered.add(f"i{number:g}")
                    codes["OK"] += 1

    threads = [threading.Thread(target=load, args=(lane * 100_000,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for kill in range(3):
        until(lambda: codes["OK"] > 100 * (kill + 1), 30, "answers")  # noqa: B023  it is called at once
        before = {gateway["pid"] for gateway in running.status()["gateways"]}
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len({g["pid"] for g in running.status()["gateways"]} - before) == 1, 30, "another")  # noqa: B023
    stop.set()
    for thread in threads:
        thread.join()
    assert set(codes) <= {"OK", "UNAVAILABLE"}
    assert codes["UNAVAILABLE"] <= 3 * len(threads)
    assert running.stop() == 0
    segments = list_segments(stage.settings.journal("shop", "prod"))
    journalled = {record.client_id for segment in segments for record in read_segment(segment).requests}
    assert answered <= journalled
    assert len(answered) > 300


def test_statistics_count_what_a_response_cache_found_and_missed(stage: Any) -> None:
    endpoints = {"again": ServedEndpoint("again", "line", cache=ServedCache(60.0, 10))}
    stage.publish(1, [stage.model("line", "v1", slopes=(2.0,))], endpoints)
    running = stage.start(grpc_port=0)
    with grpc.insecure_channel(f"127.0.0.1:{running.record.grpc_port}") as channel:
        infer = channel.unary_unary(INFER)
        assert [told(infer(asked(value, "again"), timeout=10)) for value in (1.0, 1.0, 2.0, 1.0)] == [
            [2.0], [2.0], [4.0], [2.0],
        ]  # fmt: skip
        request = message("ModelStatisticsRequest")(name="again").SerializeToString()
        data = channel.unary_unary("/inference.GRPCInferenceService/ModelStatistics")(request, timeout=10)
    (found,) = message("ModelStatisticsResponse").FromString(data).model_stats
    counts = found.inference_stats
    assert (counts.cache_hit.count, counts.cache_miss.count) == (2, 2)
    assert counts.cache_hit.ns > 0


def test_what_cannot_be_written_or_listened_on_is_a_clear_error_at_start(stage: Any) -> None:
    stage.publish(1, [stage.model("line", "v1")])
    for settings, words in (
        ({"log_file": str(stage.settings.directory)}, ("log file", "cannot be written: Is a directory", "[log] file")),
        ({"host": "192.0.2.1"}, ("cannot listen on 192.0.2.1:0: Cannot assign requested address\n", "[serve] host")),
        ({"host": "no such host"}, ("cannot listen on no such host:0: ", "[serve] host")),
    ):
        process = stage.launch(**settings)
        said = process.communicate(timeout=20)[1]
        assert process.returncode == 1
        assert all(word in said for word in words), said
