"""A view that looks ahead is caught on the data; one that joins as of time passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec
from retinue.sources.base import Pin

from .conftest import Make, table, write_parquet

CUTOFF = "2020-01-20 00:00:00"


def view(sql: str, available: tuple[tuple[str, float], ...] = ()) -> TableSpec:
    return table("v", sql=sql, time="sched", key="flight_id", available=available)


def caught(make: Make, spec: TableSpec, *columns: str) -> DataError:
    with pytest.raises(DataError, match="view v looks ahead") as error:
        make(spec).check_lookahead("v", columns, Pin(), CUTOFF)
    assert error.value.where == "portfolio.yaml:7:3"
    assert "as of time" in error.value.hint
    return error.value


def test_weather_joined_as_of_time_passes(make: Make) -> None:
    spec = view(
        "SELECT f.*, w.temp FROM flights f ASOF LEFT JOIN weather w ON f.origin = w.origin AND f.sched >= w.hour"
    )
    make(spec).check_lookahead("v", ["temp", "delay", "late", "origin"], Pin(), CUTOFF)


def test_weather_of_the_next_hour_is_caught(make: Make) -> None:
    spec = view(
        "SELECT f.*, w.temp FROM flights f ASOF LEFT JOIN weather w ON f.origin = w.origin AND f.sched <= w.hour"
    )
    assert "column temp of the row flight_id=" in caught(make, spec, "temp").message


def test_an_average_of_the_target_over_all_time_is_caught(make: Make) -> None:
    spec = view("SELECT *, avg(late::INT) OVER (PARTITION BY origin) AS rate FROM flights")
    assert "column rate of the row flight_id=" in caught(make, spec, "rate").message


def test_an_average_over_the_rows_before_passes(make: Make) -> None:
    spec = view(
        "SELECT *, avg(delay) OVER (PARTITION BY origin ORDER BY sched ROWS BETWEEN 20 PRECEDING AND 1 PRECEDING) AS r "
        "FROM flights"
    )
    make(spec).check_lookahead("v", ["r"], Pin(), CUTOFF)


def test_a_second_table_that_carries_the_target_is_caught(make: Make, root: Path) -> None:
    write_parquet(
        root / "outcomes.parquet",
        f"SELECT flight_id, sched + INTERVAL 2 HOUR AS arrived, late AS outcome FROM '{root / 'flights.parquet'}'",
    )
    outcomes = table("outcomes", path="outcomes.parquet", time="arrived")
    spec = view("SELECT f.*, o.outcome FROM flights f LEFT JOIN outcomes o USING (flight_id)")
    with pytest.raises(DataError, match="column outcome of the row"):
        make(outcomes, spec).check_lookahead("v", ["outcome"], Pin(), CUTOFF)


def test_a_late_cell_passed_on_under_another_name_is_caught_unless_declared(make: Make) -> None:
    late = table("flights", path="flights.parquet", time="sched", key="flight_id", available=(("delay", 7200.0),))
    sql = "SELECT flight_id, sched, delay * 2 AS twice, origin FROM flights"
    with pytest.raises(DataError, match="column twice of the row"):
        make(late, view(sql)).check_lookahead("v", ["twice", "origin"], Pin(), CUTOFF)
    make(late, view(sql, (("twice", 7200.0),))).check_lookahead("v", ["twice", "origin"], Pin(), CUTOFF)


def test_rows_chosen_by_what_comes_later_are_caught(make: Make) -> None:
    vanishing = view("SELECT * FROM flights f WHERE EXISTS (SELECT 1 FROM flights g WHERE g.sched > f.sched)")
    assert "is there only because of what came later" in caught(make, vanishing, "origin").message
    appearing = view(
        "SELECT * FROM flights f WHERE NOT EXISTS (SELECT 1 FROM flights g WHERE g.sched > f.sched + INTERVAL 1 HOUR)"
    )
    assert "is gone because of what came later" in caught(make, appearing, "origin").message


def test_a_row_that_sums_up_a_window_may_begin_to_exist_within_its_declared_delay(make: Make) -> None:
    sql = "SELECT date_trunc('day', sched) AS day, origin, avg(delay) AS mean FROM flights GROUP BY ALL"
    sums = table("v", sql=sql, time="day", available=(("mean", 26 * 3600.0),))
    make(sums).check_lookahead("v", ["origin", "mean"], Pin(), CUTOFF)
    counted = table(
        "v", sql=sql.replace("avg(delay)", "count(*) AS n, avg(delay)"), time="day", available=sums.available
    )
    with pytest.raises(DataError, match="column n of the row"):
        make(counted).check_lookahead("v", ["origin", "n"], Pin(), CUTOFF)


def test_sums_that_differ_by_rounding_alone_pass(make: Make) -> None:
    spec = view("SELECT *, sum(delay / 7) OVER (ORDER BY sched, flight_id) AS s FROM flights")
    make(spec).check_lookahead("v", ["s"], Pin(), CUTOFF)


def test_a_window_over_files_without_time_cannot_be_shown_and_is_refused(make: Make) -> None:
    raw = table("raw", path="flights.parquet")
    spec = table("v", sql="SELECT *, avg(late::INT) OVER (PARTITION BY origin) AS r FROM raw", time="sched")
    with pytest.raises(DataError, match="gathers rows of raw, which have no time"):
        make(raw, spec).check_lookahead("v", ["r"], Pin(), CUTOFF)
    timed = table("timed", sql="SELECT *, row_number() OVER (ORDER BY sched) AS n FROM raw", time="sched")
    over = view("SELECT *, avg(late::INT) OVER (PARTITION BY origin) AS r FROM timed")
    catalog = make(raw, timed, over)
    catalog.check_lookahead("timed", ["n"], Pin(), CUTOFF)
    with pytest.raises(DataError, match="column r of the row"):
        catalog.check_lookahead("v", ["r"], Pin(), CUTOFF)


def test_a_table_of_files_passes(make: Make) -> None:
    make().check_lookahead("flights", ["delay"], Pin(), CUTOFF)
