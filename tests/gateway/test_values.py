"""JSON values to columns: strict, and every refusal names what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.contract import Field
from retinue.gateway.values import arrays, clean

JSON = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3)


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        ("FP64", [1, 1.5, -(2**40)], [True, "1", [1], {}]),
        ("INT64", [1, -(2**63), 2**63 - 1, 3.0], [1.5, True, "1", 2**63, 1e300]),
        ("BOOL", [True, False], [0, 1, "true"]),
        ("BYTES", ["", "ü"], [1, True, ["a"]]),
    ],
)
def test_a_type_takes_what_it_is_and_nothing_else(dtype: Any, good: list[Any], bad: list[Any]) -> None:
    field = Field("f", dtype)
    assert clean(list(good), field).problems is None
    cleaned = clean([*good, *bad], field)
    assert cleaned.problems is not None
    assert sorted(cleaned.problems) == list(range(len(good), len(good) + len(bad)))
    assert all("'f' must be" in problem for problem in cleaned.problems.values())


def test_missing_values_are_allowed_where_the_contract_says_so() -> None:
    assert clean([1.0, None], Field("f", "FP64")) == ([1.0, None], True, None)
    problems = clean([1.0, None], Field("f", "FP64", nullable=False)).problems
    assert problems == {1: "'f' is missing; it may not be null"}


def test_columns_have_the_types_that_models_are_run_with() -> None:
    fields = [Field("x", "FP64"), Field("n", "INT64"), Field("m", "INT64"), Field("b", "BOOL"), Field("t", "BYTES")]
    made = arrays([[1, None], [1, 2], [1, None], [True, False], ["a", None]], fields)
    assert {name: array.dtype.name for name, array in made.items()} == {
        "x": "float64",
        "n": "int64",
        "m": "float64",
        "b": "bool",
        "t": "object",
    }
    assert np.isnan(made["m"][1])
    assert made["t"].tolist() == ["a", None]


@given(st.lists(JSON, min_size=1, max_size=6), st.sampled_from(["FP64", "INT64", "BOOL", "BYTES"]))
def test_whatever_comes_either_becomes_an_array_or_is_refused(values: list[Any], dtype: Any) -> None:
    field = Field("f", dtype)
    cleaned = clean(values, field)
    good = [value for row, value in enumerate(cleaned.values) if row not in (cleaned.problems or {})]
    if good:
        assert len(arrays([good], [field])["f"]) == len(good)
