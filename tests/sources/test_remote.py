"""Files on a server that speaks S3: recognised by ETag, opened by the connection's keys, patterns too."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retinue.core.connections import Connection
from retinue.core.errors import DataError
from retinue.sources.base import Pin
from retinue.sources.catalog import Catalog
from retinue.sources.origins import Origins

from .conftest import table
from .servers import Bucket

pytestmark = pytest.mark.e2e


def catalog(path: str, root: Path, found: Bucket, cache: str = "cache", **other: str) -> Catalog:
    values = {"endpoint": found.endpoint, "key": found.key, "secret": found.secret, **other}
    origins = Origins(root, root / cache, {"lake": Connection("lake", values)}, None)
    return Catalog({"x": table("x", path=path, connection="lake")}, root, root / cache, origins=origins)


def put(found: Bucket, name: str, rows: int, folder: Path) -> None:
    local = folder / "up.parquet"
    pq.write_table(pa.table({"a": list(range(rows)), "b": ["x"] * rows}), local)
    found.system().put_file(str(local), f"lake/{name}")


def test_objects_are_pinned_by_their_etags_and_read_once(bucket: Bucket, tmp_path: Path) -> None:
    put(bucket, "day/1.parquet", 10, tmp_path)
    first = catalog("s3://lake/day/*.parquet", tmp_path, bucket)
    pin = first.pin(["x"])
    assert first.read("x", ["a"], (), pin).num_rows == 10
    put(bucket, "day/2.parquet", 5, tmp_path)
    second = catalog("s3://lake/day/*.parquet", tmp_path, bucket)
    assert second.read("x", ["a"], (), second.pin(["x"])).num_rows == 15
    assert second.read("x", ["a"], (), pin).num_rows == 10
    bucket.system().rm_file("lake/day/1.parquet")
    third = catalog("s3://lake/day/*.parquet", tmp_path, bucket)
    assert third.read("x", ["a"], (), third.pin(["x"])).num_rows == 5


def test_csv_and_torn_objects_are_told_apart(bucket: Bucket, tmp_path: Path) -> None:
    bucket.system().pipe_file("lake/t.csv", b"a,b\n1,x\n2,\n")
    assert catalog("s3://lake/t.csv", tmp_path, bucket).columns("x") == {"a": "INT64", "b": "BYTES"}
    bucket.system().pipe_file("lake/torn.parquet", b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"torn\.parquet"):
        catalog("s3://lake/torn.parquet", tmp_path, bucket).columns("x")


def test_what_is_missing_refused_or_away_is_told_without_the_secret(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no s3://lake/none\.parquet"):
        catalog("s3://lake/none.parquet", tmp_path, bucket).columns("x")
    with pytest.raises(DataError, match="nothing matches"):
        catalog("s3://lake/none/*.parquet", tmp_path, bucket).columns("x")
    put(bucket, "one.parquet", 3, tmp_path)
    with pytest.raises(DataError, match="may not be read") as error:
        catalog("s3://lake/one.parquet", tmp_path, bucket, "c2", secret="wrong-hunter2").columns("x")
    assert "hunter2" not in str(error.value)
    with pytest.raises(DataError, match="cannot be reached"):
        catalog("s3://lake/one.parquet", tmp_path, bucket, "c3", endpoint="http://127.0.0.1:1").columns("x")
    seen = catalog("s3://lake/one.parquet", tmp_path, bucket)
    seen.read("x", ["a"], (), Pin())
    away = catalog("s3://lake/one.parquet", tmp_path, bucket, endpoint="http://127.0.0.1:1")
    assert away.read("x", ["a"], (), away.pin(["x"])).num_rows == 3
    assert "cannot be reached" in away.notes()[0]
