"""Compaction: nothing is lost, nothing counted twice, wherever it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.journal.conftest import DAY, DELAY, LATE, NOON, Journal

from retinue.control.compact import Effect, compact, retain
from retinue.core.errors import LeaseHeldError
from retinue.gateway.recorder import Ran
from retinue.store.journal import CLOSED, DAMAGED, list_segments, segments_of
from retinue.store.journal_days import changing, day_folder, days, garbage, read_day, reading


def rows_of(folder: Path, kind: str = "predictions") -> list[dict[str, Any]]:
    """Everything that is compacted."""
    found: list[dict[str, Any]] = []
    for day in days(folder):
        for file in read_day(folder, day).files:
            if file.kind == kind:
                table = pq.ParquetFile(day_folder(folder, day) / file.path).read()
                assert table.num_rows == file.rows
                found += table.to_pylist()
    return found


def test_a_closed_segment_becomes_rows_by_day_and_goes(journal: Journal) -> None:
    first = journal.ask()
    second = journal.ask(None, arrived=NOON + DAY)
    journal.recorder.rotate()
    done = compact(journal.folder)
    assert (done.segments, done.requests, done.rows) == (1, 2, 2)
    assert days(journal.folder) == ["2026-01-01", "2026-01-02"]
    assert list_segments(journal.folder, closed=True) == []
    one, two = rows_of(journal.folder)
    assert (one["id"], one["row"], one["model"], one["version"]) == (first, 0, "late-JFK", "v1")
    assert one["inputs"] == {"hour": 7, "temp": 21.5, "carrier": "AA"}
    assert one["outputs"] == {"label": True, "probability": 0.75}
    assert str(one["time"]) == "2026-01-01 12:00:00"
    assert (two["id"], two["inputs"]["carrier"]) == (second, None)


def test_rows_of_one_request_keep_their_models_marks_and_errors(journal: Journal) -> None:
    runs = (
        Ran(LATE, [0, 2], {"hour": [1, 2], "temp": [1.0, None], "carrier": ["a", "b"]},
            {"label": [True, False], "probability": np.array([0.9, 0.1])}, 0.0, 0.0),
        Ran(DELAY, [3], np.array([[1.0, float("nan")]]), {"minutes": [3.0]}, 0.0, 0.0, fallback=True),
    )  # fmt: skip
    journal.ask(rows=4, runs=runs, errors={1: "no such member"})
    journal.recorder.rotate()
    compact(journal.folder)
    rows = sorted(rows_of(journal.folder), key=lambda row: row["row"])
    assert [row["model"] for row in rows] == ["late-JFK", None, "late-JFK", "delay"]
    assert [row["error"] for row in rows] == [None, "no such member", None, None]
    assert [row["fallback"] for row in rows] == [False, None, False, True]
    assert rows[3]["inputs"] == {"temp": 1.0, "p": None}
    assert rows_of(journal.folder, "requests")[0]["errors"] == [{"row": 1, "error": "no such member"}]


def test_large_packed_runs_become_columns(journal: Journal) -> None:
    block = np.arange(2000.0).reshape(1000, 2)
    journal.ask()
    journal.ask(rows=1000, runs=(Ran(DELAY, None, block, {"minutes": np.arange(1000.0)}, 0.0, 0.0),))
    journal.recorder.rotate()
    compact(journal.folder)
    rows = [row for row in rows_of(journal.folder) if row["model"] == "delay"]
    assert [row["inputs"]["p"] for row in rows] == block[:, 1].tolist()
    assert [row["outputs"]["minutes"] for row in rows] == list(range(1000))


def test_a_model_with_many_rows_has_files_of_its_own_and_keeps_them(journal: Journal) -> None:
    block = np.ones((3000, 2))
    for rows in (3000, 2):
        run = Ran(DELAY, None, block[:rows], {"minutes": np.arange(float(rows))}, 0.0, 0.0)
        journal.ask(rows=rows, runs=(run,))
        journal.recorder.rotate()
        compact(journal.folder)
    files = [file for file in read_day(journal.folder, "2026-01-01").files if file.kind == "predictions"]
    assert [(file.model, file.rows) for file in files] == [("delay", 3002)]
    assert files[0].path.startswith("model=delay/")


def test_the_segment_of_a_dead_gateway_is_closed_and_of_a_live_one_left(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.journal.conftest import Journal\n"
        "j = Journal(Path(sys.argv[1])).follow(); j.ask(); j.recorder.flush(); j.ask()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    alive = Journal(tmp_path).follow()
    alive.ask()
    alive.recorder.flush()
    effects: list[Effect] = []
    done = compact(alive.folder, effects.append)
    assert done.requests == 1
    assert effects[0] is Effect.ORPHANS_CLOSED
    assert len(list_segments(alive.folder)) == 1
    alive.close()


def test_a_torn_tail_is_dropped_and_damage_is_kept_aside(journal: Journal) -> None:
    for _ in range(2):
        journal.ask()
        journal.recorder.flush()  # a loop turn's answers share a frame
        journal.ask()
        journal.recorder.rotate()
    torn, damaged = list_segments(journal.folder, closed=True)
    os.truncate(torn, torn.stat().st_size - 3)
    data = bytearray(damaged.read_bytes())
    data[-3] ^= 1
    damaged.write_bytes(data)
    done = compact(journal.folder)
    assert done.requests == 2
    assert done.damaged == (damaged.stem,)
    assert [path.name for path in segments_of(journal.folder).glob("*" + DAMAGED)] == [damaged.stem + DAMAGED]
    compact(journal.folder)
    assert len(rows_of(journal.folder)) == 2


def test_a_file_that_is_no_segment_is_kept_aside(journal: Journal) -> None:
    (segments_of(journal.folder) / ("x" + CLOSED)).write_bytes(b"something else")
    assert compact(journal.folder).damaged == ("x",)


def test_columns_whose_types_changed_become_text(journal: Journal) -> None:
    journal.ask()
    journal.ask(runs=(Ran(LATE, None, [("seven", 1.0, "AA")], {"label": [True], "probability": [0.1]}, 0.0, 0.0),))
    journal.recorder.rotate()
    compact(journal.folder)
    journal.ask()
    journal.recorder.rotate()
    compact(journal.folder)
    assert [row["inputs"]["hour"] for row in rows_of(journal.folder)] == ["7", "seven", "7"]


KILLED = """
import os, signal, sys
from pathlib import Path
from retinue.control.compact import compact
left = int(sys.argv[2])
def kill(effect):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
compact(Path(sys.argv[1]), kill)
"""


def test_killed_after_any_effect_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    point = 0
    while True:
        journal = Journal(tmp_path / str(point)).follow()
        ids = []
        for day in (0, 1):
            ids.append(journal.ask(arrived=NOON + day * DAY))
        journal.recorder.rotate()
        compact(journal.folder)
        for day in (0, 1, 1):
            ids.append(journal.ask(arrived=NOON + day * DAY))
            journal.recorder.rotate()
        journal.close()
        code = subprocess.run([sys.executable, "-c", KILLED, str(journal.folder), str(point)], check=False).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        compact(journal.folder)
        assert sorted(row["id"] for row in rows_of(journal.folder)) == ids, f"killed after effect number {point + 1}"
        assert sorted(row["id"] for row in rows_of(journal.folder, "requests")) == ids
        assert garbage(journal.folder) == []
        assert list_segments(journal.folder) == []
        point += 1
    assert point >= 8


def test_two_never_compact_at_once(journal: Journal) -> None:
    with changing(journal.folder), pytest.raises(LeaseHeldError, match="another process"):
        compact(journal.folder)


def test_files_that_are_read_stay_until_the_reader_has_ended(journal: Journal) -> None:
    journal.ask()
    journal.recorder.rotate()
    compact(journal.folder)
    journal.ask()
    journal.recorder.rotate()
    with reading(journal.folder):
        compact(journal.folder)
        assert garbage(journal.folder)
    compact(journal.folder)
    assert garbage(journal.folder) == []


def test_old_days_go_first_by_age_then_by_size(journal: Journal) -> None:
    for day in range(5):
        journal.ask(arrived=NOON + day * DAY)
    journal.recorder.rotate()
    compact(journal.folder)
    now = (NOON + 4 * DAY) / 1e9
    assert retain(journal.folder, now, 3, 0) == ("2026-01-01",)
    assert retain(journal.folder, now, 3, 10**9) == ()
    assert retain(journal.folder, now, 0, 1) == ("2026-01-02", "2026-01-03", "2026-01-04")
    assert days(journal.folder) == ["2026-01-05"]


def test_a_gap_is_told(journal: Journal) -> None:
    recorder = journal.recorder
    recorder._stop(OSError(28, "No space left on device"), 3)
    journal.clock.now += 10**10
    recorder.tick()
    journal.recorder.rotate()
    compact(journal.folder)
    (gap,) = rows_of(journal.folder, "gaps")
    assert (gap["answers"], gap["reason"]) == (3, "No space left on device")


def test_schemas_are_stable(journal: Journal) -> None:
    from retinue.control.journal_rows import FACTS

    journal.ask()
    journal.recorder.rotate()
    compact(journal.folder)
    (file,) = [f for f in read_day(journal.folder, "2026-01-01").files if f.kind == "predictions"]
    schema = pq.read_schema(day_folder(journal.folder, "2026-01-01") / file.path)
    assert pa.schema(list(schema)[: len(FACTS)]) == FACTS
    assert schema.names[len(FACTS) :] == ["inputs", "outputs"]
