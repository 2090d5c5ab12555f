"""Rows of a family's members out of one scan are those that each member would read alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retinue.sources import members
from retinue.sources.base import Pin
from retinue.sources.catalog import Catalog
from retinue.sources.session import Session

from .conftest import Make, table, write_parquet

COLUMNS = ["v", "w", "x"]


@pytest.fixture
def sold(root: Path) -> Any:
    """Rows of four shops and two sorts, some of neither, in no order."""
    write_parquet(
        root / "sold.parquet",
        "SELECT i AS id, TIMESTAMP '2026-01-01' + to_hours(i // 3) AS at, nullif(i % 5, 4) AS shop, "
        "['é b', 'c', NULL][1 + i % 3] AS sort, hash(i) % 97 / 7 AS v, nullif(i % 11, 3) AS w, "
        "nullif('t' || i % 4, 't1') AS x FROM range(240) t(i) ORDER BY hash(i)",
    )
    return table("sold", path="sold.parquet", time="at", key="id")


def alone(catalog: Catalog, filters: Any, **window: str) -> Any:
    """What a member reads itself: a new catalog has seen no sisters."""
    fresh = Catalog(catalog.tables, catalog._root, catalog._cache)
    return fresh.read("sold", COLUMNS, filters, Pin(), **window)


@pytest.mark.parametrize("window", [{}, {"since": "2026-01-02"}, {"before": "2026-01-02", "hide_from": "2026-01-03"}])
@pytest.mark.parametrize("by", [("shop",), ("sort", "shop")])
def test_each_member_gets_its_own_rows_in_their_order(
    make: Make, sold: Any, by: tuple[str, ...], window: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = make(sold)
    values = {"shop": ["0", "1", "2", "3", "9"], "sort": ["é b", "c"]}
    asked = [((by[0], first), *(((by[1], second),) if len(by) > 1 else ()))
             for first in values[by[0]] for second in (values[by[1]] if len(by) > 1 else [""])]  # fmt: skip
    expected = [alone(catalog, filters, **window) for filters in asked]
    for _ in range(members.ALONE):
        catalog.read("sold", COLUMNS, asked[0], Pin(), **window)
    scans: list[str] = []
    arrow = Session.arrow

    def counted(*call: Any) -> Any:
        scans.append(call[1])
        return arrow(*call)

    monkeypatch.setattr(Session, "arrow", counted)
    found = [catalog.read("sold", COLUMNS, filters, Pin(), **window) for filters in asked]
    assert len(scans) == 1
    assert [rows.num_rows for rows in found] == [rows.num_rows for rows in expected]
    assert all(rows.equals(other) for rows, other in zip(found, expected, strict=True))


def test_what_is_too_large_to_hold_is_read_member_by_member(
    make: Make, sold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "CELLS", 100)
    catalog = make(sold)
    for _ in range(members.ALONE + 2):
        found = catalog.read("sold", COLUMNS, (("shop", "1"),), Pin())
        assert found.equals(alone(catalog, (("shop", "1"),)))


def test_a_changed_file_is_scanned_anew(make: Make, sold: Any, root: Path) -> None:
    catalog = make(sold)
    for _ in range(members.ALONE + 1):
        before = catalog.read("sold", COLUMNS, (("shop", "1"),), Pin())
    write_parquet(root / "more.parquet", f"SELECT * REPLACE (1 AS shop) FROM '{root / 'sold.parquet'}'")
    (root / "more.parquet").replace(root / "sold.parquet")
    after = catalog.read("sold", COLUMNS, (("shop", "1"),), Pin())
    assert (before.num_rows, after.num_rows) == (48, 240)
