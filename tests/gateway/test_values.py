"""JSON values to columns: strict, and every refusal names what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.contract import Field
from retinue.gateway.values import COLUMNS, MATRIX, ROWS, array, assemble, clean, clean_matrix, columns_of

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
    block = list(zip([1, None], [1, 2], [1, None], [True, False], ["a", None], strict=True))
    made = columns_of(ROWS, block, fields)
    assert {name: made[name].dtype.name for name in made} == {
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
        assert len(array(good, field.dtype)) == len(good)


NUMBERS = st.lists(st.lists(st.floats(-1e6, 1e6) | st.just(np.nan), min_size=2, max_size=2), min_size=1, max_size=5)


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_rows_columns_and_a_matrix_are_three_forms_of_the_same(blocks: list[list[list[float]]]) -> None:
    fields = [Field("a", "FP64"), Field("b", "FP64")]
    rows = [[tuple(None if np.isnan(v) else v for v in row) for row in block] for block in blocks]
    matrices = [np.array(block) for block in blocks]
    columns: list[dict[str, Any]] = [{"a": matrix[:, 0], "b": [row[1] for row in block]}
                                     for matrix, block in zip(matrices, rows, strict=True)]  # fmt: skip
    wanted = np.concatenate(matrices)
    for form, parts in ((ROWS, rows), (MATRIX, matrices), (COLUMNS, columns)):
        made = columns_of(form, assemble(form, parts), fields)
        assert np.array_equal(np.stack([made["a"], made["b"]], axis=1), wanted, equal_nan=True), form


def test_a_packed_array_is_checked_against_its_fields() -> None:
    fields = [Field("a", "FP64"), Field("n", "INT64"), Field("s", "FP64", nullable=False)]
    matrix = np.array([[1.5, 2.0, 3.0], [np.nan, 2.5, 3.0], [1.0, 2.0, np.nan]])
    assert clean_matrix(matrix[:1], fields) == {}
    problems = clean_matrix(matrix, fields)
    assert problems == {1: "'n' must be an integer, not 2.5", 2: "'s' is missing; it may not be null"}


@pytest.mark.parametrize(("kind", "dtype", "good"), [
    ("float32", "FP64", True), ("int8", "FP64", True), ("uint64", "INT64", True), ("bool", "BOOL", True),
    ("bool", "FP64", False), ("int64", "BOOL", False), ("float64", "BYTES", False),
])  # fmt: skip
def test_arrays_follow_the_rules_of_json(kind: str, dtype: Any, good: bool) -> None:
    cleaned = clean(np.ones(3, dtype=kind), Field("f", dtype))
    assert (cleaned.problems is None) == good
    if good:
        assert array(cleaned.values, dtype).tolist() == [1, 1, 1]
