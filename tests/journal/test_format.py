"""The format's laws: what was written is read, and any damage leaves a prefix of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.journal.conftest import Journal

from retinue.core.errors import CorruptArtifactError
from retinue.store.journal import (
    ENCODER,
    FORMAT,
    NODE,
    REQUEST,
    Gap,
    Header,
    Node,
    Request,
    Run,
    beginning,
    frame,
    parse,
)
from retinue.store.journal_follow import Follower

HEADER = Header(FORMAT, 7, 1, "shop", "prod")
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=20)
)
RUNS = st.builds(
    Run,
    st.integers(1, 3),
    st.none() | st.lists(st.integers(0, 9), max_size=3),
    st.none() | st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=5), st.lists(VALUES, max_size=3), max_size=2),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
)
REQUESTS = st.builds(
    Request,
    st.text(max_size=36),
    st.text(max_size=20),
    st.integers(0, 2**31),
    st.none() | st.text(max_size=8),
    st.none() | st.text(max_size=8),
    st.integers(100, 599),
    st.integers(0, 100),
    st.integers(0, 2**62),
    st.floats(0, 100),
    st.floats(0, 1),
    st.none() | st.dictionaries(st.integers(0, 9), st.text(max_size=9), min_size=1, max_size=2),
    st.lists(RUNS, max_size=2).map(tuple),
)
SEGMENTS = st.lists(REQUESTS, max_size=5)


def written(requests: list[Request]) -> bytes:
    return beginning(HEADER) + b"".join(frame(REQUEST, ENCODER.encode(request)) for request in requests)


@given(SEGMENTS)
def test_what_is_written_is_read(requests: list[Request]) -> None:
    found = parse(written(requests))
    assert (found.header, found.requests, found.left) == (HEADER, requests, 0)


@given(SEGMENTS, st.data())
def test_whatever_is_cut_off_a_prefix_is_read(requests: list[Request], data: Any) -> None:
    whole = written(requests)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    if len(cut) < len(beginning(HEADER)):
        with pytest.raises(CorruptArtifactError):
            parse(cut)
        return
    found = parse(cut)
    assert found.requests == requests[: len(found.requests)]
    assert len(written(found.requests)) + found.left == len(cut)
    assert found.torn


@given(SEGMENTS, st.data())
def test_whichever_bit_flips_a_prefix_is_read_and_never_garbage(requests: list[Request], data: Any) -> None:
    whole = bytearray(written(requests))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    try:
        found = parse(bytes(whole))
    except CorruptArtifactError:
        assert bit // 8 < len(beginning(HEADER))
        return
    assert found.requests == requests[: len(found.requests)]
    assert len(found.requests) < len(requests)


@given(SEGMENTS, st.binary(max_size=64))
def test_whatever_follows_the_last_record_is_not_read(requests: list[Request], noise: bytes) -> None:
    found = parse(written(requests) + noise)
    assert found.requests == requests


def test_zeros_that_a_loss_of_power_leaves_are_no_records() -> None:
    found = parse(written([]) + bytes(4096))
    assert (found.requests, found.left) == ([], 4096)


def test_records_of_kinds_from_the_future_are_passed_over() -> None:
    node = Node(1, "m", "v", "", (), ())
    data = beginning(HEADER) + frame(9, b"anything") + frame(NODE, ENCODER.encode(node))
    assert parse(data).nodes == {1: node}


def test_fields_that_a_newer_writer_appends_are_passed_over() -> None:
    data = beginning(HEADER) + frame(4, ENCODER.encode([1, 2, 3, "full", "more"]))
    assert parse(data).gaps == [Gap(1, 2, 3, "full")]


def test_a_newer_format_is_refused_by_name() -> None:
    with pytest.raises(CorruptArtifactError, match="format is 2"):
        parse(beginning(Header(2, 7, 1, "shop", "prod")))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1", "?"])
def test_arrays_keep_type_and_shape(dtype: str) -> None:
    array = np.arange(6).reshape(3, 2).astype(dtype)
    run = (1, None, array, {"y": array[:, 0]}, 0.0, 0.0, False)
    record = ("a", "e", 1, None, None, 200, 3, 0, 0.0, 1.0, None, [run])
    (found,) = parse(beginning(HEADER) + frame(REQUEST, ENCODER.encode(record))).requests
    np.testing.assert_array_equal(found.runs[0].inputs, array)
    np.testing.assert_array_equal(found.runs[0].outputs["y"], array[:, 0])
    assert found.runs[0].inputs.dtype == array.dtype


# ---------------------------------------------------------------------------------------------------------- following
def ids(follower: Follower) -> list[str]:
    return [seen.record.id for seen in follower.read() if isinstance(seen.record, Request)]


def test_a_follower_reads_on_where_it_was_through_rotation(journal: Journal) -> None:
    follower = Follower(journal.folder)
    told = [journal.ask(), journal.ask()]
    journal.recorder.flush()
    assert ids(follower) == told
    assert ids(follower) == []
    more = [journal.ask()]
    journal.recorder.rotate()
    more.append(journal.ask())
    journal.recorder.flush()
    assert ids(follower) == more
    follower.close()


def test_a_follower_that_begins_at_a_position_knows_the_nodes_before_it(journal: Journal) -> None:
    first = Follower(journal.folder)
    journal.ask()
    journal.recorder.flush()
    assert len(ids(first)) == 1
    position = first.position()
    first.close()
    told = journal.ask()
    journal.recorder.flush()
    second = Follower(journal.folder, position)
    (seen,) = [seen for seen in second.read() if isinstance(seen.record, Request)]
    assert isinstance(seen.record, Request)
    assert seen.record.id == told
    assert seen.nodes[seen.record.runs[0].node].model == "late-JFK"
    second.close()


def test_a_follower_reads_a_segment_to_its_end_although_it_was_compacted_away(journal: Journal) -> None:
    from retinue.control.compact import compact

    follower = Follower(journal.folder)
    journal.ask()
    journal.recorder.flush()
    ids(follower)
    told = journal.ask()
    journal.recorder.rotate()
    compact(journal.folder)
    assert ids(follower) == [told]
    assert ids(follower) == []
    follower.close()


def test_a_record_that_is_half_written_comes_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    request = Request("a", "e", 1, None, None, 200, 1, 0, 0.0, 1.0, None, ())
    whole = written([request, request])
    follower = Follower(tmp_path)
    with (tmp_path / "segments" / "1-1.open").open("wb", buffering=0) as file:
        file.write(beginning(HEADER))
        assert ids(follower) == []
        for byte in whole[len(beginning(HEADER)) :]:
            file.write(bytes([byte]))
            for one in itertools.islice(ids(follower), 2):
                assert one == "a"
        assert follower.position() == {"1-1": len(whole)}
    follower.close()


def test_records_larger_than_a_read_are_followed(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    run = (1, None, np.zeros((900_000, 1)), None, 0.0, 0.0, False)
    record = ("big", "e", 1, None, None, 200, 3, 0, 0.0, 1.0, None, [run])
    (tmp_path / "segments" / "1-1.seg").write_bytes(beginning(HEADER) + frame(REQUEST, ENCODER.encode(record)))
    follower = Follower(tmp_path)
    assert ids(follower) == ["big"]
    follower.close()
