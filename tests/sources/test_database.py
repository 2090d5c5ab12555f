"""SQL tables: PostgreSQL and SQLite, pinned by version, read only, secrets never told."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from retinue.core.connections import Connection
from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec
from retinue.sources.base import Pin, Question
from retinue.sources.catalog import Catalog
from retinue.sources.origins import Origins

from .conftest import table

ROWS = "select id, region, amount, moment from orders"


def catalog(spec: TableSpec, root: Path, url: str, cache: str = "cache") -> Catalog:
    connections = {"warehouse": Connection("warehouse", {"url": url})}
    return Catalog({spec.name: spec}, root, root / cache, origins=Origins(root, root / cache, connections, None))


def orders(**fields: str) -> TableSpec:
    given = {"query": ROWS, "connection": "warehouse", "time": "moment", "key": "id", **fields}
    return table("orders", **given)


@pytest.fixture
def lite(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "shop.db") as con:
        con.execute("create table orders (id integer, region text, amount real, moment text)")
        con.executemany(
            "insert into orders values (?, ?, ?, ?)",
            [(i, "north" if i % 3 else "süd, ost", i / 2, f"2024-01-{1 + i % 28:02d} 00:00:00") for i in range(500)],
        )
    con.close()
    return tmp_path


def add(root: Path, moment: str) -> None:
    con = sqlite3.connect(root / "shop.db")
    con.execute("insert into orders values (9999, 'north', 1, ?)", [moment])
    con.commit()
    con.close()


def test_a_query_gives_typed_rows_and_a_family_reads_it_once(lite: Path) -> None:
    found = catalog(orders(), lite, "sqlite:///shop.db")
    assert found.columns("orders") == {"id": "INT64", "region": "BYTES", "amount": "FP64", "moment": "BYTES"}
    assert [(k.values, k.rows) for k in found.keys("orders", ["region"])] == [(("north",), 333), (("süd, ost",), 167)]
    pin = found.pin(["orders"])
    assert found.read("orders", ["id"], (("region", "süd, ost"),), pin).num_rows == 167
    assert len(list((lite / "cache" / "sources").glob("rows-*"))) == 1


def test_an_unchanged_file_is_recognised_without_arrow_and_a_changed_one_is_read_again(lite: Path) -> None:
    pin = catalog(orders(), lite, "sqlite:///shop.db").pin(["orders"])
    add(lite, "2025-01-01")
    now = catalog(orders(), lite, "sqlite:///shop.db").pin(["orders"])
    assert now.versions != pin.versions
    assert now.until["orders"] == "2025-01-01 00:00:00"


def test_a_pinned_version_is_read_from_what_was_kept_and_a_lost_one_is_said(lite: Path) -> None:
    spec = orders(version="select max(rowid) from orders", time=None)  # type: ignore[arg-type]  # no time
    pin = catalog(spec, lite, "sqlite:///shop.db").pin(["orders"])
    catalog(spec, lite, "sqlite:///shop.db").columns("orders")
    assert Pin.from_json(pin.to_json()) == pin
    add(lite, "2025-01-01")
    assert catalog(spec, lite, "sqlite:///shop.db").read("orders", ["id"], (), pin).num_rows == 500
    with pytest.raises(DataError, match="has moved on"):
        catalog(spec, lite, "sqlite:///shop.db", cache="elsewhere").read("orders", ["id"], (), pin)


def test_a_lost_version_with_time_is_bounded_by_its_moment(lite: Path) -> None:
    pin = catalog(orders(), lite, "sqlite:///shop.db").pin(["orders"])
    add(lite, "2025-01-01")
    again = catalog(orders(), lite, "sqlite:///shop.db", cache="elsewhere")
    assert again.read("orders", ["id"], (), pin).num_rows == 500


def test_an_unreachable_source_is_taken_as_seen_last_and_that_is_noted(lite: Path) -> None:
    before = catalog(orders(), lite, "sqlite:///shop.db")
    pin = before.pin(["orders"])
    facts = before.facts([Question("orders", (), ("id",))], pin)
    (lite / "shop.db").rename(lite / "gone.db")
    away = catalog(orders(), lite, "sqlite:///shop.db")
    assert away.facts([Question("orders", (), ("id",))], away.pin(["orders"])) == facts
    assert "cannot be reached" in away.notes()[0]
    with pytest.raises(DataError, match="no database file"):
        catalog(orders(), lite, "sqlite:///shop.db", cache="empty").columns("orders")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("delete from orders", "not a SELECT"),
        ("with x as (select 1) insert into orders select 1, 'a', 1, 'b'", "query fails"),
        ("select nothing from orders", "nothing"),
        ("select * from ordres", "ordres"),
        ("select id, id from orders", "more than once"),
    ],
)
def test_a_wrong_query_is_told_and_nothing_is_written(query: str, words: str, lite: Path) -> None:
    with pytest.raises(DataError, match=words):
        catalog(orders(query=query), lite, "sqlite:///shop.db").columns("orders")
    con = sqlite3.connect(lite / "shop.db")
    assert con.execute("select count(*) from orders").fetchone() == (500,)
    con.close()


def test_no_rows_and_very_many_columns_are_data_like_any_other(lite: Path) -> None:
    empty = catalog(orders(query=ROWS + " where id < 0"), lite, "sqlite:///shop.db")
    assert set(empty.columns("orders").values()) == {"BYTES"}
    wide = "select " + ", ".join(f"{i} as c{i}" for i in range(1500))
    found = catalog(table("wide", query=wide, connection="warehouse"), lite, "sqlite:///shop.db")
    assert len(found.columns("wide")) == 1500
    with pytest.raises(DataError, match=r"1,500 in all") as error:
        found.keys("wide", ["d1"])
    assert len(error.value.message) < 400


def test_mixed_types_in_one_column_are_told_by_name(lite: Path) -> None:
    query = "select id, case when id % 2 then 'x' else id end as odd from orders"
    with pytest.raises(DataError, match="column odd"):
        catalog(orders(query=query, time=None), lite, "sqlite:///shop.db").columns("orders")  # type: ignore[arg-type]


def test_an_unknown_connection_and_a_missing_variable_are_told(lite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no connection 'warehose'") as error:
        catalog(orders(connection="warehose"), lite, "sqlite:///shop.db").columns("orders")
    assert "warehouse" in error.value.hint
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(DataError, match="NOT_SET is not set"):
        catalog(orders(), lite, "postgresql://u:${NOT_SET}@h/d").columns("orders")


@pytest.mark.parametrize("url", ["not a url hunter2", "nosuch://u:hunter2@h/d", "postgresql://u:hunter2@127.0.0.1:1/d"])
def test_a_wrong_url_is_told_without_its_password(url: str, lite: Path) -> None:
    with pytest.raises(DataError) as error:
        catalog(orders(), lite, url).columns("orders")
    assert "hunter2" not in str(error.value) + error.value.hint + repr(Connection("w", {"url": url}))


@pytest.mark.e2e
def test_postgresql_is_read_in_a_read_only_transaction_with_its_own_types(postgres: str, tmp_path: Path) -> None:
    url = postgres.replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as con:
        con.exec_driver_sql(
            "create table orders as select i as id, 'r' || i %% 3 as region, (i / 2.0)::numeric as amount, "
            "timestamptz '2024-01-01 00:00+00' + i * interval '1 hour' as moment, i %% 2 = 0 as paid, "
            "null::float8 as gap from generate_series(1, 50000) i"
        )
        con.exec_driver_sql("create sequence touched")
    spec = orders(query="select * from orders where region like 'r%'", version="select max(moment) from orders")
    found = catalog(spec, tmp_path, postgres)
    assert found.columns("orders") == {
        "id": "INT64", "region": "BYTES", "amount": "FP64", "moment": "TIMESTAMP", "paid": "BOOL", "gap": "FP64",
    }  # fmt: skip
    pin = found.pin(["orders"])
    assert pin.versions["orders"].startswith("2029-09-14")
    assert found.facts([Question("orders", (("region", "r1"),), ("amount",))], pin)[0].rows == 16667
    with pytest.raises(DataError, match="read-only"):
        catalog(orders(query="select nextval('touched')", time=None), tmp_path, postgres).columns("orders")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="cannot be opened") as error:
        catalog(spec, tmp_path / "x", postgres.replace("postgres:", "nobody:hunter2")).columns("orders")
    assert "hunter2" not in str(error.value)
    engine.dispose()
