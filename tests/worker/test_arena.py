"""Shared memory between a gateway and its worker: spans never overlap, nothing is left behind."""

from __future__ import annotations

import os
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue_worker.arena import FIRST, Arena, Window


@given(st.lists(st.integers(0, 3 * FIRST) | st.none(), max_size=60))
def test_spans_that_are_in_use_never_overlap_and_keep_what_was_written(steps: list[int | None]) -> None:
    arena = Arena(largest=4 * FIRST)
    window = Window(arena.descriptor)
    used: deque[tuple[int, bytes]] = deque()
    for step, size in enumerate(steps):
        if size is None:
            if used:
                used.popleft()
                arena.give_back()
            continue
        content = bytes([step % 251]) * min(size, 100)
        start = arena.take(size)
        if start is None:
            assert used or size > 4 * FIRST
            continue
        tail = start + max(size - len(content), 0)
        assert arena.write(tail, [content[:10], content[10:]]) == len(content)
        used.append((tail, content))
        for at, written in used:
            with window.view(at, len(written)) as view:
                assert bytes(view) == written
    arena.close()


def test_an_arena_has_no_name_and_its_size_stays_within_its_limit() -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    arena = Arena(largest=2 * FIRST)
    assert arena.take(2 * FIRST) == 0
    assert arena.take(1) is None
    arena.give_back()
    assert arena.take(2 * FIRST + 1) is None
    assert os.fstat(arena.descriptor).st_size == 2 * FIRST
    assert os.fstat(arena.descriptor).st_nlink == 0
    if os.path.isdir("/dev/shm"):
        assert set(os.listdir("/dev/shm")) == before
    with pytest.raises(ValueError, match="outside of the shared memory"):
        arena.read(2 * FIRST - 1, 2)
    arena.close()


def test_memory_that_rests_is_given_back_to_the_system_and_can_be_used_again() -> None:
    arena = Arena()
    start = arena.take(FIRST)
    assert start == 0
    arena.write(0, [b"x" * FIRST])
    assert os.fstat(arena.descriptor).st_blocks > 0
    arena.rest()  # in use: nothing happens
    assert bytes(arena.read(0, 1)) == b"x"
    arena.give_back()
    arena.rest()
    assert os.fstat(arena.descriptor).st_blocks == 0
    assert arena.take(FIRST) == 0
    arena.write(0, [b"y"])
    assert bytes(arena.read(0, 1)) == b"y"
    arena.close()


def test_a_worker_cannot_be_sent_outside_of_the_memory() -> None:
    arena = Arena()
    arena.take(100)
    window = Window(arena.descriptor)
    with pytest.raises(ValueError, match="outside of the shared memory"):
        window.view(FIRST, 1)
    arena.close()
