"""What clients send wrong, and HTTP as clients really speak it: each gets a clear answer, none harms the next."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from typing import Any

import httpx
import pytest

from retinue.core.state import ServedEndpoint, ServedModel

pytestmark = pytest.mark.e2e

LIMIT = 100_000


@pytest.fixture(scope="module")
def server(shared_stage: Any) -> Any:
    stage = shared_stage
    plain = stage.model("m", "v1", ("x", "z"), (1.0, 10.0))
    signature = {**plain.signature, "inputs": [dict(entry) for entry in plain.signature["inputs"]]}
    signature["inputs"][0]["nullable"] = False
    strict = ServedModel("strict", "s1", plain.artifact, "onnx", signature, "none")
    stage.publish(1, [plain, strict], {"e": ServedEndpoint("e", "m")})
    return stage.start(max_body=LIMIT, max_rows=2_000, request_timeout=2.0)


def _tensor(name: str = "x", **change: Any) -> dict[str, Any]:
    return {"name": name, "shape": [1], "datatype": "FP64", "data": [1.0], **change}


ONE_X = [_tensor()]
BAD_INFER: list[tuple[str, Any, str]] = [
    ("m", b"", "the body is empty"),
    ("m", b"{", "not valid JSON"),
    ("m", b"\xff\xfe", "not valid JSON"),
    ("m", b"[1]", "must be a JSON object"),
    ("m", b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[NaN]}]}', "not valid JSON"),
    ("m", b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1e999]}]}', "not valid JSON"),
    ("m", {}, "`inputs` must be a non-empty array"),
    ("m", {"inputs": {}}, "`inputs` must be a non-empty array"),
    ("m", {"inputs": [1]}, r"inputs[0] must be an object"),
    ("m", {"inputs": [{"shape": [1]}]}, "inputs[0] has no `name`"),
    ("m", {"inputs": [_tensor(shape=[-1])]}, "`shape` must be an array of sizes"),
    ("m", {"inputs": [_tensor(shape=[2])]}, "has 1 values, its shape [2] says 2"),
    ("m", {"inputs": [_tensor(shape=[0], data=[])]}, "no rows"),
    ("m", {"inputs": [_tensor(datatype="FP16")]}, "datatype 'FP16' is not served"),
    ("m", {"inputs": [_tensor(datatype=None)]}, "has no `datatype`"),
    ("m", {"inputs": [_tensor(datatype=[])]}, "has no `datatype`"),
    ("m", {"inputs": [_tensor(shape=[2**31 - 1] * 5_000)]}, "`shape` has 5000 dimensions"),
    ("m", {"inputs": [_tensor(data="text")]}, "`data` must be an array"),
    ("m", {"inputs": [_tensor(data=["1"])]}, "row 0: 'x' must be a number, not text '1'"),
    ("m", {"inputs": [_tensor(data=[True])]}, "row 0: 'x' must be a number, not a boolean True"),
    ("m", {"inputs": [_tensor(data=[{}])]}, "row 0: 'x' must be a number, not an object"),
    ("m", {"inputs": [_tensor(datatype="BYTES", data=["a"])]}, "has datatype BYTES; 'x' takes FP64"),
    ("m", {"inputs": [_tensor(datatype="INT8", data=[300])]}, "value 0 is no INT8: 300"),
    ("m", {"inputs": [_tensor(datatype="UINT8", data=[-1])]}, "value 0 is no UINT8: -1"),
    ("m", {"inputs": [_tensor("y")]}, "unknown input 'y'; there are 'x', 'z'"),
    ("m", {"inputs": ONE_X * 2}, "input 'x' is given twice"),
    ("m", {"inputs": [*ONE_X, _tensor("z", shape=[2], data=[1, 2])]}, "'z' has 2 rows, 'x' has 1"),
    ("m", {"inputs": [_tensor(shape=[1, 3], data=[1, 2, 3])]}, "has 3 columns, the model has 2 inputs"),
    ("m", {"inputs": ONE_X, "outputs": [{"name": "q"}]}, "unknown output 'q'; there are 'y'"),
    ("m", {"inputs": ONE_X, "outputs": [{"name": "y"}] * 2}, "output 'y' is requested twice"),
    ("m", {"inputs": ONE_X, "id": 5}, "`id` must be text"),
    ("strict", {"inputs": [_tensor(data=[None])]}, "row 0: 'x' is missing; it may not be null"),
]
BAD_ROWS: list[tuple[Any, str]] = [
    ({"rows": []}, "`rows` is empty"),
    ({"rows": {}}, "`rows` must be an array of objects, not an object"),
    ({"rows": None}, "`rows` must be an array of objects, not null"),
    ({"rows": [1]}, "row 0 must be an object, not an integer"),
    ([], "must be a JSON object"),
    ({"x": "a"}, "row 0: 'x' must be a number, not text 'a'"),
    ({"x": [1]}, "row 0: 'x' must be a number, not an array"),
]


def test_malformed_requests_are_answered_with_400_and_what_is_wrong(server: Any) -> None:
    with httpx.Client(base_url=server.url) as http:
        for model, content, expected in BAD_INFER:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            response = http.post(f"/v2/models/{model}/infer", content=data)
            assert (response.status_code, list(response.json())) == (400, ["error"]), response.text
            assert expected in response.json()["error"]
        for rows, expected in BAD_ROWS:
            response = http.post("/predict/e", json=rows)
            assert response.status_code == 400
            assert expected in response.json()["error"]
        for method, path, status in (
            ("GET", "/", 404),
            ("POST", "/nowhere", 404),
            ("GET", "/v2/models/none", 404),
            ("POST", "/v2/models/none/infer", 404),
            ("POST", "/v2/models/m/versions/other/infer", 404),
            ("POST", "/v2/models/e/versions/2/infer", 404),
            ("GET", "/predict/e", 405),
            ("POST", "/v2/models", 405),
            ("PUT", "/v2/models/m/infer", 405),
            ("GET", "/v2/models/%ff", 400),
        ):
            response = http.request(method, path)
            assert (response.status_code, list(response.json())) == (status, ["error"]), path
        good = http.post("/predict/e", json={"rows": [{"x": 1, "z": None}, {"x": 2, "z": 1}, {"x": "q"}]})
        assert good.status_code == 200
        assert good.json()["predictions"][:2] == [{"y": None}, {"y": 12.0}]
        assert good.json()["predictions"][2]["error"].startswith("row 2: 'x' must be a number")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"row": [{"x": 1, "z": 1}]}, "none of the fields x, z (rows of a request stand in an array named `rows`)"),
        ({"instances": [{}]}, "none of the fields"),
        ({"rows": [{"x": 1, "z": 1}, {}]}, "row 1 has none of the fields"),
        ({"rows": {"x": 1, "z": 1}}, "must be an array"),
        ({"X": 1, "z": 1}, "unknown field 'X'; did you mean 'x'"),
    ],
)
def test_misspelled_fields_are_refused_instead_of_answered_as_missing(server: Any, body: Any, said: str) -> None:
    answer = httpx.post(f"{server.url}/predict/m", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_a_row_may_leave_fields_out_and_carry_others(server: Any) -> None:
    answer = httpx.post(f"{server.url}/predict/m", json={"rows": [{"x": 1, "booking": "ABC"}]})
    assert answer.status_code == 200


def test_a_body_of_100_mb_is_refused_unread_and_a_small_bomb_too(server: Any) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.post("/predict/e", content=b" " * 100_000_000).status_code == 413
        chunks = (b" " * 50_000 for _ in range(2_000))
        assert http.post("/predict/e", content=chunks).status_code == 413
        bomb = gzip.compress(b" " * 10_000_000)
        assert len(bomb) < LIMIT
        response = http.post("/predict/e", content=bomb, headers={"content-encoding": "gzip"})
        assert response.status_code == 413
        assert http.get("/v2/health/ready").status_code == 200


def test_more_rows_than_one_request_may_have_are_refused_at_both_doors(server: Any) -> None:
    with httpx.Client(base_url=server.url) as http:
        assert len(http.post("/predict/e", json={"rows": [{"x": 1}] * 2_000}).json()["predictions"]) == 2_000
        for path, body in (
            ("/predict/e", {"rows": [{"x": 1}] * 2_001}),
            ("/v2/models/m/infer", {"inputs": [_tensor(shape=[2_001], data=[1] * 2_001)]}),
        ):
            response = http.post(path, json=body)
            assert response.status_code == 413
            assert "2001 rows are more than the 2000 that one request may have" in response.json()["error"]
            assert "retinue.toml" in response.json()["error"]


def test_compressed_chunked_and_announced_bodies_are_read(server: Any) -> None:
    row = b'{"x": 1, "z": 2}'
    raw = zlib.compressobj(wbits=-15)
    with httpx.Client(base_url=server.url) as http:
        for coding, content in (
            ("gzip", gzip.compress(row)),
            ("deflate", zlib.compress(row)),
            ("deflate", raw.compress(row) + raw.flush()),
            ("identity", row),
        ):
            response = http.post("/predict/e", content=content, headers={"content-encoding": coding})
            assert response.json()["predictions"] == [{"y": 21.0}]
        response = http.post("/predict/e", content=iter([row[:5], row[5:]]))
        assert response.json()["predictions"] == [{"y": 21.0}]
        assert http.post("/predict/e", content=b"??", headers={"content-encoding": "gzip"}).status_code == 400
        unknown = http.post("/predict/e", content=row, headers={"content-encoding": "br"})
        assert unknown.status_code == 415
        assert unknown.headers["accept-encoding"] == "gzip, deflate"
        assert http.head("/v2/health/live").content == b""
    head = b"POST /predict/e HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(row)
    with socket.create_connection(("127.0.0.1", server.record.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(row)
        assert b'"predictions":[{"y":21.0}]' in connection.recv(10_000)


def _say(server: Any, *parts: bytes) -> bytes:
    """Everything the server says to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", server.record.port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def test_pipelined_requests_are_answered_in_order(server: Any) -> None:
    requests = []
    for number in range(300):  # more than may wait at once
        row = json.dumps({"x": number, "z": 0}).encode()
        requests.append(b"POST /predict/e HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%s" % (len(row), row))
        requests.append(b"GET /v2/health/live HTTP/1.1\r\nhost: t\r\n\r\n")
    requests.append(b"GET /v2 HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
    answer = _say(server, b"".join(requests))
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert len(bodies) == 601
    assert [json.loads(text)["predictions"][0]["y"] for text in bodies[0:600:2]] == [float(n) for n in range(300)]
    assert set(bodies[1:600:2]) == {b'{"live":true}'}


def test_many_large_heads_in_one_read_are_as_many_requests(server: Any) -> None:
    one = b"GET /v2/health/live HTTP/1.1\r\nhost: t\r\nx: " + b"a" * 1_500 + b"\r\n\r\n"
    last = b"GET /v2 HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"
    assert _say(server, one * 1_000 + last).count(b"HTTP/1.1 200 OK") == 1_001


def test_a_client_that_sends_no_more_is_let_go_after_its_answer(server: Any) -> None:
    for rest in (b"", b"GET /v2 HT"):
        with socket.create_connection(("127.0.0.1", server.record.port), timeout=5) as connection:
            connection.sendall(b'POST /predict/e HTTP/1.1\r\nhost: t\r\ncontent-length: 8\r\n\r\n{"x": 1}' + rest)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 200 OK")


SMUGGLED = b"GET /v2/health/live HTTP/1.1\r\nhost: t\r\n\r\n"
AMBIGUOUS = [
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"content-length: 0\r\ncontent-length: 30\r\n\r\n" + SMUGGLED,
    b"content-length: 0, 30\r\n\r\n" + SMUGGLED,
    b"content-length: +3\r\n\r\n{}\n" + SMUGGLED,
    b"content-length: 0x3\r\n\r\n{}\n" + SMUGGLED,
    b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    b"content-length: 3\n\n{}\n" + SMUGGLED,
]


@pytest.mark.parametrize("rest", AMBIGUOUS)
def test_ambiguous_framing_is_refused_and_nothing_behind_it_is_served(server: Any, rest: bytes) -> None:
    answer = _say(server, b"POST /predict/e HTTP/1.1\r\nhost: t\r\n", rest)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert answer.count(b"HTTP/1.1") == 1
    assert b"live" not in answer


def test_heads_over_the_limit_slow_senders_and_garbage_are_refused(server: Any) -> None:
    assert _say(server, b"GET / HTTP/1.1\r\nhost: t\r\nx: " + b"a" * 200_000).startswith(b"HTTP/1.1 431 ")
    assert _say(server, b"GET /" + b"a" * 200_000).startswith(b"HTTP/1.1 431 ")
    many = b"".join(b"h%d: v\r\n" % n for n in range(20_000))
    assert _say(server, b"GET / HTTP/1.1\r\nhost: t\r\n" + many).startswith(b"HTTP/1.1 431 ")
    assert _say(server, b"\x16\x03\x01\x02\x00 this is TLS").startswith(b"HTTP/1.1 400 ")
    slow = _say(server, b"POST /predict/e HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n{")
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in slow
    old = _say(server, b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert old.endswith(b'{"live":true}')
    upgrade = b"GET /v2/health/live HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    assert b'{"live":true}' in _say(server, upgrade)


def test_a_full_queue_is_said_at_the_door(stage: Any) -> None:
    stage.publish(1, [stage.model("m", "v1")])
    running = stage.start(max_queue=0)
    response = httpx.post(f"{running.url}/predict/m", json={"x": 1})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "0 requests are waiting already" in response.json()["error"]
