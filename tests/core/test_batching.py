"""What goes into a batch, and what measured runs say about its size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retinue.core.batching import RunTimes, changed, take
from retinue.core.contract import Field


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 100))
def test_a_batch_is_as_large_as_fits_and_never_empty(counts: list[int], limit: int) -> None:
    taken = take(counts, limit)
    assert taken >= 1
    assert taken == 1 or sum(counts[:taken]) <= limit
    assert taken == len(counts) or sum(counts[: taken + 1]) > limit


def test_only_columns_whose_type_changes_with_a_gap_keep_requests_apart() -> None:
    fields = [Field("n", "INT64"), Field("x", "FP64"), Field("t", "BYTES"), Field("b", "BOOL")]
    assert changed(fields, [False] * 4) == ()
    assert changed(fields, [False, True, True, False]) == ()
    assert changed(fields, [True, False, False, True]) == (0, 3)


def test_the_best_batch_is_where_rows_per_second_stop_growing() -> None:
    times = RunTimes(4096)
    assert times.best == 4096  # nothing is known against large ones
    for rows, seconds in ((1, 0.001), (64, 0.002), (512, 0.008), (4096, 0.400)):
        for _ in range(50):
            times.measured(rows, seconds)
    assert times.best == 1024  # 512 rows and what counts with them run best; 4096 are six times slower a row
    for _ in range(50):
        times.measured(4096, 0.060)
    assert times.best == 4096


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-6, 1.0)), max_size=40), st.integers(1, 10_000))
def test_the_expected_time_is_never_below_what_smaller_batches_took_on_the_fastest_run(
    runs: list[tuple[int, float]], rows: int
) -> None:
    times = RunTimes(4096)
    for size, seconds in runs:
        times.measured(size, seconds)
    expected = times.expect(rows)
    assert (expected == 0.0) == (not runs)
    if runs:
        assert expected >= min(seconds for _, seconds in runs) * 0.99
    assert 64 <= times.best <= 4096
