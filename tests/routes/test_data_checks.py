"""Tables from a database, end to end: a failed check blocks who reads it and is recorded; what is pinned stays."""

from __future__ import annotations

import sqlite3

import pyarrow.parquet as pq
import pytest
from tests.routes.harbour import Harbour

from retinue.cli.facts import outcome_json
from retinue.cli.render_outcome import render_outcome

pytestmark = pytest.mark.e2e
SOURCE = """\
    query: select * from calls
    connection: port
    version: select count(*) || max(moment) from calls
    checks: {rows_vs_last: 80%, unique: id, range: {swell: [-100, 100]}}
"""


def store(harbour: Harbour, share: float) -> int:
    """Write that share of the calls into the database; how many they are."""
    rows = pq.read_table(harbour.data).to_pandas()
    rows["moment"] = rows["moment"].astype(str)
    kept = rows.iloc[: int(len(rows) * share)]
    con = sqlite3.connect(harbour.root / "port.db")
    kept.to_sql("calls", con, index=False, if_exists="replace")
    con.close()
    return len(kept)


def test_a_failed_check_blocks_who_reads_the_table_until_the_data_is_right(harbour: Harbour) -> None:
    every = store(harbour, 1.0)
    (harbour.root / "retinue.toml").write_text('[connections.port]\nurl = "sqlite:///port.db"\n')
    harbour.edit("    path: data/calls.parquet\n", SOURCE)
    first = harbour.apply(select=("delay",))
    assert not first.failed, render_outcome(first, None, "prod")
    assert {(c.check, c.passed, c.rows) for c in first.checks} == {
        ("rows_vs_last", None, every),
        ("unique(id)", True, every),
        ("range(swell)", True, every),
    }
    assert not [s for s in harbour.plan(select=("delay",)).steps if getattr(s, "model", "") == "delay"]

    half = store(harbour, 0.5)
    assert "delay" in harbour.plan(select=("delay",)).newer_data
    blocked = harbour.apply(select=("delay",), refresh_data=True)
    assert blocked.failed
    assert "data calls rows_vs_last: FAIL, 0.5 against 0.8" in render_outcome(blocked, None, "prod")
    told = {c["check"]: c for c in outcome_json(blocked)["checks"]}["rows_vs_last"]
    assert (told["passed"], told["rows"]) == (False, half)
    recorded = harbour.do(lambda p: p.registry.applies("harbour", "prod"))[0].summary["checks"]
    assert told in recorded

    store(harbour, 0.9)
    last = harbour.apply(select=("delay",), refresh_data=True)
    assert [c.passed for c in last.checks] == [True, True, True]
    assert last.models[0].error is None


def test_a_pinned_model_is_trained_on_what_was_pinned_although_the_table_was_cut(harbour: Harbour) -> None:
    store(harbour, 1.0)
    (harbour.root / "retinue.toml").write_text('[connections.port]\nurl = "sqlite:///port.db"\n')
    harbour.edit("    path: data/calls.parquet\n", SOURCE)
    assert not harbour.apply().failed
    store(harbour, 0.5)
    harbour.edit("alpha: 1.0", "alpha: 1.2")
    outcome = harbour.apply()
    assert not outcome.failed, render_outcome(outcome, None, "prod")
    (harbour.root / "port.db").rename(harbour.root / "away.db")
    plan = harbour.plan()
    assert any("cannot be reached" in note for note in plan.notes)
    assert plan.empty
