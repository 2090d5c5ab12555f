"""Folds: no row is answered by a model that saw it, or anything after it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.build.folds import folds, hash_folds, held_out, in_fold
from retinue.core.errors import DataError

CUTOFF = "2020-01-01 12:00:00"


@settings(deadline=None)
@given(st.lists(st.integers(0, 20 * 60), min_size=2, max_size=60), st.integers(1, 6))
def test_folds_chain_forward_and_leave_only_the_first_block_out(minutes: list[int], k: int) -> None:
    times = np.datetime64("2020-01-01T00:00", "us") + np.array(minutes).astype("timedelta64[m]")
    table = pa.table({"t": pa.array(times)})
    before = times[times < np.datetime64(CUTOFF)]
    if len(np.unique(before)) < 2:
        with pytest.raises(DataError, match="not enough to answer"):
            folds(table.column("t"), CUTOFF, k)
        return
    try:
        found = folds(table.column("t"), CUTOFF, k)
    except DataError:
        return  # all cuts fell on the first moment
    assert 1 <= len(found) <= k
    assert all(fold.train_before <= fold.start < fold.end for fold in found)
    assert all(a.end == b.start for a, b in pairwise(found))
    answered = np.sum([in_fold(table, fold, "t") for fold in found], axis=0)
    start = np.datetime64(found[0].start)
    assert start > before.min()
    assert (answered == ((times >= start) & (times < np.datetime64(CUTOFF)))).all()


def test_hash_folds_answer_each_row_once_and_keep_equal_keys_together() -> None:
    table = pa.table({"k": [f"key-{i % 300}" for i in range(900)]})
    masks = np.array([in_fold(table, fold) for fold in hash_folds("k", 4)])
    assert (masks.sum(axis=0) == 1).all()
    assert (masks[:, :300] == masks[:, 300:600]).all()
    assert masks.sum(axis=1).min() > 150


def test_the_hash_holdout_is_stable_about_its_share_and_blind_to_missing_keys() -> None:
    column = pa.chunked_array([pa.array([*range(10_000)]), pa.array([None], pa.int64())])
    mask = held_out(column, 0.2)
    assert 1_900 < mask.sum() < 2_100
    assert not mask[-1]
    assert (
        np.flatnonzero(mask)[:8].tolist()
        == np.flatnonzero(held_out(pa.chunked_array([[*range(50)]]), 0.2))[:8].tolist()
    )
    text = pa.chunked_array([[str(i) for i in range(10_000)]])
    assert (held_out(text, 0.2) == mask[:-1]).all()


def test_one_moment_cannot_be_folded() -> None:
    times = pa.chunked_array([pa.array([np.datetime64("2020-01-01T00:00", "us")] * 5)])
    with pytest.raises(DataError, match="5 rows before the cutoff"):
        folds(times, CUTOFF)
