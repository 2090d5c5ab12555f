"""Data checks on real rows, and files of one pattern that do not fit together."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retinue.build.data_checks import accepted_rows
from retinue.core.checks import CheckResult, CheckSpec, describe_check
from retinue.core.declaration import table_body
from retinue.core.errors import DataError
from retinue.sources.base import Pin
from retinue.sources.catalog import Catalog

from .conftest import Make, table

NOW = "2020-01-27T00:00:00+00:00"  # the newest flight is of 2020-01-25 23:59


def check(make: Make, *checks: CheckSpec, last: int | None = None) -> list[CheckResult]:
    spec = table("flights", path="flights.parquet", time="sched", key="flight_id", checks=checks)
    return make(spec).check("flights", Pin(), NOW, last)


def test_each_kind_passes_and_fails_with_estimate_threshold_and_rows(make: Make) -> None:
    cases = {
        CheckSpec("min_rows", threshold=600): CheckSpec("min_rows", threshold=601),
        CheckSpec("fresh", threshold=2 * 86400.0): CheckSpec("fresh", threshold=3600.0),
        CheckSpec("unique", ("flight_id",)): CheckSpec("unique", ("origin", "late")),
        CheckSpec("not_null", ("origin", "delay")): CheckSpec("range", ("delay",), low=1, high=None),
        CheckSpec("range", ("delay",), low=0, high=100): CheckSpec("range", ("delay",), low=0, high=50.5),
        CheckSpec("range", ("sched",), low="2020-01-01"): CheckSpec("range", ("sched",), low="2020-01-02"),
        CheckSpec("accepted", ("origin",), values=("JFK", "EWR", "LGA")): CheckSpec(
            "accepted", ("late",), values=("true",)
        ),
        CheckSpec("sql", sql="select * from flights where delay > 1000"): CheckSpec(
            "sql", name="early", sql="select f.* from flights f join weather w on f.origin = w.origin"
        ),
    }
    good = check(make, *cases)
    bad = check(make, *cases.values())
    assert [r.passed for r in good] == [True] * len(cases), good
    assert [r.passed for r in bad] == [False] * len(cases), bad
    assert all(r.rows == 600 and r.estimate is not None and r.threshold is not None for r in (*good, *bad))
    assert "for example" in describe_check(bad[2])
    assert [CheckResult.from_json(r.to_json()) for r in bad] == bad


def test_rows_are_compared_with_the_last_accepted_build(make: Make) -> None:
    spec = CheckSpec("rows_vs_last", threshold=0.8)
    assert [check(make, spec, last=n)[0].passed for n in (None, 600, 750, 751)] == [None, True, True, False]
    good, bad = check(make, spec, last=600)[0].to_json(), check(make, spec, last=900)[0].to_json()
    assert accepted_rows([{"checks": [{**bad, "rows": 10}]}, {}, {"checks": [good]}]) == {"flights": 600}


def test_a_check_that_cannot_be_asked_is_told_by_its_name(make: Make) -> None:
    with pytest.raises(DataError, match="no column origine"):
        check(make, CheckSpec("unique", ("origine",)))
    with pytest.raises(DataError, match="there is no table flihgts"):
        check(make, CheckSpec("sql", sql="select * from flihgts"))
    with pytest.raises(DataError, match="not a SELECT"):
        check(make, CheckSpec("sql", sql="delete from flights"))


def test_checks_connections_and_paths_are_in_no_definition() -> None:
    plain = table("x", path="a.parquet")
    assert table_body(plain) == table_body(table("x", path="b.csv", checks=(CheckSpec("min_rows", threshold=1),)))
    query = table("x", query="select  A from t", connection="a", version="select 1")
    assert table_body(query) == table_body(table("x", query="SELECT a FROM t -- all", connection="b"))
    assert table_body(query) != table_body(table("x", query="select b from t", connection="a"))
    assert table_body(table("x", python="m:f", code="1")) != table_body(table("x", python="m:f", code="2"))


def pattern(folder: Path, **files: pa.Table) -> Catalog:
    for name, rows in files.items():
        pq.write_table(rows, folder / f"day-{name}.parquet")
    return Catalog({"x": table("x", path="day-*.parquet")}, folder, folder / "cache")


def test_a_file_added_removed_or_changed_changes_the_fingerprint(tmp_path: Path) -> None:
    keys = [pattern(tmp_path, a=pa.table({"n": [1]})).stat_key(["x"])]
    keys.append(pattern(tmp_path, b=pa.table({"n": [2]})).stat_key(["x"]))
    keys.append(pattern(tmp_path, b=pa.table({"n": [3]})).stat_key(["x"]))
    (tmp_path / "day-a.parquet").unlink()
    keys.append(pattern(tmp_path).stat_key(["x"]))
    assert len(set(keys)) == 4


def test_files_that_clash_are_named_and_missing_columns_are_noted(tmp_path: Path) -> None:
    found = pattern(tmp_path, a=pa.table({"n": [1]}), b=pa.table({"n": [1], "m": [2]}))
    assert found.columns("x") == {"n": "INT64", "m": "INT64"}
    assert found.notes() == ("table x: day-a.parquet has no column m: missing in its rows",)
    clash = pattern(tmp_path, c=pa.table({"n": ["x"]}))
    with pytest.raises(DataError, match=r"column n is a number in day-a.parquet and text in day-c.parquet"):
        clash.columns("x")
