"""The catalog answers questions about real files, and remembers the answers without DuckDB or Arrow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest

from retinue.core.errors import DataError
from retinue.core.portfolio import CutoffSpec
from retinue.sources.base import Facts, KeyRows, Pin, Question
from retinue.sources.catalog import Catalog

from .conftest import FLIGHTS, Make, age, table, write_parquet

COLUMNS = ("sched", "flight_id", "delay", "late")


def test_columns_widen_numbers_and_name_moments(make: Make, root: Path) -> None:
    write_parquet(
        root / "wide.parquet",
        "SELECT 1::TINYINT AS a, 2 AS b, 1.5::DECIMAL(5,2) AS c, 1::FLOAT AS d, 'x' AS e, true AS f, "
        "DATE '2020-01-01' AS g, TIMESTAMPTZ '2020-01-01 00:00:00+02' AS h, [1] AS i, uuid() AS j, "
        "'q'::ENUM('q') AS k, {'a': 1} AS l",
    )
    view = table("view", sql="SELECT * REPLACE (b::HUGEINT AS b) FROM wide")  # Parquet has no such width, sums do
    types = make(table("wide", path="wide.parquet"), view).columns("view")
    assert "".join(f"{name}:{kind} " for name, kind in types.items()) == (
        "a:INT64 b:INT64 c:FP64 d:FP64 e:BYTES f:BOOL g:TIMESTAMP h:TIMESTAMP i:UNSUPPORTED j:BYTES k:BYTES "
        "l:UNSUPPORTED "
    )


def test_a_nested_column_is_refused_only_when_it_is_used(make: Make, root: Path) -> None:
    write_parquet(root / "nested.parquet", "SELECT 1 AS a, [1, 2] AS b")
    catalog = make(table("nested", path="nested.parquet"))
    assert catalog.read("nested", ["a"], (), Pin()).num_rows == 1
    with pytest.raises(DataError, match="column b of table nested is nested"):
        catalog.read("nested", ["b"], (), Pin())


def test_keys_are_distinct_text_sorted_and_without_nulls(make: Make, root: Path) -> None:
    write_parquet(root / "k.parquet", "SELECT * FROM (VALUES ('b', 2), ('a', 10), ('a', 10), (NULL, 1)) t(x, y)")
    found = make(table("k", path="k.parquet")).keys("k", ["x", "y"])
    assert found == [KeyRows(("a", "10"), 2), KeyRows(("b", "2"), 1)]


def test_a_pin_names_the_newest_moment_of_each_base_table(make: Make) -> None:
    catalog = make(
        table("both", sql="SELECT f.*, w.temp FROM flights f ASOF LEFT JOIN weather w ON f.sched >= w.hour"),
        table("plain", path="weather.parquet"),
    )
    pin = catalog.pin(["both", "plain"])
    assert pin.to_json() == {"flights": "2020-01-25 23:59:00", "plain": None, "weather": "2020-01-25 18:00:00"}
    assert Pin.from_json(json.loads(json.dumps(pin.to_json()))) == pin


def test_a_view_that_gives_time_to_files_without_one_is_pinned_itself(make: Make, root: Path) -> None:
    raw = table("raw", path="flights.parquet")
    view = table("timed", sql="SELECT sched AS t, flight_id FROM raw", time="t")
    catalog = make(raw, view)
    pin = catalog.pin(["timed"])
    assert pin.to_json() == {"raw": None, "timed": "2020-01-25 23:59:00"}
    write_parquet(root / "flights.parquet", FLIGHTS.format(rows=700))
    assert catalog.facts([Question("timed", (), ("flight_id",))], pin)[0].rows == 600


def test_facts_of_members_are_those_of_each_alone(make: Make) -> None:
    catalog = make()
    pin = catalog.pin(["flights"])
    members = [Question("flights", (("origin", o),), COLUMNS) for o in ("JFK", "EWR", "LGA", "XXX")]
    together = catalog.facts(members, pin)
    assert [f.rows for f in together] == [200, 200, 200, 0]
    assert together[0].until == "2020-01-25 21:57:00"
    assert together[3].until is None
    assert len({f.fingerprint for f in together}) == 4
    assert [catalog.facts([m], pin)[0] for m in members] == together


def test_a_family_is_scanned_once_however_many_members_it_has(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = make()
    scans: list[tuple[str, ...]] = []
    scan = Catalog._scan

    def counted(self: Catalog, *arguments: object) -> object:
        scans.append(tuple(str(a) for a in arguments))
        return scan(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Catalog, "_scan", counted)
    questions = [Question("flights", (("flight_id", str(i)),), COLUMNS) for i in range(500)]
    found = catalog.facts(questions, Pin())
    assert [f.rows for f in found] == [1] * 500
    assert len(scans) == 1


def test_an_appended_row_changes_the_open_fingerprint_and_not_the_pinned_one(make: Make, root: Path) -> None:
    catalog = make()
    pin = catalog.pin(["flights"])
    question = Question("flights", (), COLUMNS)
    before = catalog.facts([question], pin)[0]
    write_parquet(root / "flights.parquet", FLIGHTS.format(rows=601))
    assert catalog.facts([question], pin)[0] == before
    after = catalog.facts([question], catalog.pin(["flights"]))[0]
    assert (after.rows, after.fingerprint != before.fingerprint) == (601, True)


@pytest.mark.parametrize(("share", "expected"), [(0.2, "2020-01-21 00:00:00"), (0.5, "2020-01-13 12:00:00")])
def test_the_cutoff_is_a_moment_of_the_data_with_the_share_after_it(make: Make, share: float, expected: str) -> None:
    catalog = make()
    cutoff = catalog.cutoff(CutoffSpec(share=share), ["flights"], Pin())
    assert cutoff == expected
    after = catalog.read("flights", ["flight_id"], (), Pin(), since=cutoff).num_rows
    assert after == 600 * share


def test_a_fixed_cutoff_must_leave_rows_on_both_sides(make: Make) -> None:
    catalog = make()
    assert catalog.cutoff(CutoffSpec(None, "2020-01-10"), ["flights"], Pin()) == "2020-01-10 00:00:00"
    with pytest.raises(DataError, match="leaves no rows at or after it"):
        catalog.cutoff(CutoffSpec(None, "2021-01-01"), ["flights"], Pin())
    with pytest.raises(DataError, match="'yesterday' is not a moment"):
        catalog.cutoff(CutoffSpec(None, "yesterday"), ["flights"], Pin())


def test_there_is_no_cutoff_without_time(make: Make) -> None:
    assert make(table("t", path="flights.parquet")).cutoff(CutoffSpec(), ["t"], Pin()) is None


def test_reading_as_of_a_moment_hides_rows_and_cells_that_were_not_yet_known(make: Make) -> None:
    late = table("flights", path="flights.parquet", time="sched", key="flight_id", available=(("delay", 3 * 3600.0),))
    hourly = table("counted", sql="SELECT count(*) AS n, count(delay) AS known FROM flights")
    catalog = make(late, hourly)
    seen = catalog.read("counted", ["n", "known"], (), Pin(), hide_from="2020-01-02").to_pylist()
    assert seen == [{"n": 24, "known": 21}]  # those of 21:21, 22:22 and 23:23 are not known at midnight
    assert catalog.read("counted", ["n", "known"], (), Pin()).to_pylist() == [{"n": 600, "known": 600}]


def test_a_views_own_late_columns_are_hidden_too(make: Make) -> None:
    view = table("v", sql="SELECT * FROM flights", time="sched", key="flight_id", available=(("late", 7200.0),))
    rows = make(view).read("v", ["late"], (), Pin(), hide_from="2020-01-02", before="2020-01-02").column("late")
    assert (len(rows), rows.null_count) == (24, 2)


def test_rows_come_sorted_by_time_and_key_with_bounds_on_time(make: Make, root: Path) -> None:
    write_parquet(root / "u.parquet", "SELECT 10 - i AS k, TIMESTAMP '2020-01-01' AS t FROM range(5) r(i)")
    catalog = make(table("u", path="u.parquet", time="t", key="k"))
    assert catalog.read("u", ["k"], (), Pin()).column("k").to_pylist() == [6, 7, 8, 9, 10]
    rows = make().read("flights", ["sched"], (), Pin(), since="2020-01-02", before="2020-01-03T00:00:00")
    assert rows.num_rows == 24


def test_filter_values_are_bound_and_compared_as_text(make: Make) -> None:
    catalog = make()
    assert catalog.read("flights", ["origin"], (("flight_id", "7"),), Pin()).num_rows == 1
    assert catalog.read("flights", ["origin"], (("origin", "' OR 1=1 --"),), Pin()).num_rows == 0


def test_odd_names_of_files_tables_and_columns_are_only_names(make: Make, root: Path) -> None:
    write_parquet(root / "it.parquet", 'SELECT 1 AS "a ""b"" \'c\'"')
    shutil.move(root / "it.parquet", root / 'it\'s "one".parquet')
    name = "od\"d 'table"
    catalog = make(table(name, path='it\'s "one".parquet'))
    assert catalog.read(name, ["a \"b\" 'c'"], (), Pin()).num_rows == 1


def test_relative_folders_links_and_files_elsewhere_are_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "link.parquet").symlink_to(root / "flights.parquet")
    monkeypatch.chdir(root)
    tables = {
        "a": table("a", path="sub/link.parquet"),
        "b": table("b", path="sub/../weather.parquet"),
        "c": table("c", path=str(root / "weather.parquet")),
    }
    catalog = Catalog(tables, Path("."), Path("cache"))
    assert [catalog.read(t, ["origin"], (), Pin()).num_rows for t in tables] == [600, 300, 300]


def test_threads_may_ask_at_the_same_time(make: Make, root: Path) -> None:
    (root / "x.csv").write_text("a,t\n" + "".join(f"{i},2020-01-01\n" for i in range(5000)))
    catalog = make(table("x", path="x.csv", time="t"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: catalog.read("x", ["a"], (("a", str(i)),), Pin()).num_rows, range(24)))
    assert found == [1] * 24


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.zip"])
def test_csv_plain_gzip_and_zip_give_the_same_table(make: Make, root: Path, suffix: str) -> None:
    rows = "when,n,word,gust\n2020-01-01T00:00:00Z,1,NA,NA\n2020-01-02T00:00:00Z,2,,3.5\n"
    path = root / f"x.{suffix}"
    if suffix == "csv.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../x.csv", rows)
    elif suffix == "csv.gz":
        import gzip

        path.write_bytes(gzip.compress(rows.encode()))
    else:
        path.write_text(rows)
    age(path)
    catalog = make(table("x", path=path.name, time="when"))
    assert catalog.columns("x") == {"when": "TIMESTAMP", "n": "INT64", "word": "BYTES", "gust": "FP64"}
    read = catalog.read("x", ["word", "gust"], (), Pin()).to_pylist()
    assert read == [{"word": "NA", "gust": None}, {"word": None, "gust": 3.5}]
    assert not (root.parent / "x.csv").exists()


def test_a_glob_reads_all_files_and_a_new_one_is_seen(make: Make, root: Path) -> None:
    for i in range(3):
        (root / f"part-{i}.csv").write_text(f"a\n{i}\n")
    catalog = make(table("parts", path="part-*.csv"))
    assert [k.values[0] for k in catalog.keys("parts", ["a"])] == ["0", "1", "2"]
    (root / "part-3.csv").write_text("a\n3\n")
    assert len(catalog.keys("parts", ["a"])) == 4


def test_a_file_rewritten_at_once_with_the_same_size_and_time_is_noticed(make: Make, root: Path) -> None:
    path = root / "quick.csv"
    catalog = make(table("quick", path="quick.csv"))
    path.write_text("a\n1\n")
    stat = path.stat()
    assert catalog.keys("quick", ["a"])[0].values == ("1",)
    path.write_text("a\n2\n")
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert catalog.keys("quick", ["a"])[0].values == ("2",)


def test_torn_cache_files_are_computed_again(make: Make, tmp_path: Path, root: Path) -> None:
    (root / "x.csv").write_text("a\n1\n")
    age(root / "x.csv")
    spec = table("x", path="x.csv")
    first = make(spec).keys("x", ["a"])
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert make(spec).keys("x", ["a"]) == first


ASK = """
import sys, json
from pathlib import Path
from retinue.core.errors import Location
from retinue.core.portfolio import CutoffSpec, TableSpec
from retinue.sources.base import Question
from retinue.sources.catalog import Catalog
where = Location("p.yaml")
tables = {
    "flights": TableSpec("flights", where, path="flights.parquet", time="sched", key="flight_id"),
    "weather": TableSpec("weather", where, path="weather.parquet", time="hour"),
    "v": TableSpec("v", where, time="sched", key="flight_id",
        sql="SELECT f.*, w.temp FROM flights f ASOF LEFT JOIN weather w "
            "ON f.origin = w.origin AND f.sched >= w.hour"),
}
catalog = Catalog(tables, Path(sys.argv[1]), Path(sys.argv[2]))
pin = catalog.pin(["v"])
cutoff = catalog.cutoff(CutoffSpec(), ["v"], pin)
facts = catalog.facts([Question("v", (("origin", "JFK"),), ("temp", "late")), Question("v", (), ("temp",))], pin)
keys = catalog.keys("v", ["origin"])
catalog.check_lookahead("v", ["temp"], pin, cutoff)
answers = [catalog.stat_key(["v"]), catalog.columns("v"), pin.to_json(), cutoff, [f.to_json() for f in facts],
           [k.values for k in keys], catalog.base_tables("v")]
heavy = sorted({"duckdb", "pyarrow", "numpy", "pandas"} & set(sys.modules))
print(json.dumps([answers, heavy]))
"""


def test_asking_again_about_unchanged_files_imports_neither_duckdb_nor_pyarrow(root: Path, tmp_path: Path) -> None:
    def ask() -> tuple[object, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(root), str(tmp_path / "c")], capture_output=True, text=True, check=True
        )
        answers, heavy = json.loads(done.stdout)
        return answers, heavy

    first, heavy = ask()
    assert "duckdb" in heavy
    again, heavy = ask()
    assert again == first
    assert heavy == []


def test_many_keys_are_answered_without_remembering_all_of_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retinue.sources.catalog.KEPT_GROUPS", 10)
    found = make().facts([Question("flights", (("flight_id", "3"),), ("delay",))], Pin())
    assert found[0].rows == 1


def test_facts_survive_json(make: Make) -> None:
    fact = make().facts([Question("flights", (), ("delay",))], Pin())[0]
    assert Facts.from_json(json.loads(json.dumps(fact.to_json()))) == fact


def test_real_flights_from_a_zip_join_real_weather_as_of_time(nyc: Path, tmp_path: Path) -> None:
    with duckdb.connect() as con:  # a fifth of the weather's year is enough to see the join at work
        con.execute(
            f"COPY (SELECT * FROM read_csv('{nyc / 'weather.csv'}', nullstr = 'NA') WHERE month <= 2) "
            f"TO '{tmp_path / 'weather.csv'}'"
        )
    (tmp_path / "flights.csv.zip").symlink_to(nyc / "flights.csv.zip")
    tables = {
        "raw": table("raw", path="flights.csv.zip"),
        "weather": table("weather", path="weather.csv", time="time_hour"),
        "flights": table(
            "flights",
            sql="SELECT *, time_hour + to_minutes(minute) AS sched_dep FROM raw WHERE month <= 2",
            time="sched_dep",
        ),
        "departures": table(
            "departures",
            sql="SELECT f.*, w.temp, w.wind_speed, f.arr_delay > 15 AS late FROM flights f ASOF LEFT JOIN weather w "
            "ON f.origin = w.origin AND f.sched_dep >= w.time_hour",
            time="sched_dep",
            available=(("late", 10800.0), ("arr_delay", 10800.0)),
        ),
    }
    catalog = Catalog(tables, tmp_path, tmp_path / "cache")
    assert catalog.columns("raw")["arr_delay"] == "INT64"
    pin = catalog.pin(["departures"])
    cutoff = catalog.cutoff(CutoffSpec(), ["departures"], pin)
    assert cutoff is not None
    catalog.check_lookahead("departures", ["temp", "wind_speed", "distance", "late"], pin, cutoff)
    rows = catalog.read("departures", ["temp", "late"], (("origin", "JFK"),), pin, hide_from=cutoff, before=cutoff)
    assert 10_000 < rows.num_rows < 18_000
    assert rows.column("temp").null_count < 100
