"""The reference page and the JSON Schema say what the loader checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retinue.loader import json_schema
from retinue.loader.reference import reference, schema_text
from retinue.loader.schema import ModelFields
from retinue.loader.schema_data import Table

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_the_reference_page_is_the_generated_one() -> None:
    assert (REFERENCE / "portfolio.md").read_text(encoding="utf-8") == reference()


def test_the_schema_file_is_the_generated_one() -> None:
    assert (REFERENCE / "portfolio.schema.json").read_text(encoding="utf-8") == schema_text()


def test_every_key_in_the_schema_is_described() -> None:
    for name, body in json_schema()["$defs"].items():
        for key, value in body.get("properties", {}).items():
            assert value.get("description"), f"{name}.{key}"


@pytest.mark.parametrize(("shape", "key", "rebuilds"), [(ModelFields, "params", "yes"), (ModelFields, "owner", "no")])
def test_every_key_says_whether_it_rebuilds(shape: Any, key: str, rebuilds: str) -> None:
    assert shape.model_fields[key].json_schema_extra == {"rebuilds": rebuilds}


def test_a_tables_path_does_not_rebuild_and_its_sql_does() -> None:
    assert Table.model_fields["path"].json_schema_extra == {"rebuilds": "no"}
    assert Table.model_fields["sql"].json_schema_extra == {"rebuilds": "yes"}
