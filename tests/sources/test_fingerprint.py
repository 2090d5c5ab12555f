"""Laws of the content fingerprint."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue.sources.base import Facts, Pin, Question
from retinue.sources.catalog import Catalog

from .conftest import table

ROW = st.tuples(
    st.one_of(st.none(), st.text(max_size=4)),
    st.one_of(st.none(), st.floats(width=32, allow_nan=False)),
    st.integers(-5, 5),
)
ROWS = st.lists(ROW, min_size=1, max_size=8)
Rows = list[tuple[str | None, float | None, int]]
LAWS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def facts(rows: Rows, columns: tuple[str, ...] = ("a", "b", "c"), row_group_size: int = 100) -> Facts:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = pa.table(
            {
                "a": pa.array([r[0] for r in rows], pa.string()),
                "b": pa.array([r[1] for r in rows], pa.float64()),
                "c": pa.array([r[2] for r in rows], pa.int32()),
            }
        )
        pq.write_table(data, folder / "x.parquet", row_group_size=row_group_size)
        catalog = Catalog({"x": table("x", path="x.parquet")}, folder, folder / "cache")
        return catalog.facts([Question("x", (), columns)], Pin())[0]


@LAWS
@given(rows=ROWS, data=st.data())
def test_the_fingerprint_does_not_depend_on_the_order_of_rows_or_columns(rows: Rows, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    assert facts(rows) == facts(shuffled, ("c", "a", "b"), row_group_size=2)


@LAWS
@given(rows=ROWS, more=ROW)
def test_one_more_row_changes_the_fingerprint_even_a_repeated_one(rows: Rows, more: tuple[str, float, int]) -> None:
    assert facts(rows).fingerprint != facts([*rows, more]).fingerprint
    assert facts(rows).fingerprint != facts([*rows, rows[0]]).fingerprint


@LAWS
@given(rows=ROWS, other=ROW, data=st.data())
def test_another_cell_changes_the_fingerprint(rows: Rows, other: tuple[str, float, int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    changed = [*rows[:place], other, *rows[place + 1 :]]
    same = sorted(map(repr, _plain(rows))) == sorted(map(repr, _plain(changed)))
    assert (facts(rows).fingerprint == facts(changed).fingerprint) is same


def test_text_cannot_imitate_the_border_between_two_cells() -> None:
    assert facts([("1|1:2", None, 0)]).fingerprint != facts([("1", 2.0, 0)]).fingerprint
    assert facts([("-", None, 0)]).fingerprint != facts([(None, None, 0)]).fingerprint


def _plain(rows: Rows) -> Rows:
    return [(a, b + 0.0 if b is not None else None, c) for a, b, c in rows]
