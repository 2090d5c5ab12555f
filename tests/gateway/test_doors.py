"""A whole gateway without sockets: bytes in at a connection, bytes out at its transport."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue.core.state import ReleaseImage, ServedCache, ServedEndpoint, ServedModel
from retinue.gateway.control import WORD_SIZE, Word
from retinue.gateway.main import Gateway
from retinue.settings import Settings
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.journal import list_segments, read_segment
from retinue.store.releasefile import point, write_release

INPUTS = [("x", "FP64"), ("n", "INT64"), ("key", "BYTES")]


def _onnx() -> bytes:
    """y = x + n, missing stays missing."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("ReduceSum", ["X", "axes"], ["Y"], keepdims=1)]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _publish(folder: Path) -> Settings:
    served = Settings(folder, "none", f"file://{folder}/artifacts", port=0, admin_port=0)
    digest = FsspecArtifacts(served.artifacts, served.cache).put(_onnx())
    signature: dict[str, Any] = {
        "task": "regression",
        "target": "y",
        "inputs": [{"name": n, "dtype": d, "nullable": True, "width": 1} for n, d in INPUTS[:2]],
        "outputs": [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}],
        "onnx": {"inputs": [{"name": "X", "features": ["x", "n"], "dtype": "FP32"}], "outputs": {"y": "Y"}},
    }
    models = {name: ServedModel(name, f"{name}-v1", digest, "onnx", signature, "none") for name in ("m-a", "m-b", "m")}
    models["broken"] = ServedModel("broken", "b1", "0" * 64, "onnx", signature, "none")
    endpoints = {
        "family": ServedEndpoint("family", "m-{key}", fallback="m"),
        "one": ServedEndpoint("one", "m"),
        "kept": ServedEndpoint("kept", "m", cache=ServedCache(60.0)),
        "shaky": ServedEndpoint("shaky", "broken", fallback="m"),
    }
    where = served.releases("shop", "prod")
    write_release(where, ReleaseImage("shop", "prod", 1, models, endpoints))
    point(where, 1)
    return served


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.said += b"<closed>"

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Served:
    """A gateway in this process, and a way to ask it."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.settings = _publish(folder)
        self.shared = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self.shared.truncate(WORD_SIZE)
        self.word = Word(self.shared.fileno(), writable=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.gateway = self.run(self._start)

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def call() -> Any:
            return await work()

        return self.runner.run(call())

    async def _start(self) -> Gateway:
        gateway = Gateway(self.settings, self.listener, self.word)
        await gateway._prepare(1, self.settings.releases("shop", "prod") / "1.release")
        self.word.set(1)
        return gateway

    def say(self, *pieces: bytes, answers: int = 1) -> bytes:
        """What the gateway answers to these bytes."""
        transport = Transport()

        async def talk() -> None:
            connection = self.gateway._http.connection()
            connection.connection_made(transport)
            for piece in pieces:
                connection.data_received(piece)
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                while transport.said.count(b"HTTP/1.1 ") < answers:  # noqa: ASYNC110  it is bytes that are awaited
                    await asyncio.sleep(0.001)
            connection.connection_lost(None)

        self.run(talk)
        return transport.said

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        answer = self.say(_request(path, json.dumps(body).encode()))
        return int(answer.split(b" ", 2)[1]), json.loads(answer.partition(b"\r\n\r\n")[2])

    def close(self) -> None:
        async def end() -> None:
            self.gateway._pool.close()
            self.gateway._recorder.close()
            self.gateway._http.stop()

        self.run(end)
        self.runner.close()
        self.word.close()
        self.shared.close()
        self.listener.close()


def _request(path: str, body: bytes, more: bytes = b"") -> bytes:
    head = b"POST %s HTTP/1.1\r\nhost: t\r\n%scontent-length: %d\r\n\r\n" % (path.encode(), more, len(body))
    return head + body


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tmp_path_factory.mktemp("gateway"))
    yield running
    running.close()


VALUES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "x": st.none() | st.floats(-1e6, 1e6) | st.integers(-1000, 1000) | st.text(max_size=2) | st.booleans(),
        "n": st.none() | st.integers(-1000, 1000) | st.just(2**70) | st.just(1.5) | st.just(3.0),
        "key": st.sampled_from(["a", "b", "zz", 1, True, None]) | st.lists(st.integers(), max_size=1),
        "more": st.just([{}]),
    },
)
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(VALUES, st.sampled_from(["one", "family", "m", "m-a", "kept", "shaky"]))
def test_a_row_alone_is_answered_as_it_is_in_company(served: Served, row: dict[str, Any], name: str) -> None:
    """One row takes the short way, two take the long one."""
    alone_status, alone = served.post(f"/predict/{name}", row)
    status, together = served.post(f"/predict/{name}", {"rows": [row, row]})
    assert alone_status == status
    if status != 200:
        assert alone["error"].replace("row 0: ", "") == together["error"].replace("row 0: ", "")
        return
    assert alone["predictions"] == together["predictions"][:1] == together["predictions"][1:]
    assert alone["models"] == together["models"][:1]
    assert alone["release"] == together["release"]


@QUIET
@given(st.floats(-1e6, 1e6), st.integers(-1000, 1000), st.sampled_from(["one", "m", "m-a", "shaky"]), st.booleans())
def test_the_protocols_line_is_answered_as_a_table_is(served: Served, x: float, n: int, name: str, named: bool) -> None:
    def inputs(rows: int) -> list[dict[str, Any]]:
        return [
            {"name": "x", "shape": [rows], "datatype": "FP64", "data": [x] * rows},
            {"name": "n", "shape": [rows], "datatype": "INT64", "data": [n] * rows},
        ]

    more = {"id": "mine"} if named else {}
    status, alone = served.post(f"/v2/models/{name}/infer", {"inputs": inputs(1), **more})
    _, together = served.post(f"/v2/models/{name}/infer", {"inputs": inputs(2), **more})
    assert status == 200
    assert list(alone) == list(together)
    assert (alone["id"] == "mine") == named
    for key in ("model_name", "model_version"):
        assert alone[key] == together[key]
    assert alone["parameters"].keys() == together["parameters"].keys()
    one, two = alone["outputs"][0], together["outputs"][0]
    assert (one["name"], one["datatype"], one["shape"]) == (two["name"], two["datatype"], [1])
    assert one["data"] * 2 == two["data"]
    if not named:
        assert alone["id"] == alone["parameters"]["prediction_id"]


@QUIET
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_requests_may_be_cut_anywhere_and_their_answers_are_the_same(served: Served, seed: int, count: int) -> None:
    """A head that was seen before is found by its bytes, whole or in pieces, alone or in a row of others."""
    rng = random.Random(seed)
    bodies = [json.dumps({"x": rng.randint(0, 9), "n": i}).encode() for i in range(count)]
    stream = b"".join(_request("/predict/one", body) for body in bodies)
    cuts = sorted(rng.sample(range(1, len(stream)), min(rng.randint(0, 6), len(stream) - 1)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    said = served.say(*pieces, answers=count)
    found = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in said.split(b"HTTP/1.1 200 OK")[1:]]
    wanted = [json.loads(body) for body in bodies]
    assert [answer["predictions"][0]["y"] for answer in found] == [row["x"] + row["n"] for row in wanted]


def test_every_answer_is_in_the_journal_with_its_values(served: Served) -> None:
    status, answer = served.post("/predict/family", {"x": 2, "n": 3, "key": "a"})
    assert status == 200
    kept = {
        record.id: record
        for segment in list_segments(served.settings.journal("shop", "prod"))
        for record in read_segment(segment).requests
    }
    record = kept[answer["ids"][0].rpartition("-")[0]]
    assert (record.endpoint, record.status, record.rows, record.release) == ("family", 200, 1, 1)
    assert [list(row) for row in record.runs[0].inputs] == [[2, 3]]
    assert record.runs[0].outputs == {"y": [5.0]}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://elsewhere/v2/health/live", 200),  # an absolute target names us by whatever name we are known
        (b"HTTPS://x:1/v2/health/live?a=b", 200),
        (b"/v2/health/live?x=/../y", 200),
        (b"http://elsewhere", 404),
        (b"*", 404),
    ],
)
def test_targets_are_taken_apart_as_proxies_send_them(served: Served, target: bytes, status: int) -> None:
    said = served.say(b"GET %b HTTP/1.1\r\nhost: t\r\n\r\n" % target)
    assert said.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST /predict/one HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /predict/one HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        b"POST /predict/one HTTP/1.1\r\nhost: a\r\ncontent-length: +2\r\n\r\n{}",
    ],
)
def test_heads_that_two_servers_could_read_differently_are_refused_every_time(served: Served, head: bytes) -> None:
    for _ in range(3):  # also when it is seen again
        assert served.say(head).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))


def test_a_head_that_asks_to_close_is_not_mistaken_for_one_that_does_not(served: Served) -> None:
    for _ in range(2):
        assert served.say(b"GET /v2 HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").endswith(b"<closed>")
        assert not served.say(b"GET /v2 HTTP/1.1\r\nhost: t\r\n\r\n").endswith(b"<closed>")


def test_what_people_try_first_is_told_the_way(served: Served) -> None:
    assert b"admin port" in served.say(b"GET /metrics HTTP/1.1\r\nhost: t\r\n\r\n")
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}
    body = json.dumps({"inputs": [tensor]}).encode() + b"\xff" * 8
    said = served.say(_request("/v2/models/m/infer", body))
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"Inference-Header-Content-Length" in said
