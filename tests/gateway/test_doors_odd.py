"""Odd models and odd clients at a gateway: each hears something, and what it may not hear it does not."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.test_doors import Served, _request

from retinue.core.access import ClientRecord, new_key
from retinue.core.state import ReleaseImage, ServedEndpoint, ServedJournal
from retinue.gateway.grpc_describe import Describer
from retinue.gateway.grpc_messages import message
from retinue.gateway.grpc_server import GrpcServer
from retinue.store.accessfile import write_access
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.journal import list_segments, read_segment
from retinue.store.releasefile import write_release


def _both() -> bytes:
    """y = (x, n), two columns."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["X"], ["Y"])],
        "both",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


class Odd(Served):
    """A gateway whose second release has models that do not fit together."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        digest = FsspecArtifacts(self.settings.artifacts, self.settings.cache).put(_both())
        plain = self.gateway._releases[1].models["m"].served
        inputs, outputs = plain.signature["inputs"], plain.signature["outputs"]
        wide = {**plain.signature, "outputs": [{**outputs[0], "width": 2}]}
        strict = {**plain.signature, "inputs": [{**field, "dtype": "FP64", "nullable": False} for field in inputs]}
        more = {**plain.signature, "inputs": [*inputs, {**inputs[0], "name": "z"}]}
        models = {
            "m": plain,
            "w-a": replace(plain, name="w-a", version="w1"),
            "w-b": replace(plain, name="w-b", version="w2", artifact=digest, signature=wide),
            "strict": replace(plain, name="strict", version="s1", signature=strict),
            "ill": replace(plain, name="ill", version="i1", artifact="0" * 64, signature=more),
        }
        endpoints = {
            "wide": ServedEndpoint("wide", "w-{key}"),
            "secret": ServedEndpoint("secret", "m", journal=ServedJournal(drop=("x",))),
            "lame": ServedEndpoint("lame", "ill", fallback="m"),
        }
        where = self.settings.releases("shop", "prod")
        write_release(where, ReleaseImage("shop", "prod", 2, models, endpoints))
        self.run(lambda: self.gateway._prepare(2, where / "2.release"))
        self.word.set(2)

    async def grpc(self) -> tuple[GrpcServer, int]:
        """A gRPC door, and its port."""
        gate = self.gateway
        describer = Describer(gate._plane, gate._access, gate._beside)
        server = GrpcServer(gate._plane, gate._meter, gate._access, describer, gate._http)
        listener = socket.create_server(("127.0.0.1", 0))
        await server.start(listener)
        return server, listener.getsockname()[1]

    async def call(self, method: str, request: Any, key: str | None = None) -> bytes:
        """What the gRPC door answers. Raises grpc.aio.AioRpcError."""
        from grpc import aio

        server, port = await self.grpc()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                metadata = (("retinue-key", key),) if key else ()
                ask = channel.unary_unary(method)
                return bytes(await ask(request.SerializeToString(), metadata=metadata, timeout=5))
        finally:
            server.close()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    running = Odd(tmp_path_factory.mktemp("odd"))
    yield running
    running.close()


def _mixed(name: str = "wide") -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]},
            {"name": "n", "shape": [2], "datatype": "INT64", "data": [3, 4]},
            {"name": "key", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }


def test_outputs_that_do_not_fit_together_are_an_error_and_not_silence(odd: Odd) -> None:
    status, answer = odd.post("/v2/models/wide/infer", _mixed())
    assert status == 500
    assert "cannot be told together" in answer["error"]


def test_outputs_that_do_not_fit_together_are_an_error_over_grpc_too(odd: Odd) -> None:
    grpc = pytest.importorskip("grpc")
    request = message("ModelInferRequest")(model_name="wide")
    for name, datatype, data in (
        ("x", "FP64", np.array([1.0, 2.0]).tobytes()),
        ("n", "INT64", np.array([3, 4]).tobytes()),
        ("key", "BYTES", b"\x01\0\0\0a\x01\0\0\0b"),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[2])
        request.raw_input_contents.append(data)
    with pytest.raises(grpc.aio.AioRpcError) as told:
        odd.run(lambda: odd.call("/inference.GRPCInferenceService/ModelInfer", request))
    assert told.value.code() == grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("rows", [1, 2])
def test_a_missing_number_is_missing_however_many_rows_there_are(odd: Odd, rows: int) -> None:
    data = np.array([[np.nan, 1.0]] * rows).tobytes()
    packed = {"name": "X", "shape": [rows, 2], "datatype": "FP64", "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [packed]}).encode()
    more = b"inference-header-content-length: %d\r\n" % len(text)
    said = odd.say(_request("/v2/models/strict/infer", text + data, more))
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"is missing" in said


def test_a_field_that_an_endpoint_leaves_out_is_not_journalled_past_it(odd: Odd) -> None:
    for name in ("secret", "m"):
        assert odd.post(f"/predict/{name}", {"x": 77, "n": 1})[0] == 200
        assert odd.post(f"/predict/{name}", {"rows": [{"x": 77, "n": 1}, {"x": 77, "n": "odd"}]})[0] == 200
    records = [r for s in list_segments(odd.settings.journal("shop", "prod")) for r in read_segment(s).requests]
    kept = [r for r in records if r.release == 2 and r.endpoint in ("secret", "m")]
    told = [list(row) for r in kept for run in r.runs for row in run.inputs]
    assert told
    assert all(row[0] is None for row in told)


def test_what_an_endpoint_takes_does_not_depend_on_which_of_its_models_are_well(odd: Odd) -> None:
    assert odd.post("/predict/ill", {"x": 1, "n": 2, "z": 3})[0] == 503
    said = odd.say(b"GET /v2/models/lame HTTP/1.1\r\nhost: t\r\n\r\n")
    assert [field["name"] for field in json.loads(said.partition(b"\r\n\r\n")[2])["inputs"]] == ["x", "n", "z"]


def test_nothing_runs_that_comes_behind_a_request_which_said_it_was_the_last(odd: Odd) -> None:
    known = _request("/predict/m", b'{"x": 1, "n": 2}')
    odd.say(known)
    records = odd.gateway._recorder.records
    said = odd.say(_request("/predict/m", b'{"x": 1, "n": 2}', b"connection: close\r\n"), known, known)
    odd.run(lambda: asyncio.sleep(0.05))
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.endswith(b"<closed>")
    assert odd.gateway._recorder.records == records + 1


def test_a_probe_without_a_key_learns_of_the_server_and_of_no_model(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc")
    odd = Odd(tmp_path)
    asked = message("grpc.health.v1.HealthCheckRequest")

    def probe(service: str, key: str | None = None) -> str:
        try:
            odd.run(lambda: odd.call("/grpc.health.v1.Health/Check", asked(service=service), key))
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"

    try:
        text, key = new_key(bytes(range(37)), "2026-01-01T00:00:00Z")
        where = odd.settings.releases("shop", "prod")
        write_access(where, "shop", [ClientRecord("ann", allow=("m",), keys=(key,))])
        odd.gateway._access.tick()
        assert (probe(""), probe("m", text)) == ("OK", "OK")
        assert (probe("m"), probe("none"), probe("wide", text)) == (
            "UNAUTHENTICATED", "UNAUTHENTICATED", "PERMISSION_DENIED",
        )  # fmt: skip
    finally:
        odd.close()
