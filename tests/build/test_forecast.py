"""Targets of forecasts: the next rows of a series and nothing else, never anything at or after a cutoff."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.build.columns import target_values
from retinue.build.dataset import primary_columns, scales, split, training
from retinue.build.folds import Fold
from retinue.build.forecast import ACROSS, NOT_FOLLOWED, irregular, naive_scales, origin_blocks, scale_of, with_steps
from retinue.core.errors import DataError, Location
from retinue.core.forecast import ForecastSpec
from retinue.core.portfolio import DataUse, ModelSpec, TableSpec
from retinue.sources.base import Pin
from retinue.sources.catalog import Catalog

WHERE = Location("portfolio.yaml", 7, 3)
HOUR = 3_600_000_000
Rows = list[tuple[str, int, float | None]]


def model(**own: Any) -> ModelSpec:
    return ModelSpec(
        "load",
        WHERE,
        "m:train",
        "base",
        (DataUse("meters"),),
        ("lag",),
        target="load",
        task="forecast",
        forecast=replace(ForecastSpec(horizon=2, series=("meter",)), **own),
    )


def table(rows: Rows) -> pa.Table:
    """Rows of (meter, hour, load), with their own number as feature."""
    meters, hours, loads = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "lag": pa.array(np.arange(len(rows), dtype=np.float64)),
            "meter": pa.array(meters, pa.string()),
            "load": pa.array(loads, pa.float64()),
            "hour": pa.array([h * HOUR for h in hours], pa.timestamp("us")),
        }
    )


def steps(rows: Rows, **own: Any) -> tuple[dict[tuple[str, int], list[float]], dict[str, int]]:
    """(meter, hour) → its targets, and what was dropped."""
    dropped: dict[str, int] = {}
    spec = model(**own)
    found = with_steps(table(rows), spec, "hour", dropped)
    origins = zip(found.column("meter").to_pylist(), found.column("hour").cast("int64").to_pylist(), strict=True)
    return {(m, h // HOUR): t.tolist() for (m, h), t in zip(origins, target_values(found, spec), strict=True)}, dropped


def test_the_targets_of_a_row_are_the_next_rows_of_its_series_whatever_the_order() -> None:
    rows: Rows = [("b", 1, 20.0), ("a", 3, 3.0), ("a", 1, 1.0), ("b", 2, 21.0), ("a", 2, 2.0), ("a", 4, 4.0)]
    found, dropped = steps(rows)
    assert found == {("a", 1): [2.0, 3.0], ("a", 2): [3.0, 4.0]}
    assert dropped == {NOT_FOLLOWED: 4, ACROSS: 0}


def test_a_missing_target_ahead_drops_the_row_and_is_never_skipped() -> None:
    rows: Rows = [("a", h, None if h == 3 else float(h)) for h in range(1, 7)]
    found, dropped = steps(rows)
    assert found == {("a", 3): [4.0, 5.0], ("a", 4): [5.0, 6.0]}
    assert dropped == {NOT_FOLLOWED: 2, ACROSS: 2}


def test_a_step_is_a_row_unless_its_length_is_given() -> None:
    rows: Rows = [("a", h, float(h)) for h in (1, 2, 3, 7, 8, 9)]
    assert steps(rows)[0][("a", 2)] == [3.0, 7.0]
    found, dropped = steps(rows, every=3600.0)
    assert set(found) == {("a", 1), ("a", 7)}
    assert dropped == {NOT_FOLLOWED: 2, ACROSS: 2}
    assert irregular(table(rows), model(), "hour") == 1


def test_two_rows_of_a_series_at_one_moment_are_refused_with_the_first() -> None:
    with pytest.raises(DataError, match=r"1 rows have the series and the time of another, the first at .*02:00.* of a"):
        steps([("a", 1, 1.0), ("a", 2, 2.0), ("a", 2, 3.0), ("b", 2, 3.0)])
    with pytest.raises(DataError, match="series and the time") as caught:
        steps([("a", 1, 1.0), ("b", 1, 2.0)], series=())
    assert "series" in (caught.value.hint or "")


@pytest.mark.parametrize("rows", [[], [("a", 1, 1.0)], [("a", 1, 1.0), ("a", 2, 2.0)]])
def test_series_shorter_than_the_horizon_give_no_rows(rows: Rows) -> None:
    assert steps(rows, horizon=5)[0] == {}


def test_naive_scales_are_those_of_the_textbook() -> None:
    values = [3.0, 5.0, 4.0, 8.0, 6.0]
    rows: Rows = [("a", h, v) for h, v in enumerate(values)]
    found = naive_scales(table([*rows, ("b", 0, 1.0)]), model(), "hour")
    assert found == {("a",): ((2 + 1 + 4 + 2) / 4, (4 + 1 + 16 + 4) / 4)}
    season = naive_scales(table(rows), model(season=2), "hour")
    assert season == {("a",): ((1 + 3 + 2) / 3, (1 + 9 + 4) / 3)}
    asked = table([("c", 9, 1.0), ("a", 9, 1.0)])
    assert np.array_equal(scale_of(asked, model(), found), [[np.nan, np.nan], [2.25, 6.25]], equal_nan=True)


def test_origins_are_judged_in_blocks_as_long_as_the_horizon_while_there_are_enough() -> None:
    rows = table([(m, h, 1.0) for h in range(100) for m in ("a", "b")])
    assert len(np.unique(origin_blocks(rows, "hour", 1))) == 100
    assert origin_blocks(rows, "hour", 3)[:8].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert len(np.unique(origin_blocks(rows, "hour", 50))) == 34  # a gate needs 30 blocks: blocks of 3


class _Table:
    """Stands for a catalog over one table: what `split` asks for, cut as the real one cuts."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows

    def spec(self, table: str) -> TableSpec:
        return TableSpec(table, WHERE, path="x", time="hour")

    def columns(self, table: str) -> dict[str, str]:
        return {"lag": "FP64", "meter": "BYTES", "load": "FP64", "hour": "TIMESTAMP"}

    def read(self, table: str, columns: Any, filters: Any, pin: Pin, **cut: str | None) -> pa.Table:
        moments = np.asarray(self.rows.column("hour").to_numpy(), dtype="datetime64[us]")
        keep = np.ones(len(moments), dtype=bool)
        if cut.get("before"):
            keep &= moments < np.datetime64(str(cut["before"]), "us")
        if cut.get("since"):
            keep &= moments >= np.datetime64(str(cut["since"]), "us")
        return self.rows.filter(pa.array(keep)).select(list(columns))


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.none() | st.floats(0, 9)),
        min_size=8,
        unique_by=lambda row: row[:2],
    ),
    horizon=st.integers(1, 5),
    cut=st.integers(1, 40),
    every=st.sampled_from([None, 3600.0]),
)
def test_no_target_at_or_after_the_cutoff_is_seen_in_training(
    rows: Rows, horizon: int, cut: int, every: float | None
) -> None:
    spec, catalog = model(horizon=horizon, every=every), _Table(table(rows))
    cutoff = f"1970-01-{1 + cut // 24:02d} {cut % 24:02d}:00:00"
    known = {(m, h): v for m, h, v in rows}

    def check(found: pa.Table, low: int, high: int) -> None:
        truths = target_values(found, spec)
        origins = zip(found.column("meter").to_pylist(), found.column("hour").cast("int64").to_pylist(), strict=True)
        for (meter, moment), truth in zip(origins, truths, strict=True):
            after = sorted(h for m, h in known if m == meter and h > moment // HOUR)[:horizon]
            assert low <= moment // HOUR
            assert len(after) == horizon
            assert after[-1] < high
            assert [known[meter, h] for h in after] == truth.tolist()

    try:
        data = split(catalog, spec, Pin(), cutoff)  # type: ignore[arg-type]  # as much of a catalog as is asked
    except DataError:
        return  # too few rows on one side
    check(data.train["meters"], 0, cut)
    check(data.holdout, cut, 1_000)
    assert data.scale is not None
    assert data.scale.shape == (data.holdout.num_rows, 2)


Make = Callable[..., Catalog]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(**changes: Any) -> Catalog:
        fields = {"path": "meters.parquet", "time": "hour", **changes}
        with duckdb.connect(config={"threads": 1}) as con:
            con.execute(
                f"""COPY (SELECT TIMESTAMP '2020-01-01' + to_hours((i // 2)::INT) AS hour,
                    ['a', 'b'][i % 2 + 1] AS meter,
                    (i * 37 % 101)::DOUBLE AS lag, (i * 13 % 17)::DOUBLE AS load, 'x' || i AS name
                    FROM range(400) r(i)) TO '{tmp_path}/meters.parquet'"""
            )
        spec = TableSpec("meters", WHERE, **fields)
        return Catalog({"meters": spec}, tmp_path, tmp_path / "cache")

    return build


CUTOFF = "2020-01-07 00:00:00"


def test_training_and_holdout_of_a_forecast_do_not_touch(make: Make) -> None:
    data = split(make(), model(horizon=3), Pin(), CUTOFF)
    rows = data.train["meters"]
    assert rows.column_names == ["lag", "meter", "load", "hour", "load_1", "load_2", "load_3"]
    assert str(max(rows.column("hour").to_pylist())) == "2020-01-06 20:00:00"
    assert str(min(data.holdout.column("hour").to_pylist())) == CUTOFF
    assert data.dropped == {"target not yet known": 0, NOT_FOLLOWED: 6, ACROSS: 0, "holdout: " + NOT_FOLLOWED: 6,
                            "holdout: " + ACROSS: 0}  # fmt: skip
    assert data.notes == ()
    fold = Fold("2020-01-04 00:00:00", "2020-01-04 00:00:00", "2020-01-05 00:00:00")
    early = training(make(), model(horizon=3), Pin(), CUTOFF, fold)["meters"]
    assert str(max(early.column("hour").to_pylist())) == "2020-01-03 20:00:00"
    assert scales(make(), model(), Pin(), CUTOFF).keys() == {("a",), ("b",)}


def test_targets_that_become_known_late_are_not_seen_before_they_are(make: Make) -> None:
    data = split(make(available=(("load", 5 * 3600.0),)), model(horizon=3), Pin(), CUTOFF)
    assert str(max(data.train["meters"].column("hour").to_pylist())) == "2020-01-06 16:00:00"


@pytest.mark.parametrize(
    ("changes", "own", "said"),
    [
        ({"time": None, "key": "lag"}, {}, "has no time"),
        ({}, {"horizon": 150}, "0 rows to train on and 0 to be judged by .*not followed by enough rows"),
    ],
)
def test_what_cannot_be_forecast_is_refused(
    make: Make, changes: dict[str, Any], own: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        split(make(**changes), model(**own), Pin(), CUTOFF)
    assert caught.value.hint


def test_a_target_that_is_no_number_is_refused(make: Make) -> None:
    with pytest.raises(DataError, match="which forecast cannot predict"):
        split(make(), replace(model(), target="name"), Pin(), CUTOFF)


def test_a_feature_that_looks_one_step_ahead_is_refused_and_the_present_value_is_not(
    make: Make, tmp_path: Path
) -> None:
    catalog = make()
    there = {"meters": catalog.spec("meters")}
    lead = "lead(load) over (partition by meter order by hour)"
    for name, sql in {"now": "load", "lead": lead}.items():
        there[name] = TableSpec(name, WHERE, sql=f"select *, {sql} as f from meters", time="hour")
    both = Catalog(there, tmp_path, tmp_path / "cache")
    for name in ("now", "lead"):
        spec = replace(model(), data=(DataUse(name),), features=("f",))
        if name == "lead":
            with pytest.raises(DataError, match="the feature f of load tells its target load_1 exactly"):
                split(both, spec, Pin(), CUTOFF)
        else:
            assert split(both, spec, Pin(), CUTOFF).train[name].num_rows > 100


def test_series_are_read_though_they_are_no_features() -> None:
    assert primary_columns(model(), TableSpec("meters", WHERE, path="x", time="hour")) == (
        "lag", "meter", "load", "hour",
    )  # fmt: skip
