"""gRPC messages: every data type raw and typed, the style of the request kept, nonsense refused, no clash of names."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.contract import Field
from retinue.core.errors import RequestError
from retinue.gateway import grpc_infer
from retinue.gateway.grpc_messages import DESCRIPTORS, message
from retinue.gateway.oip_types import FLOATS, INTEGERS, encode

ModelInferRequest: Any = message("ModelInferRequest")
OUTPUTS = (Field("y", "FP64", nullable=False),)
KIND = {**dict.fromkeys(FLOATS, "FP64"), **dict.fromkeys(INTEGERS, "FP64"), "BOOL": "BOOL", "BYTES": "BYTES"}
VALUES: dict[str, list[Any]] = {"BOOL": [True, False], "BYTES": ["a", "ü"]}


def request(datatype: str, *, raw: bool, **more: Any) -> Any:
    values = VALUES.get(datatype, [1, 2])
    made = ModelInferRequest(model_name="m")
    entry = made.inputs.add(name="x", datatype=datatype, shape=[2], **more)
    if raw:
        made.raw_input_contents.append(bytes(encode(datatype, values)))
    elif datatype in grpc_infer.CONTENTS:
        contents = [value.encode() if isinstance(value, str) else value for value in values]
        getattr(entry.contents, grpc_infer.CONTENTS[datatype]).extend(contents)
    return made


def parse(made: Any, kind: str = "FP64") -> Any:
    return grpc_infer.parse(made, (Field("x", kind),), OUTPUTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("datatype", sorted(KIND))
@pytest.mark.parametrize("raw", [True, False])
def test_every_data_type_is_read_raw_and_typed(datatype: str, raw: bool) -> None:
    if not raw and datatype in ("FP16", "BF16"):
        with pytest.raises(RequestError, match=f"{datatype} comes in `raw_input_contents` only"):
            parse(request(datatype, raw=False))
        return
    found = parse(request(datatype, raw=raw), KIND[datatype])
    values = found.table.column("x", range(2))
    assert (values.tolist() if isinstance(values, np.ndarray) else values) == VALUES.get(datatype, [1, 2])
    assert found.binary is raw


def test_triton_s_parameters_4_and_5_are_read() -> None:
    made = request("FP64", raw=True)
    made.parameters["priority"].uint64_param = 1
    made.parameters["timeout"].int64_param = 250_000
    made.parameters["weight"].double_param = 0.5
    found = parse(made)
    assert (found.priority, found.timeout) == (0, 0.25)
    assert grpc_infer.plain(made.parameters)["weight"] == 0.5


def _mixed() -> Any:
    made = request("FP64", raw=True)
    made.inputs[0].contents.fp64_contents.append(1.0)
    return made


def _one_too_many() -> Any:
    made = request("FP64", raw=True)
    made.raw_input_contents.append(b"")
    return made


def _wrong_field() -> Any:
    made = request("FP64", raw=False)
    made.inputs[0].contents.fp32_contents.append(1.0)
    return made


def _out_of_range() -> Any:
    made = request("INT32", raw=False)
    made.inputs[0].datatype = "INT8"
    made.inputs[0].contents.int_contents[1] = 300
    return made


def _asks(name: str) -> Any:
    made = request("FP64", raw=True)
    made.outputs.add(name=name)
    return made


def _shared() -> Any:
    made = request("FP64", raw=False)
    made.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (_mixed(), "`contents` beside `raw_input_contents`"),
        (_one_too_many(), "2 `raw_input_contents` for 1 inputs"),
        (_wrong_field(), "FP64 comes in `fp64_contents`, not in `fp32_contents`"),
        (_out_of_range(), "value 1 is no INT8: 300"),
        (_asks("z"), "unknown output 'z'"),
        (_shared(), "shared memory is not served"),
        (ModelInferRequest(), "must have a tensor"),
    ],
)
def test_a_message_that_does_not_fit_is_refused_in_words(made: Any, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(made)
    assert words in caught.value.message


@given(st.binary(max_size=120))
def test_any_message_at_all_raises_nothing_but_a_request_error(data: bytes) -> None:
    made = request("FP64", raw=False)
    with contextlib.suppress(Exception):
        made = ModelInferRequest.FromString(data)
    with contextlib.suppress(RequestError):
        parse(made)


@given(
    st.sampled_from([*sorted(KIND), "", "FP8"]),
    st.lists(st.integers(-2, 2**40), max_size=4),
    st.lists(st.binary(max_size=20), max_size=3),
    st.lists(st.floats(), max_size=3),
)
def test_contents_that_contradict_each_other_raise_nothing_but_a_request_error(
    datatype: str, shape: list[int], raw: list[bytes], typed: list[float]
) -> None:
    made = ModelInferRequest(raw_input_contents=raw)
    made.inputs.add(name="x", datatype=datatype, shape=shape).contents.fp64_contents.extend(typed)
    for kind in ("FP64", "INT64", "BYTES", "BOOL"):
        with contextlib.suppress(RequestError):
            parse(made, kind)


def test_our_messages_and_another_inference_package_live_in_one_process() -> None:
    code = """
from google.protobuf import descriptor_pb2, descriptor_pool
theirs = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package="inference", syntax="proto3")
field = theirs.message_type.add(name="ModelInferRequest").field.add(name="else", number=1, type=9, label=1)
descriptor_pool.Default().AddSerializedFile(theirs.SerializeToString())
from retinue.gateway.grpc_messages import message
assert message("ModelInferRequest")(model_name="m").model_name == "m"
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    folder, out = DESCRIPTORS.parent, tmp_path / "d.bin"
    code = protoc.main(["", f"-I{folder}", f"--descriptor_set_out={out}", "open_inference.proto", "health.proto"])
    assert code == 0
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    read = [FileDescriptorSet.FromString(path.read_bytes()) for path in (out, DESCRIPTORS)]
    assert read[0] == read[1], "run `make proto`"


def test_repository_messages_hold_what_triton_and_kserve_read() -> None:
    made = message("RepositoryModelLoadResponse")(model_name="m", isLoaded=True)
    assert made.SerializeToString() == b"\x0a\x01m\x10\x01"
