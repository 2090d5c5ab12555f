"""The batching law: split(merge(requests)) gives every request its own rows back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retinue.core.batching import Column, batch_key, merge, split, take
from retinue.core.contract import Field

NAMES = ("a", "b")
ITEMS = st.lists(
    st.integers(1, 5).flatmap(
        lambda rows: st.lists(
            st.lists(st.integers() | st.none() | st.text(max_size=3), min_size=rows, max_size=rows),
            min_size=len(NAMES),
            max_size=len(NAMES),
        )
    ),
    min_size=1,
    max_size=6,
)


@given(ITEMS)
def test_splitting_what_was_merged_gives_each_request_its_rows(items: list[list[Column]]) -> None:
    merged = dict(zip(NAMES, merge(items), strict=True))
    parts = split(merged, [len(item[0]) for item in items])
    assert [[part[name] for name in NAMES] for part in parts] == items


@given(ITEMS, ITEMS, ITEMS)
def test_merging_is_associative(a: list[list[Column]], b: list[list[Column]], c: list[list[Column]]) -> None:
    assert merge([merge([*a, *b]), *c]) == merge([*a, merge([*b, *c])])


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 100))
def test_a_batch_is_as_large_as_fits_and_never_empty(counts: list[int], limit: int) -> None:
    taken = take(counts, limit)
    assert taken >= 1
    assert taken == 1 or sum(counts[:taken]) <= limit
    assert taken == len(counts) or sum(counts[: taken + 1]) > limit


def test_only_columns_whose_type_changes_with_a_gap_keep_requests_apart() -> None:
    fields = [Field("n", "INT64"), Field("x", "FP64"), Field("t", "BYTES"), Field("b", "BOOL")]
    assert batch_key(fields, [False] * 4) == ()
    assert batch_key(fields, [False, True, True, False]) == ()
    assert batch_key(fields, [True, False, False, True]) == (0, 3)
