"""The protocol's requests: what they become for the data plane, and which are refused with which words."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.contract import Field
from retinue.core.errors import RequestError
from retinue.gateway import oip
from retinue.gateway.oip_request import ColumnTable, InferRequest, LineTable, PackedTable

FIELDS = (Field("a", "FP64"), Field("b", "INT64"), Field("c", "BOOL"), Field("d", "BYTES"))
NUMBERS = (Field("p", "FP64"), Field("q", "FP64"))
OUTPUTS = (Field("label", "BYTES", nullable=False), Field("probability", "FP64", nullable=False, width=3))


def ask(document: Any, fields: tuple[Field, ...] = NUMBERS) -> InferRequest:
    return oip.parse(orjson.dumps(document), fields, OUTPUTS)


def tensor(name: str, datatype: str, data: list[Any], *shape: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape) or [len(data)], "data": data, **more}


def mixed(rows: int) -> dict[str, Any]:
    return {
        "inputs": [
            tensor("a", "FP32", [0.5] * rows),
            tensor("b", "INT8", [3] * rows),
            tensor("c", "BOOL", [True] * rows),
            tensor("d", "BYTES", ["x"] * rows),
        ]
    }


def binary(document: dict[str, Any], *tails: bytes) -> tuple[bytes, bytes]:
    text = orjson.dumps(document)
    return text + b"".join(tails), b"%d" % len(text)


def test_one_row_is_a_line_of_python_values() -> None:
    request = ask(mixed(1), FIELDS)
    assert isinstance(request.table, LineTable)
    assert list(request.table.values(("a", "b", "c", "d"), 0)) == [0.5, 3, True, "x"]
    assert list(request.table.values(("d", "none"), 0)) == ["x", None]
    assert request.table.column("b", [0]) == [3]


def test_one_packed_row_is_a_line_too() -> None:
    for data in ([1.0, None], [[1.0, None]]):
        request = ask({"inputs": [tensor("x", "FP32", data, 1, 2)]})
        assert isinstance(request.table, LineTable)
        assert list(request.table.values(("p", "q"), 0)) == [1.0, None]


def test_one_row_asked_with_separate_inputs_may_leave_some_out() -> None:
    request = ask({"inputs": [tensor("q", "INT32", [7])]})
    assert list(request.table.values(("p", "q"), 0)) == [None, 7]


def test_many_values_become_arrays_and_few_stay_lists() -> None:
    few: Any = ask(mixed(2), FIELDS).table
    many: Any = ask(mixed(50), FIELDS).table
    assert few.column("a", range(2)) == [0.5, 0.5]
    for name, dtype in (("a", np.float64), ("b", np.int8), ("c", np.bool_)):
        column = many.column(name, range(50))
        assert column.dtype == dtype
        assert many.column(name, [3, 7]).tolist() == column[:2].tolist()
    assert many.column("d", range(50)) == ["x"] * 50


def test_packed_numbers_are_one_array_in_which_null_is_nan() -> None:
    data = [float(i) for i in range(99)] + [None]
    for shaped in (data, [data[i : i + 2] for i in range(0, 100, 2)]):
        table = ask({"inputs": [tensor("x", "FP64", shaped, 50, 2)]}).table
        assert isinstance(table, PackedTable)
        assert table.matrix.shape == (50, 2)
        assert list(table.names) == ["p", "q"]
        assert np.isnan(table.matrix[49, 1])
        assert table.column("q", [0, 1]).tolist() == [1.0, 3.0]
        assert table.values(("q", "p"), 1) == [3.0, 2.0]


def test_packed_whole_numbers_for_integer_inputs_stay_whole_numbers() -> None:
    fields = (Field("p", "FP64"), Field("q", "INT64"))
    table: Any = ask({"inputs": [tensor("x", "INT64", [2**60 + 1] * 100, 50, 2)]}, fields).table
    assert table.matrix is None
    assert table.column("q", range(50)).tolist() == [2**60 + 1] * 50


def test_a_packed_binary_tensor_is_read_where_it_lies() -> None:
    rows = np.arange(40, dtype="<f4").reshape(20, 2)
    entry = {"name": "x", "shape": [20, 2], "datatype": "FP32", "parameters": {"binary_data_size": 160}}
    document: dict[str, Any] = {"inputs": [entry]}
    while len(orjson.dumps(document)) % 8:
        document["pad"] = document.get("pad", "") + " "
    body, size = binary(document, rows.tobytes())
    request = oip.parse(body, NUMBERS, OUTPUTS, size)
    assert np.array_equal(request.table.matrix, rows)
    assert request.rows == 20
    assert np.shares_memory(request.table.matrix, np.frombuffer(body, dtype=np.uint8))


def test_json_and_binary_tensors_may_be_mixed() -> None:
    document = mixed(2)
    document["inputs"][0] = {"name": "a", "shape": [2], "datatype": "BF16", "parameters": {"binary_data_size": 4}}
    document["inputs"][3] = {"name": "d", "shape": [2, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 11}}
    body, size = binary(document, b"\x80\x3f\x00\x40", b"\1\0\0\0x\2\0\0\0yz")
    table: Any = oip.parse(body, FIELDS, OUTPUTS, size).table
    assert isinstance(table, ColumnTable)
    assert table.column("a", range(2)).tolist() == [1.0, 2.0]
    assert table.column("d", range(2)) == ["x", "yz"]
    assert table.values(("a", "b", "d"), 1) == [2.0, 3, "yz"]


def test_a_raw_request_is_the_one_input_of_a_model() -> None:
    one = (Field("p", "FP64"),)
    request: Any = oip.parse(np.array([1.0, 2.0]).tobytes(), one, OUTPUTS, b"0")
    assert (request.rows, request.binary) == (2, True)
    assert request.table.column("p", range(2)).tolist() == [1.0, 2.0]
    text = oip.parse(b"\2\0\0\0hi", (Field("d", "BYTES"),), OUTPUTS, b"0")
    assert (text.rows, text.table.values(("d",), 0)) == (1, ["hi"])
    with pytest.raises(RequestError, match="one input; this has 2"):
        oip.parse(b"", NUMBERS, OUTPUTS, b"0")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (b"x", "must be a number of bytes"),
        (b"-1", "must be a number of bytes"),
        (b"99999", "the body has"),
        (b"9" * 400, "must be a number of bytes"),
    ],
)
def test_a_header_length_that_is_none_is_refused(size: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        oip.parse(orjson.dumps(mixed(1)), FIELDS, OUTPUTS, size)


@pytest.mark.parametrize(
    ("entry", "tail", "words"),
    [
        ({"parameters": {"binary_data_size": 16}}, b"\0" * 8, "more than there are"),
        ({"parameters": {"binary_data_size": 12}}, b"\0" * 12, "2 elements of FP64 have 16"),
        ({"parameters": {"binary_data_size": 16}}, b"\0" * 17, "1 bytes of the body belong to no input"),
        ({"parameters": {"binary_data_size": 16}, "data": [1, 2]}, b"\0" * 16, "both `data` and"),
        ({"parameters": {"binary_data_size": "16"}}, b"\0" * 16, "must be a number of bytes"),
        ({"parameters": {"binary_data_size": 16}, "datatype": "FP8"}, b"\0" * 16, "unknown datatype 'FP8'"),
        ({"parameters": {"binary_data_size": 16}, "shape": [2**30, 2**30, 2**30]}, b"\0" * 16, "elements of FP64"),
        ({"parameters": {"shared_memory_region": "r"}}, b"", "shared memory is not served"),
    ],
)
def test_bytes_that_are_not_what_the_json_says_are_refused(entry: dict[str, Any], tail: bytes, words: str) -> None:
    whole = {"name": "p", "shape": [2], "datatype": "FP64", **entry}
    body, size = binary({"inputs": [whole]}, tail)
    with pytest.raises(RequestError, match=words):
        oip.parse(body, NUMBERS, OUTPUTS, size)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([tensor("p", "INT8", [300])], "value 0 is no INT8: 300"),
        ([tensor("p", "INT8", [1] * 40 + [300])], "value 40 is no INT8: 300"),
        ([tensor("p", "UINT64", [1] * 40 + [-1])], "value 40 is no UINT64: -1"),
        ([tensor("p", "INT64", [1] * 40 + [1.5])], "value 40 is no INT64: 1.5"),
        ([tensor("p", "FP16", [1.0])], "datatype 'FP16' is not served in JSON"),
        ([tensor("p", "BF16", [1.0])], "datatype 'BF16' is not served in JSON"),
        ([tensor("p", "BYTES", ["x"])], "has datatype BYTES; 'p' takes FP64"),
        ([tensor("p", "FP64", [1.0], 2)], "has 1 values, its shape [2] says 2"),
        ([tensor("p", "FP64", [1.0], 1, 1, 1, 1, 1, 1, 1, 1, 1)], "has 9 dimensions"),
        ([tensor("p", "FP64", [[[[[[[[[[1.0]]]]]]]]]])], "nested too deeply"),
        ([tensor("r", "FP64", [1.0])], "unknown input 'r'; there are 'p', 'q'"),
        ([tensor("p", "FP64", [1.0]), tensor("p", "FP64", [1.0])], "'p' is given twice"),
        ([tensor("p", "FP64", [1.0]), tensor("q", "FP64", [1.0, 2.0])], "has 2 rows, 'p' has 1"),
        ([tensor("p", "FP64", [1.0, 2.0], 1, 2), tensor("q", "FP64", [1.0])], "must have shape [n] or [n, 1]"),
        ([tensor("x", "FP64", [1.0] * 3, 1, 3)], "has 3 columns, the model has 2 inputs"),
        ([tensor("p", "FP64", [], 0)], "have no rows"),
        ([{"name": "p", "datatype": "FP64", "shape": [1]}], "`data` must be an array"),
        ([{"name": "p", "shape": [1], "data": [1]}], "has no `datatype`"),
        ([tensor("p", "FP64", [1.0], parameters=[])], "`parameters` must be an object"),
        ([7], "must be an object"),
        ([], "non-empty array"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(inputs: list[Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask({"inputs": inputs})
    assert words in caught.value.message


def test_text_may_come_as_base64() -> None:
    entry = tensor("d", "BYTES", ["aGk=", None], parameters={"content_type": "base64"})
    assert ask({"inputs": [entry]}, FIELDS).table.column("d", range(2)) == ["hi", None]
    for wrong in ("a", 7, "/w=="):
        with pytest.raises(RequestError, match="element 0"):
            ask({"inputs": [tensor("d", "BYTES", [wrong], parameters={"content_type": "base64"})]}, FIELDS)


def test_an_integer_beyond_every_double_is_left_to_the_check_that_names_its_row() -> None:
    column = ask({"inputs": [tensor("p", "FP64", [1.0] * 40 + ["x"])]}).table.column("p", range(41))
    assert column[40] == "x"


# ------------------------------------------------------------------------------------------------ what is asked for
def wish(**more: Any) -> InferRequest:
    return ask({"inputs": [tensor("p", "FP64", [1.0])], **more})


def test_requested_outputs_keep_their_order_and_say_how_they_come() -> None:
    request = wish(
        parameters={"binary_data_output": True},
        outputs=[
            {"name": "probability", "parameters": {"classification": 2, "binary_data": False}},
            {"name": "label", "parameters": {"content_type": "str"}},
        ],
    )
    assert request.outputs == ("probability", "label")
    assert request.wanted is not None
    assert [(w.binary, w.classes, w.content_type) for w in request.wanted] == [(False, 2, None), (True, 0, "str")]
    assert wish(parameters={"binary_data_output": True}).binary
    assert wish(outputs=[]).wanted is None


@pytest.mark.parametrize(("sent", "meant"), [(0, None), (1, 0), (2, 1), (3, 2), (99, 2)])
def test_priority_1_is_the_highest_and_0_the_default(sent: int, meant: int | None) -> None:
    assert wish(parameters={"priority": sent}).priority == meant


def test_a_timeout_is_microseconds_on_the_wire_and_seconds_here() -> None:
    assert wish(parameters={"timeout": 1_500_000}).timeout == 1.5
    assert wish(parameters={"timeout": 0}).timeout is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"outputs": [{"name": "nope"}]}, "unknown output 'nope'"),
        ({"outputs": [{"name": "label"}, {"name": "label"}]}, "requested twice"),
        ({"outputs": ["label"]}, "unknown output None"),
        ({"outputs": {"name": "label"}}, "`outputs` must be an array"),
        ({"outputs": [{"name": "label", "parameters": {"classification": -1}}]}, "number of classes"),
        ({"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, "must be true or false"),
        ({"outputs": [{"name": "label", "parameters": {"shared_memory_region": "x"}}]}, "shared memory"),
        ({"outputs": [{"name": "label", "parameters": 3}]}, "must be an object"),
        ({"parameters": {"priority": -1}}, "`priority` must be an integer"),
        ({"parameters": {"timeout": "soon"}}, "`timeout` must be an integer"),
        ({"parameters": {"binary_data_output": "yes"}}, "must be true or false"),
        ({"parameters": [1]}, "`parameters` must be an object"),
        ({"id": 7}, "`id` must be text"),
    ],
)
def test_a_wish_that_is_none_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        wish(**more)
    assert words in caught.value.message


def test_unknown_keys_are_ignored() -> None:
    request = wish(model_name="m", parameters={"headers": {"a": 1}, "sequence_id": 0}, id="")
    assert (request.id, request.rows) == (None, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(("name", "shape", "datatype", "data", "parameters", "binary_data_size"))
LIKELY = JSON | st.sampled_from(
    ("p", "FP64", "BF16", "INT8", "BYTES", [2], [1], [1, 2], [1.0, 2.0], {"binary_data_size": 8})
)
INPUTS = st.lists(st.dictionaries(KEYS, LIKELY) | JSON, max_size=3)


@given(INPUTS, JSON, JSON, st.binary(max_size=32), st.none() | st.integers(-3, 300))
def test_garbage_raises_nothing_but_a_request_error(
    inputs: Any, outputs: Any, parameters: Any, tail: bytes, length: int | None
) -> None:
    document = {"inputs": inputs, "outputs": outputs, "parameters": parameters}
    text = json.dumps(document).encode()
    size = None if length is None else b"%d" % (len(text) if length % 2 else length)
    for fields in (FIELDS, NUMBERS):
        with contextlib.suppress(RequestError):
            oip.parse(text + tail, fields, OUTPUTS, size)


@given(st.binary(max_size=200), st.none() | st.binary(max_size=8))
def test_any_bytes_at_all_raise_nothing_but_a_request_error(body: bytes, length: bytes | None) -> None:
    for fields in (FIELDS, NUMBERS, NUMBERS[:1]):
        with contextlib.suppress(RequestError):
            oip.parse(body, fields, OUTPUTS, length)
