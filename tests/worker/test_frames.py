"""Frames and columns: what was sent arrives, anything else is refused."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from retinue_worker import frames, tensor

HEADERS = st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers(0, 2**40) | st.text(max_size=20))
SHAPES = npst.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)
NUMBERS = st.one_of(
    npst.arrays(np.float64, SHAPES),
    npst.arrays(np.float32, SHAPES),
    npst.arrays(np.int64, SHAPES),
    npst.arrays(np.int32, SHAPES),
    npst.arrays(np.bool_, SHAPES),
)
TEXTS = npst.arrays(object, SHAPES, elements=st.none() | st.text(max_size=6))


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=4), st.integers(1, 50))
def test_frames_arrive_whole_and_in_order_however_the_stream_is_cut(
    sent: list[tuple[dict[str, Any], bytes]], step: int
) -> None:
    stream = b"".join(frames.encode(header, body) for header, body in sent)
    decoder = frames.Decoder()
    got = [frame for start in range(0, len(stream), step) for frame in decoder.feed(stream[start : start + step])]
    decoder.close()
    assert got == sent


@given(HEADERS, st.binary(max_size=100), st.data())
def test_a_frame_with_one_changed_byte_is_refused_or_still_waited_for(
    header: dict[str, Any], body: bytes, data: st.DataObject
) -> None:
    frame = bytearray(frames.encode(header, body))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    decoder = frames.Decoder()
    try:
        got = list(decoder.feed(bytes(frame)))
        decoder.close()
    except frames.FrameError:
        return
    assert got == []


@given(st.binary(min_size=20, max_size=200).filter(lambda data: not data.startswith(frames.MAGIC)))
def test_garbage_is_no_frame(garbage: bytes) -> None:
    with pytest.raises(frames.FrameError, match="not a frame"):
        list(frames.Decoder().feed(garbage))


def test_a_stream_that_ends_inside_a_frame_is_torn_and_one_that_ends_between_frames_is_over() -> None:
    for cut, torn in ((5, True), (25, True), (None, False)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(frames.encode({"a": 1}, b"body")[:cut])
            ours.shutdown(socket.SHUT_WR)
            if torn:
                with pytest.raises(frames.FrameError, match="ended"):
                    frames.receive(theirs)
            else:
                assert frames.receive(theirs) == ({"a": 1}, b"body")
                assert frames.receive(theirs) is None


def test_a_large_frame_crosses_a_socket() -> None:
    ours, theirs = socket.socketpair()
    body = bytes(range(256)) * 40_000
    with ours, theirs:
        sender = threading.Thread(target=ours.sendall, args=(frames.encode({}, body),))
        sender.start()
        assert frames.receive(theirs) == ({}, body)
        sender.join()


@given(st.dictionaries(st.text(max_size=8), NUMBERS | TEXTS, max_size=4))
def test_columns_come_back_as_they_were(columns: dict[str, Any]) -> None:
    back = tensor.decode(tensor.encode(columns))
    assert list(back) == list(columns)
    for name, array in columns.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].flags.writeable
        if array.dtype == object:
            assert back[name].tolist() == array.tolist()
        else:
            assert back[name].tobytes() == array.tobytes()


@given(st.binary(max_size=120))
def test_garbage_is_no_batch_of_columns(garbage: bytes) -> None:
    try:
        columns = tensor.decode(garbage)
    except tensor.TensorError:
        return
    assert tensor.encode(columns) == garbage  # the few strings of bytes that are one


@given(st.dictionaries(st.text(max_size=5), NUMBERS | TEXTS, min_size=1, max_size=3), st.data())
def test_a_cut_batch_of_columns_is_refused(columns: dict[str, Any], data: st.DataObject) -> None:
    encoded = tensor.encode(columns)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(tensor.TensorError):
        tensor.decode(encoded[:cut])


def test_what_cannot_travel_is_named() -> None:
    with pytest.raises(tensor.TensorError, match="column 'a' has dtype complex128"):
        tensor.encode({"a": np.zeros(1, dtype=complex)})
    with pytest.raises(tensor.TensorError, match="column 'a' has 3 dimensions"):
        tensor.encode({"a": np.zeros((1, 1, 1))})
    with pytest.raises(tensor.TensorError, match="mixes text with int"):
        tensor.encode({"a": np.array(["x", 1], dtype=object)})
