"""Where servers of the protocol and their clients misunderstand each other: each trap has its test."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx
import pytest
from tests.e2e.serve.conftest import Running

from retinue.gateway.grpc_messages import message

pytestmark = pytest.mark.e2e

ONE = {"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": [1.5]}]}


@pytest.fixture
def http(server: Running) -> Any:
    with httpx.Client(base_url=server.url) as client:
        yield client


def call(server: Running, method: str, data: bytes, **metadata: str) -> bytes:
    with grpc.insecure_channel(f"127.0.0.1:{server.record.grpc_port}") as channel:
        found: bytes = channel.unary_unary(method)(data, timeout=10, metadata=tuple(metadata.items()))
        return found


def test_1_health_is_json_under_its_own_key(http: httpx.Client) -> None:
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready":true}', b"null"])
@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/mine/index"])
def test_2_the_index_is_asked_for_with_no_body_too(http: httpx.Client, body: bytes, path: str) -> None:
    answer = http.post(path, content=body)
    if body == b"null":
        assert answer.status_code == 400
        return
    assert answer.status_code == 200
    names = {row["name"] for row in answer.json()}
    assert ("broken" in names) is (b"true" not in body)


def test_3_kserve_puts_the_model_s_name_where_triton_has_the_repository(server: Running) -> None:
    method = "/inference.GRPCInferenceService/RepositoryModelLoad"
    for data in (b"\x0a\x04line", b"\x12\x04line"):
        found = message("RepositoryModelLoadResponse").FromString(call(server, method, data))
        assert (found.model_name, found.isLoaded) == ("line", True)


def test_4_a_stream_answers_with_triton_s_message(server: Running) -> None:
    asked = message("ModelInferRequest")(model_name="one", id="x")
    asked.inputs.add(name="a", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.5)
    with grpc.insecure_channel(f"127.0.0.1:{server.record.grpc_port}") as channel:
        method = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        (data,) = list(method(iter([asked.SerializeToString()]), timeout=10))
    found = message("ModelStreamInferResponse").FromString(data)
    assert found.error_message == ""
    assert found.infer_response.outputs[0].contents.fp64_contents[:] == [3.0]  # typed in, typed out


def test_5_another_package_s_service_is_unimplemented(server: Running) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(server, "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ServerLive", b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/models/one/infer", b"{", 400),
        ("/v2/models/one/infer", b'{"inputs":[]}', 400),
        ("/v2/models/nope/infer", json.dumps(ONE).encode(), 404),
        ("/v2/models/broken/infer", json.dumps(ONE).encode(), 503),
        ("/v2/nothing", b"", 404),
        ("/v2/repository/models/nope/load", b"", 404),
        ("/v2/repository/models/late/load", b"", 400),
        ("/v2/repository/models/one/load", b'{"parameters":{"config":"{}"}}', 400),
    ],
)
def test_6_an_error_is_said_under_error(http: httpx.Client, path: str, body: bytes, status: int) -> None:
    answer = http.post(path, content=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert ("retry-after" in answer.headers) is (status == 503)


def test_7_a_version_is_any_text_and_the_one_that_answered_is_told(http: httpx.Client) -> None:
    answer = http.post("/v2/models/one/versions/one-v1/infer", json=ONE).json()
    assert answer["model_version"] == "one-v1"
    assert http.post("/v2/models/one/versions/2/infer", json=ONE).status_code == 404
    assert http.get("/v2/models/one/versions/one%2Dv1/config").json()["name"] == "one"


def test_8_a_broken_model_is_not_ready_and_does_not_make_the_server_unready(http: httpx.Client) -> None:
    assert http.get("/v2/health/ready").status_code == 200
    assert http.get("/v2/models/broken/ready").status_code == 503
    assert http.get("/v2/models/one/ready").status_code == 200


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "one"])
def test_8_the_health_service_says_the_same(server: Running, service: str) -> None:
    asked = message("grpc.health.v1.HealthCheckRequest")(service=service).SerializeToString()
    kind = message("grpc.health.v1.HealthCheckResponse")
    assert kind.FromString(call(server, "/grpc.health.v1.Health/Check", asked)).status == 1
    broken = message("grpc.health.v1.HealthCheckRequest")(service="broken").SerializeToString()
    assert kind.FromString(call(server, "/grpc.health.v1.Health/Check", broken)).status == 2


@pytest.mark.parametrize("outputs", [[{"name": "z"}], [{"name": "y"}, {"name": "y"}]])
def test_9_outputs_that_do_not_exist_or_are_named_twice_are_refused(http: httpx.Client, outputs: Any) -> None:
    assert http.post("/v2/models/one/infer", json={**ONE, "outputs": outputs}).status_code == 400


def test_10_the_specification_s_own_example_contradicts_itself_and_is_refused(http: httpx.Client) -> None:
    tensor = {"name": "a", "shape": [3], "datatype": "FP32", "data": [1.0]}
    answer = http.post("/v2/models/one/infer", json={"inputs": [tensor]})
    assert (answer.status_code, answer.json()["error"]) == (400, "input 'a' has 1 values, its shape [3] says 3")


# ------------------------------------------------------------------------------------ what no client library sends
def test_a_raw_request_is_answered_in_bytes(http: httpx.Client) -> None:
    header = {"Inference-Header-Content-Length": "0"}
    answer = http.post("/v2/models/one/infer", content=bytes(8), headers=header)
    size = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert json.loads(answer.content[:size])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert answer.content[size:] == bytes(8)


def test_a_body_in_chunks_may_hold_binary_tensors(http: httpx.Client) -> None:
    entry = {"name": "a", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}
    text = json.dumps({"inputs": [entry]}).encode()
    header = {"inference-header-content-length": str(len(text))}
    answer = http.post("/v2/models/one/infer", content=iter([text[:9], text[9:] + bytes(3), bytes(5)]), headers=header)
    assert answer.json()["outputs"][0]["data"] == [0.0]


def test_a_large_answer_is_compressed_for_who_takes_it(http: httpx.Client) -> None:
    rows = 50_000
    body = {"inputs": [{"name": "a", "shape": [rows], "datatype": "FP64", "data": [0.5] * rows}]}
    for accept, coding in (("gzip", "gzip"), ("deflate", "deflate"), ("gzip;q=0", None), ("identity", None)):
        answer = http.post("/v2/models/one/infer", json=body, headers={"accept-encoding": accept})
        assert answer.headers.get("content-encoding") == coding
        assert answer.json()["outputs"][0]["data"] == [1.0] * rows


@pytest.mark.parametrize("asked", [b"\xff\xff\xff", b"\x0a\x03one"])
def test_a_message_that_is_none_is_refused_with_invalid_argument(server: Running, asked: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(server, "/inference.GRPCInferenceService/ModelInfer", asked)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
