"""The queries of the guide run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.journal.conftest import Journal

from retinue.control.compact import compact
from retinue.control.query import query

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "query-the-journal.md"
QUERIES = re.findall(r'^retinue query "(.*)"$', GUIDE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_guide_has_queries() -> None:
    assert len(QUERIES) >= 5


@pytest.mark.parametrize("sql", QUERIES)
def test_a_query_of_the_guide_runs(journal: Journal, sql: str) -> None:
    journal.ask()
    journal.recorder.rotate()
    compact(journal.folder)
    journal.ask()
    journal.recorder.flush()
    assert query(journal.folder, sql).columns
