"""Where a cutoff falls."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.errors import DataError
from retinue.core.portfolio import CutoffSpec
from retinue.sources.cutting import cutoff_of, moment

COUNTS = st.dictionaries(st.integers(0, 500), st.integers(1, 40), min_size=2, max_size=30)


def at(minutes: int) -> str:
    return moment((datetime(2020, 1, 1) + timedelta(minutes=minutes)).isoformat())  # noqa: DTZ001 - naive by rule


@given(COUNTS, st.floats(0.01, 0.9))
def test_the_cutoff_holds_out_at_least_the_share_with_as_few_rows_as_moments_allow(
    minutes: dict[int, int], share: float
) -> None:
    counts = {at(m): n for m, n in minutes.items()}
    total = sum(counts.values())
    cutoff = cutoff_of(CutoffSpec(share), counts, ["t"])
    assert cutoff in counts
    assert min(counts) < cutoff
    after = sum(n for m, n in counts.items() if m >= cutoff)
    later = sum(n for m, n in counts.items() if m > cutoff)
    assert later < share * total
    assert after >= share * total or cutoff == sorted(counts)[1]


def test_data_at_one_moment_or_without_rows_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="all rows of t are at 2020-01-01 00:00:00"):
        cutoff_of(CutoffSpec(), {at(0): 10}, ["t"])
    with pytest.raises(DataError, match="there are no rows with a time in t"):
        cutoff_of(CutoffSpec(), {}, ["t"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-04-30", "2013-04-30 00:00:00"),
        ("2013-04-30T18:05", "2013-04-30 18:05:00"),
        ("2013-04-30T18:05:00.120000Z", "2013-04-30 18:05:00.12"),
        ("2013-04-30T18:05:00-04:00", "2013-04-30 22:05:00"),
    ],
)
def test_moments_are_brought_to_one_form(text: str, expected: str) -> None:
    assert moment(text) == expected
    assert moment(expected) == expected
