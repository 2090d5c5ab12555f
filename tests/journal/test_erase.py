"""A person's rows leave the journal, wherever they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.journal.conftest import DAY, DELAY, LATE, NOON, Journal

from retinue.control.compact import compact
from retinue.control.erase import Wanted, erase
from retinue.control.query import query
from retinue.core.errors import StateError, UsageError
from retinue.core.state import ServedJournal
from retinue.gateway.recorder import Ran
from retinue.store.journal_days import garbage, reading
from retinue.store.journal_key import hash_key

GATEWAY = """
import signal, sys, time
from pathlib import Path
from tests.journal.conftest import Journal
journal = Journal(Path(sys.argv[1])).follow()
journal.ask("ann"); journal.ask("bob"); journal.recorder.flush()
if sys.argv[2] == "hears":
    signal.signal(signal.SIGUSR1, lambda *_: journal.recorder.rotate())
else:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


def carriers(folder: Path) -> list[str]:
    return [row[0] for row in query(folder, "select inputs.carrier from predictions order by 1").rows]


def test_rows_leave_compacted_days_and_closed_segments(journal: Journal) -> None:
    for name in ("ann", "bob"):
        journal.ask(name)
        journal.ask(name, arrived=NOON + DAY)
    journal.recorder.rotate()
    compact(journal.folder)
    journal.ask("ann")
    journal.recorder.rotate()
    done = erase(journal.folder, Wanted("late", {"carrier": "ann"}))
    assert (done.rows, done.requests, done.days) == (3, 3, 2)
    assert carriers(journal.folder) == ["bob", "bob"]
    assert query(journal.folder, "select count(*) from requests").rows == [(2,)]
    assert garbage(journal.folder) == []
    assert b"ann" not in b"".join(path.read_bytes() for path in journal.folder.rglob("*.parquet"))


def test_texts_of_errors_that_quote_the_value_go_too(journal: Journal) -> None:
    """A row that failed has no inputs to find it by."""
    journal.ask(runs=(), errors={0: "row 0: 'carrier' must be a number, not text 'ann@x - y'"})
    journal.ask(runs=(), errors={0: "row 0: 'carrier' is missing"})
    journal.recorder.rotate()
    erase(journal.folder, Wanted(None, {"carrier": "ann@x - y"}))
    texts = "select error from predictions union all select errors[1].error from requests order by 1 nulls first"
    missing = "row 0: 'carrier' is missing"
    assert query(journal.folder, texts).rows == [(None,), (None,), (missing,), (missing,)]
    assert b"ann@x" not in b"".join(path.read_bytes() for path in journal.folder.rglob("*.parquet"))


def test_every_node_call_of_the_row_goes_and_the_requests_other_rows_stay(journal: Journal) -> None:
    runs = (
        Ran(DELAY, None, [(1.0, 2.0), (3.0, 4.0)], {"minutes": [1.0, 2.0]}, 0, 0),
        Ran(LATE, None, [(1, 1.0, "ann"), (2, 1.0, "bob")], {"label": [True, True], "probability": [0.1, 0.2]}, 0, 0),
    )
    journal.ask(rows=2, runs=runs, errors={0: "row 0: 'ann' is odd"})
    journal.recorder.rotate()
    done = erase(journal.folder, Wanted(None, {"carrier": "ann"}))
    assert (done.rows, done.requests) == (1, 0)
    assert query(journal.folder, "select model, row from predictions order by 1").rows == [
        ("delay", 1),
        ("late-JFK", 1),
    ]
    assert query(journal.folder, "select rows, errors from requests").rows == [(2, None)]


def test_rows_of_other_endpoints_and_other_values_stay(journal: Journal) -> None:
    journal.ask("ann")
    journal.recorder.rotate()
    assert erase(journal.folder, Wanted("other", {"carrier": "ann"})).rows == 0
    assert erase(journal.folder, Wanted("late", {"carrier": "ann", "hour": "8"})).rows == 0
    assert erase(journal.folder, Wanted("late", {"nothing": "ann"})).rows == 0
    assert erase(journal.folder, Wanted("late", {"carrier": "ann", "hour": "7", "client": "acme"})).rows == 1


def test_a_hashed_field_is_found_by_its_value(tmp_path: Path) -> None:
    journal = Journal(tmp_path).follow(late=ServedJournal(hash=("carrier",)))
    journal.ask("ann")
    journal.close()
    key = hash_key(journal.settings.journals)
    assert carriers(journal.folder) != ["ann"]
    assert erase(journal.folder, Wanted("late", {"carrier": "ann"}, key)).rows == 1


def test_a_condition_is_needed(journal: Journal) -> None:
    with pytest.raises(UsageError, match="whose rows"):
        erase(journal.folder, Wanted("late", {}))


@pytest.mark.parametrize("behaviour", ["hears", "deaf"])
def test_a_living_gateway_closes_its_segment_first_or_nothing_is_erased(tmp_path: Path, behaviour: str) -> None:
    journal = Journal(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, str(tmp_path), behaviour], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wanted = Wanted("late", {"carrier": "ann"})
        if behaviour == "hears":
            assert erase(journal.folder, wanted).rows == 1
            assert carriers(journal.folder) == ["bob"]
        else:
            with pytest.raises(StateError, match="nothing was erased"):
                erase(journal.folder, wanted, patience=0.2)
    finally:
        process.kill()
        process.communicate()


def test_a_query_that_reads_the_old_files_is_told_of(journal: Journal) -> None:
    journal.ask("ann")
    journal.recorder.rotate()
    compact(journal.folder)
    with reading(journal.folder), pytest.raises(StateError, match="still being read"):
        erase(journal.folder, Wanted("late", {"carrier": "ann"}), patience=0.1)
    assert erase(journal.folder, Wanted("late", {"carrier": "ann"})).rows == 0
    assert garbage(journal.folder) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from retinue.control.erase import Wanted, erase
left = int(sys.argv[2])
def kill(effect):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
erase(Path(sys.argv[1]), Wanted("late", {"carrier": "ann"}), kill)
"""


def test_killed_after_any_effect_a_repeat_erases_the_rest_and_nothing_else(tmp_path: Path) -> None:
    for point in range(20):
        journal = Journal(tmp_path / str(point)).follow()
        for day in (0, 1):
            journal.ask("ann", arrived=NOON + day * DAY)
            journal.ask("bob", arrived=NOON + day * DAY)
        journal.close()
        code = subprocess.run([sys.executable, "-c", KILLED, str(journal.folder), str(point)], check=False).returncode
        if code == 0:
            assert point >= 9
            return
        assert code == -signal.SIGKILL
        erase(journal.folder, Wanted("late", {"carrier": "ann"}))
        assert carriers(journal.folder) == ["bob", "bob"]
        assert garbage(journal.folder) == []
    raise AssertionError("it never ended")


def test_the_journals_key_is_its_owners_alone(tmp_path: Path) -> None:
    key = hash_key(tmp_path)
    assert hash_key(tmp_path) == key
    assert len(key) == 32
    assert os.stat(tmp_path / "hash.key").st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["hash.key"]
