"""Bad tables and views: each error names what, where and the next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.core.errors import DataError
from retinue.sources.base import Pin, Question

from .conftest import Make, age, table


def refusal(make: Make, name: str, *specs: object) -> DataError:
    with pytest.raises(DataError) as caught:
        make(*specs).columns(name)
    assert caught.value.hint
    return caught.value


def test_a_missing_file_is_named_with_its_place(make: Make) -> None:
    error = refusal(make, "gone", table("gone", path="no/such.parquet"))
    assert str(error) == "portfolio.yaml:7:3: table gone: there is no file no/such.parquet"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("*.nothing", "no file matches"),
        (".", "is a folder"),
        ("nosuch://bucket/x.parquet", "is not installed"),
        ("odd.xyz", "does not tell its format"),
        ("x" * 5_000 + ".csv", "cannot be read: File name too long"),
    ],
)
def test_a_path_that_is_no_table_is_refused(make: Make, root: Path, path: str, said: str) -> None:
    (root / "odd.xyz").write_text("a\n1\n")
    assert said in refusal(make, "t", table("t", path=path)).message


@pytest.mark.parametrize("name", ["empty.csv", "empty.parquet", "empty.csv.zip", "empty.csv.gz"])
def test_an_empty_file_is_refused(make: Make, root: Path, name: str) -> None:
    (root / name).touch()
    age(root / name)
    assert name in refusal(make, "t", table("t", path=name)).message


def test_a_torn_parquet_file_is_named(make: Make, root: Path) -> None:
    whole = (root / "flights.parquet").read_bytes()
    (root / "torn.parquet").write_bytes(whole[: len(whole) // 2])
    error = refusal(make, "t", table("t", path="torn.parquet"))
    assert "torn.parquet cannot be read" in error.message


def test_a_csv_that_is_not_text_is_refused(make: Make, root: Path) -> None:
    (root / "noise.csv").write_bytes(b'a,b\n1,"\xff\xfe\x00unclosed\n2,3,4,5\n')
    error = refusal(make, "t", table("t", path="noise.csv"))
    assert "noise.csv is not readable as CSV" in error.message


def test_a_zip_that_is_torn_or_holds_no_csv_is_refused(make: Make, root: Path) -> None:
    import zipfile

    (root / "torn.csv.zip").write_bytes(b"PK\x03\x04 half a zip")
    with zipfile.ZipFile(root / "other.zip", "w") as archive:
        archive.writestr("readme.md", "nothing here")
    assert "not a readable zip" in refusal(make, "t", table("t", path="torn.csv.zip")).message
    assert "holds no .csv file" in refusal(make, "t", table("t", path="other.zip")).message


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT *\nFROM flights\nWHERE nope > 1", 'column "nope" not found'),
        ("SELECT\n  delay +\nFROM flights", "syntax error"),
        ("SELECT * FROM flight", "there is no table flight"),
        ("SELECT * FROM read_csv('/etc/passwd')", "a view may not call read_csv()"),
        ("SELECT * FROM '/etc/passwd'", "there is no table /etc/passwd"),
        ("SELECT * FROM flights, read_text('/etc/passwd')", "a view may not call read_text()"),
        ("SELECT * FROM query_table('flights')", "a view may not call query_table()"),
        ("COPY flights TO 'x.csv'", "not a SELECT"),
        ("CREATE TABLE x AS SELECT 1", "not a SELECT"),
        ("SET threads = 8", "not a SELECT"),
        ("ATTACH 'x.db'", "not a SELECT"),
        ("SELECT 1; SELECT 2", "more than one statement"),
        ("SELECT * FROM information_schema.tables", "names a schema"),
        ("SELECT *, random() AS r FROM flights", "random answers differently"),
        ("SELECT *, current_timestamp AS r FROM flights", "current_timestamp answers differently"),
        ("SELECT *, age(sched_dep) AS r FROM flights", "age answers differently"),
        ("SELECT *, current_query_id() AS r FROM flights", "current_query_id answers differently"),
        ("SELECT * FROM flights TABLESAMPLE 10%", "may not sample"),
        ("SELECT * FROM flights WHERE delay > $1", "holds a parameter"),
        ("SUMMARIZE flights", "may not describe"),
        ('WITH "/etc/passwd" AS (SELECT 1) SELECT 1', "WITH names something"),
        ("", "syntax error|no statement|more than one|not a SELECT"),
    ],
)
def test_sql_that_is_not_a_select_over_declared_tables_is_refused(make: Make, sql: str, said: str) -> None:
    import re

    error = refusal(make, "v", table("v", sql=sql))
    assert re.search(said.replace("(", r"\(").replace(")", r"\)"), error.message)
    assert error.message.startswith("view v: ")
    assert error.where == "portfolio.yaml:7:3"


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("\n  SELECT *,\n  nope AS x\n  FROM flights", "SQL line 3: nope AS x"),
        ("SELECT nope FROM flights", "SQL line 1: SELECT nope FROM flights"),
        ("SELECT 1\nFROM\n  flight", "SQL line 3: flight"),
        ("SELECT 'é'\n, delay delay delay\nFROM flights", "SQL line 2: , delay delay delay"),
    ],
)
def test_a_views_error_shows_the_users_own_line(make: Make, sql: str, line: str) -> None:
    assert line in refusal(make, "v", table("v", sql=sql)).message


def test_an_error_that_only_shows_on_the_data_names_the_view(make: Make) -> None:
    catalog = make(table("v", sql="SELECT CAST(origin AS INT) AS o FROM flights"))
    with pytest.raises(DataError, match="view v: Conversion Error"):
        catalog.read("v", ["o"], (), Pin())


def test_views_in_a_circle_are_refused_with_their_path(make: Make) -> None:
    specs = [table(a, sql=f"SELECT * FROM {b}") for a, b in (("a", "b"), ("b", "c"), ("c", "a"))]
    assert "a → b → c → a" in refusal(make, "a", *specs).message
    assert "me → me" in refusal(make, "me", table("me", sql="SELECT * FROM me")).message


def test_a_view_may_read_views_and_call_a_column_like_a_table(make: Make) -> None:
    catalog = make(
        table("a", sql="SELECT *, 1 AS weather, 2 AS b FROM flights;"),
        table("b", sql="WITH x AS (SELECT * FROM a) SELECT x.* FROM x -- the end"),
    )
    assert "weather" in catalog.columns("b")
    assert catalog.base_tables("b") == ("flights",)


def test_an_unknown_column_is_answered_with_the_nearest_and_all_there_are(make: Make) -> None:
    catalog = make()
    with pytest.raises(DataError, match="no column dely; it has flight_id, sched, origin, delay, late") as caught:
        catalog.read("flights", ["dely"], (), Pin())
    assert "Did you mean 'delay'?" in caught.value.hint
    for ask in (
        lambda: catalog.read("flights", ["delay"], (("origjn", "JFK"),), Pin()),
        lambda: catalog.facts([Question("flights", (("origjn", "JFK"),), ("delay",))], Pin()),
        lambda: catalog.keys("flights", ["origjn"]),
    ):
        with pytest.raises(DataError, match="no column origjn"):
            ask()


def test_an_unknown_table_is_answered_with_the_nearest(make: Make) -> None:
    with pytest.raises(DataError, match="there is no table fligths") as caught:
        make().read("fligths", ["a"], (), Pin())
    assert "'flights'" in caught.value.hint


def test_declared_time_key_and_available_must_be_columns(make: Make) -> None:
    assert "no column when" in refusal(make, "t", table("t", path="flights.parquet", time="when")).message
    assert "no column id" in refusal(make, "t", table("t", path="flights.parquet", key="id")).message
    late = table("t", path="flights.parquet", time="sched", available=(("nope", 1.0),))
    assert "no column nope" in refusal(make, "t", late).message
    timeless = table("t", path="flights.parquet", available=(("late", 1.0),))
    assert "declares `available` but no `time`" in refusal(make, "t", timeless).message
    assert "is DOUBLE, not a moment" in refusal(make, "t", table("t", path="flights.parquet", time="delay")).message


def test_a_table_without_time_cannot_be_cut_by_time(make: Make) -> None:
    with pytest.raises(DataError, match="has no time to be cut by"):
        make(table("t", path="flights.parquet")).read("t", ["delay"], (), Pin(), since="2020-01-01")
