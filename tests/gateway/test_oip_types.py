"""Data types as bytes: every one comes back as it went, and nonsense is refused in words."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.errors import RequestError
from retinue.gateway.oip_types import DATATYPES, INTEGERS, RANGES, SIZES, decode, encode

VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(*RANGES[name]) for name in INTEGERS},
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=20),
    "FP64": st.floats(),
    "FP32": st.floats(width=32),
    "FP16": st.floats(width=16),
    "BF16": st.floats(width=32).map(lambda x: float(_bfloat(x))),
}


def _bfloat(value: float) -> Any:
    """The upper half of a float32: a number BF16 holds exactly."""
    bits = np.array([value], dtype=np.float32).view(np.uint32) & 0xFFFF0000
    return bits.view(np.float32)[0]


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_a_tensor_comes_back_as_it_went(datatype: str) -> None:
    @given(st.lists(VALUES[datatype], max_size=40))
    def law(values: list[Any]) -> None:
        data = bytes(encode(datatype, values))
        if datatype in SIZES:
            assert len(data) == len(values) * SIZES[datatype]
        back = decode("x", datatype, memoryview(data), len(values))
        found = back.tolist() if isinstance(back, np.ndarray) else back
        assert len(found) == len(values)
        assert list(map(repr, found)) == list(map(repr, values))

    law()


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_garbage_is_refused_in_words_and_never_crashes(datatype: str) -> None:
    @given(st.binary(max_size=64), st.integers(0, 20))
    def law(data: bytes, count: int) -> None:
        with contextlib.suppress(RequestError):
            assert len(decode("x", datatype, memoryview(data), count)) == count

    law()


def test_bf16_rounds_to_the_nearest_and_keeps_nan() -> None:
    data = encode("BF16", np.array([1.0, 1.00390625, 3.4e38, np.nan, -2.5], dtype=np.float64))
    back = decode("x", "BF16", memoryview(data), 5)
    assert back.dtype == np.float32
    assert back[[0, 1, 4]].tolist() == [1.0, 1.0, -2.5]  # a tie goes to the even one
    assert np.isinf(back[2])
    assert np.isnan(back[3])


def test_numbers_are_read_where_they_lie_and_copied_only_when_they_lie_crooked() -> None:
    data = memoryview(np.arange(4, dtype="<f8").tobytes() + b"\0")
    even = decode("x", "FP64", data[:32], 4)
    assert np.shares_memory(even, np.frombuffer(data, dtype=np.uint8))
    crooked = decode("x", "FP64", memoryview(b"\0" + data[:32].tobytes())[1:], 4)
    assert crooked.flags.aligned
    assert crooked.tolist() == even.tolist()


def test_an_array_that_is_right_is_written_without_a_copy() -> None:
    array = np.arange(6, dtype=np.float64).reshape(3, 2)
    assert np.shares_memory(np.frombuffer(encode("FP64", array), dtype=np.float64), array)


def test_a_boolean_is_the_byte_0_or_1() -> None:
    with pytest.raises(RequestError, match="0 or 1"):
        decode("x", "BOOL", memoryview(b"\0\2"), 2)


def test_text_must_be_utf_8() -> None:
    with pytest.raises(RequestError, match="element 0 is not UTF-8"):
        decode("x", "BYTES", memoryview(b"\2\0\0\0\xff\xfe"), 1)


def test_what_is_missing_has_a_form_only_as_a_number() -> None:
    assert np.isnan(np.frombuffer(encode("FP64", [None, 1.0]), dtype=np.float64)[0])
    assert bytes(encode("INT64", [None])) == bytes(8)
    assert bytes(encode("INT64", np.array([np.nan, 2.0]))) == bytes(8) + b"\2" + bytes(7)
    assert bytes(encode("BYTES", [None])) == bytes(4)
    assert bytes(encode("BYTES", [True, b"\xff"])) == b"\4\0\0\0true\1\0\0\0\xff"
