"""Tables and batches: what is missing stays missing, and names are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.build.columns import attach, from_columns, input_fields, profile, target_values, to_columns, upstream_rows
from retinue.core.contract import ColumnProfile, DType
from retinue.core.errors import DataError, Location
from retinue.core.portfolio import DataUse, ModelSpec, Need

TYPES: dict[str, DType] = {"b": "BOOL", "i": "INT64", "f": "FP64", "s": "BYTES"}


def table(rows: list[tuple[Any, ...]]) -> Any:
    kinds = [pa.bool_(), pa.int64(), pa.float64(), pa.string()]
    return pa.table({n: pa.array([r[i] for r in rows], kinds[i]) for i, n in enumerate(TYPES)})


ROW = st.tuples(
    st.one_of(st.none(), st.booleans()),
    st.one_of(st.none(), st.integers(-(2**40), 2**40)),
    st.one_of(st.none(), st.floats(allow_nan=False)),
    st.one_of(st.none(), st.text(max_size=3)),
)


@settings(deadline=None)
@given(st.lists(ROW, max_size=6))
def test_a_table_comes_back_from_its_batch(rows: list[tuple[Any, ...]]) -> None:
    data = table(rows)
    assert from_columns(to_columns(data, list(TYPES)), TYPES).equals(data)


def test_arrays_are_of_the_kind_that_models_expect() -> None:
    whole = to_columns(table([(True, 1, 1.5, "x")]), list(TYPES))
    assert [a.dtype.kind for a in whole.values()] == ["b", "i", "f", "O"]
    holes = to_columns(table([(None, None, None, None), (True, 1, 1.5, "x")]), list(TYPES))
    assert [a.dtype.kind for a in holes.values()] == ["f", "f", "f", "O"]
    assert np.isnan(holes["i"][0])
    assert holes["s"][0] is None


def test_an_attached_column_is_added_or_replaced_and_must_fit() -> None:
    data = attach(table([(True, 1, 1.5, "x")]), "up", np.array([0.5]))
    assert attach(data, "up", np.array([0.7])).column("up").to_pylist() == [0.7]
    wide = attach(data, "p", np.array([[0.1, 0.9]]))
    assert to_columns(wide, ["p"])["p"].tolist() == [[0.1, 0.9]]
    with pytest.raises(ValueError, match="2 values for 1 rows"):
        attach(data, "up", np.zeros(2))


def test_upstream_inputs_are_taken_through_the_mapping() -> None:
    need = Need("congestion", "delay", "congestion", (("hour", "i"),))
    assert upstream_rows(need, ["s", "hour"], table([(True, 7, 1.5, "x")])).to_pylist() == [{"s": "x", "hour": 7}]
    with pytest.raises(DataError, match="no column wind for input wind of congestion"):
        upstream_rows(need, ["wind"], table([]))


def test_inputs_have_wire_types_and_moments_are_refused() -> None:
    assert [f.dtype for f in input_fields(table([]), list(TYPES))] == list(TYPES.values())
    with pytest.raises(DataError, match="cannot be a model's input"):
        input_fields(pa.table({"t": pa.array([], pa.timestamp("us"))}), ["t"])


def test_the_profile_tells_bounds_categories_and_what_is_missing() -> None:
    data = table([(True, 1, 1.5, "x"), (False, 5, float("nan"), None), (True, 3, None, "a"), (True, 3, 0.5, "a")])
    assert profile(data, list(TYPES)) == [
        ColumnProfile("b", 0.0, 0.0, 1.0),
        ColumnProfile("i", 0.0, 1.0, 5.0),
        ColumnProfile("f", 0.5, 0.5, 1.5),
        ColumnProfile("s", 0.25, categories=("a", "x")),
    ]
    many = pa.table({"s": [str(i) for i in range(201)]})
    assert profile(many, ["s"])[0].categories is None
    assert profile(many.slice(0, 200), ["s"])[0].categories is not None
    assert profile(table([]), ["f"]) == [ColumnProfile("f", 0.0)]


def test_targets_are_numbers_for_regression_and_labels_otherwise() -> None:
    spec = ModelSpec("m", Location("p"), "a:b", "e", (DataUse("t"),), ("f",), "i", "regression")
    assert target_values(table([(True, 1, 1.5, "x")]), spec).dtype == np.float64
    labels = ModelSpec("m", Location("p"), "a:b", "e", (DataUse("t"),), ("f",), "b", "binary")
    assert target_values(table([(True, 1, 1.5, "x")]), labels).tolist() == [True]
