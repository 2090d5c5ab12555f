"""What `data:` and `for_each:` may say beyond files: sources, checks, keys from files, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from retinue.core.checks import CheckSpec
from retinue.core.errors import PortfolioError
from retinue.core.family import expand, key_of
from retinue.core.portfolio import TableSpec
from retinue.loader import load

MODELS = """
environments: {base: {requirements: base.txt}}
defaults: {environment: base}
models:
  "m-{a}-{b}":
    for_each: EACH
    train: mine:train
    data: {t: {where: {a: "{a}"}}}
    task: regression
    features: [x]
    target: y
"""


def portfolio(folder: Path, data: str, each: str = "[{a: x, b: y}]") -> Path:
    path = folder / "portfolio.yaml"
    path.write_text(f"portfolio: demo\ndata:\n  t: {data}\n{MODELS.replace('EACH', each)}", encoding="utf-8")
    return path


def told(path: Path) -> str:
    with pytest.raises(PortfolioError) as error:
        load(path)
    return "\n".join(f"{p.where}: {p.message} | {p.hint}" for p in error.value.problems)


def test_every_source_and_check_is_read_and_comes_back_from_json(tmp_path: Path) -> None:
    data = """{query: "select 1", connection: w, version: "select 2", time: at, key: id, checks: {rows_vs_last: 80%,
      fresh: 26h, unique: id, not_null: [id, at], range: {x: [0, null]}, accepted: {a: [1, yes, true]}, min_rows: 5,
      sql: {odd: select * from t where x % 2 = 1}}}"""
    spec = load(portfolio(tmp_path, data)).tables["t"]
    assert (spec.query, spec.connection, spec.version) == ("select 1", "w", "select 2")
    assert [c.label for c in spec.checks] == [
        "min_rows", "rows_vs_last", "fresh", "unique(id)", "not_null(id, at)", "range(x)", "accepted(a)", "sql(odd)",
    ]  # fmt: skip
    assert spec.checks[2] == CheckSpec("fresh", threshold=26 * 3600.0)
    assert spec.checks[6].values == ("1", "yes", "true")
    assert msgspec.convert(msgspec.to_builtins(spec), TableSpec) == spec
    assert load(portfolio(tmp_path, "{dbt: orders, connection: w}")).tables["t"].dbt == "orders"
    assert load(portfolio(tmp_path, "{python: 'mine:rows', environment: base}")).tables["t"].python == "mine:rows"
    assert load(portfolio(tmp_path, "{path: 's3://b/*.parquet', connection: w}")).tables["t"].connection == "w"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{query: select 1}", "`connection` is missing"),
        ("{path: a.parquet, query: select 1, connection: w}", "expected one source, found `path` and `query`"),
        ("{path: a.parquet, connection: w}", "`connection` belongs to"),
        ("{path: a.parquet, version: select 1}", "`version` belongs to"),
        ("{python: mine.rows}", "expected module:function"),
        ("{python: 'm:f', version: select 1}", "`version` of a function is a function"),
        ("{query: select 1, connection: w, checks: {uniqe: id}}", "'unique'"),
        ("{path: a.parquet, checks: {fresh: 1h}}", "`checks.fresh` counts from `time`"),
        ("{path: a.parquet, checks: {range: {x: [2, 1]}}}", "is not below"),
        ("{path: a.parquet, checks: {accepted: {x: []}}}", "is empty"),
        ("{path: a.parquet, checks: {min_rows: many}}", "min_rows"),
        ("{url: postgres://}", "connections.NAME"),
    ],
)
def test_what_does_not_go_together_is_told(data: str, words: str, tmp_path: Path) -> None:
    assert words in told(portfolio(tmp_path, data))


def test_keys_come_from_a_csv_file_each_once_with_odd_names_escaped(tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text('b,from,x\n"c,d",New York,1\ne/f,Zürich,2\n,%7E,3\ne/f,Zürich,4\n', "utf-8")
    template = load(portfolio(tmp_path, "{path: a.csv}", "{csv: keys.csv, columns: {a: from, b: b}}")).models[
        "m-{a}-{b}"
    ]
    members = expand(template).members
    names = [m.name for m in members]
    assert names == ["m-%257E-", "m-New%20York-c%2Cd", "m-Z%C3%BCrich-e%2Ff"]
    assert key_of("m-{a}-{b}", names[1]) == {"a": "New York", "b": "c,d"}
    assert {m.data[0].filters for m in members} == {(("a", v),) for v in ("New York", "Zürich", "%7E")}


def test_only_and_exclude_choose_among_the_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text("a,b\nJFK,AA\nJFK,B6\nLGA,AA\nEWR,UA\n")
    each = '{csv: keys.csv, only: ["JFK,*", "LGA,AA"], exclude: ["*,B6"]}'
    found = expand(load(portfolio(tmp_path, "{path: a.csv}", each)).models["m-{a}-{b}"])
    assert [m.name for m in found.members] == ["m-JFK-AA", "m-LGA-AA"]
    assert found.excluded == ("m-EWR-UA", "m-JFK-B6")


@pytest.mark.parametrize(
    ("text", "each", "words"),
    [
        ("a,c\n1,2\n", "{csv: keys.csv}", "has no column 'b'"),
        ("a,b\n", "{csv: keys.csv}", "holds no keys"),
        ("a,b\n1\n", "{csv: keys.csv}", "line 2 of keys.csv has not 2 values"),
        ("a,b\n1,2\n", "{csv: nokeys.csv}", "No such file"),
        ("\udcff", "{csv: keys.csv}", "cannot be read"),
        ("a,b\n1,2\n", "{csv: keys.csv, columns: [a]}", "{b} of the name is not in `for_each`"),
        ("a,b\n1,2\n", "{csv: keys.csv, python: 'm:f'}", "expected either `csv` or `python`"),
        ("a,b\n1,2\n", "{python: 'm.f'}", "expected module:function"),
        ("a,b\n1,2\n", '{csv: keys.csv, only: ["1"]}', "has 1 values, expected 2"),
    ],
)
def test_wrong_keys_are_told_with_the_file(text: str, each: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert words in told(portfolio(tmp_path, "{path: a.csv}", each))
