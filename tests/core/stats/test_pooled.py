"""The family test: estimate, bounds, guard rails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retinue.core.stats.pooled import Share, pooled, worse_p

RNG = np.random.default_rng
share = st.builds(
    Share,
    n=st.integers(30, 500),
    difference=st.floats(-0.1, 0.1),
    se=st.floats(0, 0.05),
    groups=st.integers(30, 500),
    margin=st.floats(0, 0.05),
)


def test_the_estimate_and_the_margin_are_weighted_by_rows() -> None:
    family = [Share(100, 0.02, 0.01, 100, 0.01), Share(300, -0.02, 0.01, 300, 0.02)]
    found, margin = pooled(family, RNG(0))
    assert found.estimate == pytest.approx((100 * 0.02 - 300 * 0.02) / 400)
    assert margin == pytest.approx((100 * 0.01 + 300 * 0.02) / 400)
    assert (found.n, found.groups, found.method) == (400, 2, "rows within 2 members")


@given(st.lists(share, min_size=2, max_size=20))
def test_the_order_of_members_does_not_matter_and_the_interval_holds_its_estimate(family: list[Share]) -> None:
    found, margin = pooled(family, RNG(0))
    assert (found, margin) == pooled(family[::-1], RNG(0))
    assert found.low is not None
    assert found.high is not None
    assert found.estimate is not None
    assert found.low <= found.estimate <= found.high


@pytest.mark.parametrize("members", [4, 25])
def test_pooled_bounds_miss_about_as_often_as_they_say(members: int) -> None:
    missed = 0
    for seed in range(200):
        rng = RNG(seed)
        n = rng.integers(100, 400, members)
        se = 0.2 / np.sqrt(n)
        family = [Share(int(k), float(rng.normal(0, s)), float(s), int(k), 0.01) for k, s in zip(n, se, strict=True)]
        high = pooled(family, rng)[0].high
        missed += high is not None and high < 0
    assert missed <= stats.binom.ppf(0.999, 200, 0.06)


def test_one_member_is_no_family() -> None:
    found, _ = pooled([Share(100, 0.0, 0.01, 100, 0.01)], RNG(0))
    assert found.low is None
    assert "two members" in found.why
    assert pooled([], RNG(0))[0].estimate is None


def test_the_guard_rail_p_value_is_the_t_test_and_never_nan() -> None:
    one = Share(400, 0.05, 0.01, 400, 0.02)
    assert worse_p(one) == pytest.approx(stats.t.sf(3.0, 399))
    assert worse_p(replace(one, se=0.0)) == 0.0
    assert worse_p(replace(one, se=0.0, difference=0.0)) == 1.0
    assert worse_p(replace(one, se=0.0, groups=2)) == 1.0
