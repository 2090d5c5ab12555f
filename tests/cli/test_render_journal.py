"""The journal as text."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from retinue.cli.render_journal import plain, render_csv, render_journal, render_rows
from retinue.store.journal_days import State

COLUMNS = ("model", "time", "probability", "n", "inputs")
ROWS = [
    ("late-JFK", datetime.fromisoformat("2026-01-01T12:00:01"), 0.123456789, 3, {"hour": 7}),
    (None, datetime.fromisoformat("2026-01-01T12:00:00"), None, 12345, {"text": "long " * 40}),
]
STATE = State(1, 2, 0, 5_000_000, 312.4, 3, "2026-01-01", "2026-01-03", 1_234, 5_678, 2_000_000, 9 * 1024**3)


def test_rows_are_a_table_that_aligns(golden: Callable[[str, str], None]) -> None:
    golden("query_table", render_rows(COLUMNS, ROWS) + "\n")


def test_no_rows_are_a_table_with_its_names() -> None:
    assert render_rows(("a", "long"), []) == "a  long\n-  ----\n(0 rows)"


def test_csv_has_names_and_empty_cells_for_what_is_missing() -> None:
    assert render_csv(("a", "b"), [(1, None), ('x"y', 0.5)]) == 'a,b\n1,\n"x""y",0.5\n'


def test_numbers_that_json_has_not_are_null() -> None:
    assert plain([float("nan"), float("inf"), 1.5, True]) == [None, None, 1.5, True]


def test_a_journal_that_is_well(golden: Callable[[str, str], None]) -> None:
    gateways = [{"records": 1000, "unjournalled": 0, "stopped": ""}, {"records": 234, "unjournalled": 0, "stopped": ""}]
    golden("journal_status", render_journal(STATE, "/state/journal/shop/prod", gateways) + "\n")


def test_a_journal_that_has_stopped(golden: Callable[[str, str], None]) -> None:
    state = State(0, 0, 1, 0, 0.0, 0, None, None, 0, 0, 0, 0)
    gateways = [{"records": 10, "unjournalled": 20, "stopped": "No space left on device"}]
    golden("journal_stopped", render_journal(state, "/state/journal/shop/prod", gateways) + "\n")
    assert "no server runs" in render_journal(state, "/x", None)
