"""SQL over compacted days and what is not compacted yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.journal.conftest import DAY, DELAY, NOON, Journal

from retinue.control.compact import compact
from retinue.control.query import Span, query
from retinue.core.contract import Field
from retinue.core.errors import UsageError
from retinue.gateway.recorder import NodeFacts, Ran


def test_compacted_closed_and_open_rows_are_one_table(journal: Journal) -> None:
    ids = [journal.ask()]
    journal.recorder.rotate()
    compact(journal.folder)
    ids.append(journal.ask())
    journal.recorder.rotate()
    ids.append(journal.ask())
    journal.recorder.flush()
    found = query(journal.folder, "select id, endpoint, model, version, probability, inputs.carrier, outputs.label "
                  "from predictions where time >= '2026-01-01' order by id")  # fmt: skip
    assert found.columns == ("id", "endpoint", "model", "version", "probability", "carrier", "label")
    assert found.rows == [(identity, "late", "late-JFK", "v1", 0.75, "AA", True) for identity in ids]
    assert query(journal.folder, "select count(*) from requests").rows == [(3,)]
    assert query(journal.folder, "select count(*) from gaps").rows == [(0,)]


def test_models_with_other_columns_and_other_types_stand_side_by_side(journal: Journal) -> None:
    many = NodeFacts(
        "kind", "v1", [Field("hour", "BYTES")], [Field("label", "BYTES"), Field("probability", "FP64", width=2)]
    )
    for compacted in (True, False):
        journal.ask()
        journal.ask(facts=many, runs=(Ran(many, None, [("x",)], {"label": ["b"], "probability": [[0.2, 0.8]]}, 0, 0),))
        journal.ask(runs=(Ran(DELAY, None, np.array([[1.0, 2.0]]), {"minutes": [9.5]}, 0, 0),))
        journal.ask(runs=(), errors={0: "no such member"})
        journal.recorder.rotate()
        if compacted:
            compact(journal.folder)
    found = query(journal.folder, "select model, label, probability, probability_list, minutes, error, inputs.hour "
                  "from predictions where id >= 'id-000004' order by id")  # fmt: skip
    assert found.rows == [
        ("late-JFK", "true", 0.75, None, None, None, "7"),
        ("kind", "b", None, [0.2, 0.8], None, None, "x"),
        ("delay", None, None, None, 9.5, None, None),
        (None, None, None, None, None, "no such member", None),
    ]
    assert query(journal.folder, "select count(*), count(distinct model) from predictions").rows == [(8, 3)]


def test_days_can_be_left_out(journal: Journal) -> None:
    for day in range(3):
        journal.ask(arrived=NOON + day * DAY)
    journal.recorder.rotate()
    for _ in range(2):
        found = query(journal.folder, "select count(*) from predictions", Span("2026-01-02", "2026-01-02"))
        assert found.rows == [(1,)]
        compact(journal.folder)


def test_a_journal_without_anything_has_the_same_columns(tmp_path: Path) -> None:
    assert query(tmp_path / "none", "select model, version from predictions").rows == []


@pytest.mark.parametrize(
    "sql",
    ["delete from predictions", "copy (select 1) to '/tmp/out.csv'", "attach '/tmp/x.db'", "install httpfs",
     "select 1; select 2", "set enable_external_access = true", "select * from read_csv('/etc/passwd')",
     "select * from read_text('/etc/passwd')", "select * from glob('/*')", "select frm where", "", "load json",
     "select nothing from predictions", "export database '/tmp/x'", "create table t as select 1"],
)  # fmt: skip
def test_nothing_but_reading_the_journal_is_done(journal: Journal, sql: str) -> None:
    journal.ask()
    journal.recorder.rotate()
    compact(journal.folder)
    with pytest.raises(UsageError):
        query(journal.folder, sql)


def test_the_journals_own_files_cannot_be_written(journal: Journal) -> None:
    journal.ask()
    journal.recorder.rotate()
    compact(journal.folder)
    (file,) = (journal.folder / "rows").rglob("models/*.parquet")
    with pytest.raises(UsageError):
        query(journal.folder, f"copy (select 1) to '{file}'")
    whole = file.read_bytes()
    for explain in ("explain analyze", "Explain (analyze)", "explain /**/ analyze", "explain"):
        with pytest.raises(UsageError):
            query(journal.folder, f"{explain} copy (select 1) to '{file}' (format parquet, use_tmp_file false)")
    assert file.read_bytes() == whole
    assert query(journal.folder, "explain analyze select * from predictions").rows
    assert query(journal.folder, "explain select * from predictions").rows
    assert query(journal.folder, "describe predictions").rows
