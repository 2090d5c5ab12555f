"""dbt's own artifacts: the relation is read, failed tests and stale sources are told as checks."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from retinue.core.connections import Connection
from retinue.core.errors import DataError
from retinue.sources.base import Pin
from retinue.sources.catalog import Catalog
from retinue.sources.origins import Origins

from .conftest import table

MANIFEST: dict[str, Any] = {
    "metadata": {
        "dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json",
        "dbt_version": "1.10.0",
        "invocation_id": "i-1",
        "generated_at": "2026-01-01T00:00:00Z",
    },
    "nodes": {
        "model.shop.orders": {
            "resource_type": "model", "name": "orders", "package_name": "shop", "relation_name": '"main"."orders"',
            "depends_on": {"nodes": ["source.shop.raw.orders"]},
        },
        "model.shop.gone": {"resource_type": "model", "name": "gone", "package_name": "shop", "relation_name": None},
        "test.shop.not_null_orders_id.1": {
            "resource_type": "test", "name": "not_null_orders_id", "depends_on": {"nodes": ["model.shop.orders"]},
        },
    },
    "sources": {"source.shop.raw.orders": {"resource_type": "source", "name": "orders", "source_name": "raw",
                                           "package_name": "shop", "relation_name": '"main"."raw_orders"'}},
    "parent_map": {
        "model.shop.orders": ["source.shop.raw.orders"],
        "test.shop.not_null_orders_id.1": ["model.shop.orders"],
    },
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    con = sqlite3.connect(tmp_path / "shop.db")
    con.execute("create table orders as select 1 as id, 'a' as region")
    con.commit()
    con.close()
    write(tmp_path, "manifest", MANIFEST)
    return tmp_path


def write(root: Path, name: str, body: Any) -> None:
    (root / "target").mkdir(exist_ok=True)
    (root / "target" / f"{name}.json").write_text(json.dumps(body))


def results(**statuses: str) -> dict[str, Any]:
    ids = {"model": "model.shop.orders", "test": "test.shop.not_null_orders_id.1"}
    return {
        "metadata": {"invocation_id": "r"},
        "results": [
            {"unique_id": ids[k], "status": v, "failures": 3 if v == "fail" else None, "message": f"{k} {v}"}
            for k, v in statuses.items()
        ],
    }


def catalog(root: Path, name: str = "model.shop.orders", manifest: str = "target/manifest.json") -> Catalog:
    connection = Connection("analytics", {"url": "sqlite:///shop.db", "manifest": manifest})
    origins = Origins(root, root / "cache", {"analytics": connection}, None)
    return Catalog({"o": table("o", dbt=name, connection="analytics")}, root, root / "cache", origins=origins)


def test_the_relation_of_a_model_is_read_and_a_new_run_is_a_new_version(root: Path) -> None:
    pin = catalog(root).pin(["o"])
    assert catalog(root).read("o", ["id", "region"], (), pin).to_pylist() == [{"id": 1, "region": "a"}]
    write(root, "run_results", results(model="success"))
    assert catalog(root).pin(["o"]).versions != pin.versions


def test_failed_tests_runs_and_stale_sources_are_checks_that_fail(root: Path) -> None:
    write(root, "run_results", results(model="success", test="fail"))
    write(root, "sources", {"results": [{"unique_id": "source.shop.raw.orders", "status": "error"}]})
    found = {r.check: r for r in catalog(root).check("o", Pin(), "2026-01-01T00:00:00", None)}
    assert found["dbt run(orders)"].passed
    failed = found["dbt test(not_null_orders_id)"]
    assert (failed.passed, failed.estimate, failed.threshold) == (False, 3.0, 0.0)
    assert found["dbt freshness(shop.raw.orders)"].passed is False


@pytest.mark.parametrize(
    ("name", "words"),
    [("ordrs", "no model 'ordrs'"), ("gone", "makes no relation"), ("orders", "several orders")],
)
def test_a_model_that_cannot_be_meant_is_told(name: str, words: str, root: Path) -> None:
    with pytest.raises(DataError, match=words):
        catalog(root, name).columns("o")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "cannot be read"), ("[]", "no JSON object"), ('{"metadata": {}}', "no dbt manifest that is known")],
)
def test_a_torn_or_foreign_manifest_is_told(text: str, words: str, root: Path) -> None:
    (root / "target" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=words):
        catalog(root).columns("o")
    with pytest.raises(DataError, match="there is no dbt manifest"):
        catalog(root, manifest="nowhere.json").columns("o")
