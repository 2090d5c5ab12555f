"""What the recorder writes, leaves out, and does when the disk takes nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.journal.conftest import DELAY, LATE, NOON, Journal

from retinue.core.contract import Field
from retinue.core.state import ServedJournal
from retinue.gateway.recorder import Answered, NodeFacts, Ran
from retinue.store.journal import CLOSED, OPEN, Content, list_segments, read_segment
from retinue.store.journal_key import digest_of, hash_key


def contents(journal: Journal) -> list[Content]:
    return [read_segment(path) for path in list_segments(journal.folder)]


def only(journal: Journal) -> Content:
    (content,) = contents(journal)
    return content


def test_nothing_is_on_disk_before_the_flush_and_everything_after_it(journal: Journal) -> None:
    journal.ask()
    assert only(journal).requests == []
    journal.recorder.flush()
    (request,) = only(journal).requests
    assert (request.id, request.endpoint, request.status, request.sampled) == ("id-000000", "late", 200, 1.0)
    assert request.runs[0].inputs == [[7, 21.5, "AA"]]
    assert (journal.recorder.records, journal.recorder.unjournalled) == (1, 0)


def test_the_flat_call_writes_the_same_record(journal: Journal) -> None:
    outputs = {"label": [True], "probability": [0.75]}
    row = [(7, 21.5, "AA")]
    journal.recorder.single("a", "late", 1, "acme", None, 200, 1, NOON, 0.004, LATE, row, outputs, 0.001, 0.002)
    run = Ran(LATE, None, row, outputs, 0.001, 0.002)
    journal.recorder.answered(Answered("a", "late", 1, "acme", None, 200, 1, NOON, 0.004, (run,)))
    journal.recorder.flush()
    one, two = only(journal).requests
    assert one == two


def test_a_node_is_defined_once_in_each_segment(journal: Journal) -> None:
    for _ in range(2):
        journal.ask()
        journal.ask()
        journal.recorder.rotate()
    for content in contents(journal)[:2]:
        assert [(node.model, node.inputs[0]) for node in content.nodes.values()] == [("late-JFK", ("hour", "INT64", 1))]
        assert {run.node for request in content.requests for run in request.runs} == set(content.nodes)


def test_arrays_text_and_odd_values_come_back(journal: Journal) -> None:
    packed = np.array([[1.0, np.nan], [3.0, 4.0]], dtype=np.float32)
    outputs = {"minutes": np.array([1.5, 2.5]), "words": np.array(["a", None], dtype=object), "n": [np.int64(3), None]}
    journal.ask(rows=2, runs=(Ran(DELAY, range(2), packed, outputs, 0.0, 0.0),))
    journal.recorder.flush()
    (run,) = only(journal).requests[0].runs
    np.testing.assert_array_equal(run.inputs, packed)
    assert run.inputs.dtype == np.float32
    assert run.rows == [0, 1]
    assert run.outputs["minutes"].tolist() == [1.5, 2.5]
    assert (run.outputs["words"], run.outputs["n"]) == (["a", None], [3, None])


def test_text_that_is_no_unicode_costs_the_tensors_and_not_the_record(journal: Journal) -> None:
    journal.ask("\ud800")
    journal.recorder.flush()
    (request,) = only(journal).requests
    assert (request.runs[0].inputs, request.sampled) == (None, 0.0)


def test_segments_rotate_by_size_and_by_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path, journal_rotate_bytes=2000, journal_rotate_seconds=60.0).follow()
    for _ in range(20):
        journal.ask()
        journal.recorder.flush()
    by_size = len(list_segments(journal.folder, closed=True))
    assert by_size >= 1
    assert all(path.stat().st_size < 2300 for path in list_segments(journal.folder))
    journal.ask()
    journal.recorder.flush()
    journal.clock.now += 61 * 10**9
    journal.recorder.tick()
    assert len(list_segments(journal.folder, closed=True)) == by_size + 1
    journal.close()
    assert sum(len(content.requests) for content in contents(journal)) == 21
    assert not [path for path in list_segments(journal.folder) if path.suffix == OPEN]


def test_a_journal_that_is_off_writes_nothing_and_counts_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, journal_enabled=False).follow()
    journal.ask()
    journal.recorder.flush()
    journal.recorder.tick()
    assert list(tmp_path.iterdir()) == []
    assert journal.recorder.unjournalled == 0


# ------------------------------------------------------------------------------------------------------------ sampling
def test_over_budget_tensors_are_sampled_and_facts_are_not(tmp_path: Path) -> None:
    draws = iter(np.random.default_rng(7).random(100_000).tolist())
    journal = Journal(tmp_path, coin=lambda: next(draws), journal_budget=20_000).follow()
    for _ in range(10):  # seconds, each with five times the budget
        for _ in range(100):
            for _ in range(6):
                journal.ask()
            journal.recorder.flush()
        journal.clock.now += 10**9
        journal.recorder.tick()
    journal.close()
    requests = [request for content in contents(journal) for request in content.requests]
    kept = [request for request in requests if request.runs[0].inputs is not None]
    assert len(requests) == 6000
    assert len(kept) == 6000 - journal.recorder.sampled_out
    assert 800 < len(kept) < 2500
    estimate = sum(1 / request.sampled for request in kept)  # counts weighted by the inverse have no bias
    assert estimate == pytest.approx(6000, rel=0.15)
    assert all(0 < request.sampled <= 1 for request in requests)


def test_an_endpoint_keeps_the_share_it_wishes(tmp_path: Path) -> None:
    draws = iter([0.2, 0.6, 0.3])
    journal = Journal(tmp_path, coin=lambda: next(draws)).follow(late=ServedJournal(tensors=0.5))
    for _ in range(3):
        journal.ask()
    journal.recorder.flush()
    found = [(request.sampled, request.runs[0].inputs is not None) for request in only(journal).requests]
    assert found == [(0.5, True), (0.5, True), (0.5, False)]  # of one turn, those with tensors come first


# ----------------------------------------------------------------------------------------------------------- redaction
BLOCKS: list[Any] = [
    [(7, 21.5, "AA")],
    {"hour": [7], "temp": np.array([21.5]), "carrier": ["AA"]},
]


@pytest.mark.parametrize("block", BLOCKS, ids=["rows", "columns"])
def test_fields_are_dropped_and_hashed(tmp_path: Path, block: Any) -> None:
    journal = Journal(tmp_path).follow(late=ServedJournal(drop=("hour",), hash=("carrier",)))
    journal.ask(runs=(Ran(LATE, None, block, {"label": [True]}, 0, 0),), errors={0: "row 0: 'AA'"})
    journal.recorder.flush()
    (request,) = only(journal).requests
    (path,) = list_segments(journal.folder)
    assert b"AA" not in path.read_bytes()
    found = request.runs[0].inputs
    values = [column[0] for column in found.values()] if isinstance(found, dict) else found[0]
    assert values == [None, 21.5, digest_of(hash_key(journal.settings.journals), "AA")]


def test_a_packed_matrix_is_redacted_by_column_and_under_other_names(tmp_path: Path) -> None:
    facts = NodeFacts("m", "v", [Field("a", "FP64"), Field("b", "FP64")], [], fields=["wage", ""])
    journal = Journal(tmp_path).follow(late=ServedJournal(drop=("wage", "b")))
    journal.ask(runs=(Ran(facts, None, np.array([[5.0, 6.0]]), {}, 0, 0),))
    journal.recorder.flush()
    inputs = only(journal).requests[0].runs[0].inputs
    assert inputs["a"] == [None]
    assert inputs["b"].tolist() == [6.0]


def test_a_release_that_is_long_gone_keeps_no_tensors(tmp_path: Path) -> None:
    journal = Journal(tmp_path).follow(late=ServedJournal(drop=("hour",)))
    for number in range(2, 100):
        journal.recorder.follow(number, "shop", "prod", {})
    journal.ask()
    journal.recorder.flush()
    assert only(journal).requests[0].runs[0].inputs is None


# ----------------------------------------------------------------------------------------------------------- full disk
FULL = """
import resource, sys
from pathlib import Path
from tests.journal.conftest import Journal
journal = Journal(Path(sys.argv[1]), journal_rotate_bytes=10**9).follow()
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
for _ in range(50):
    journal.ask(); journal.recorder.flush()
status = journal.recorder.status()
assert status["stopped"] == "File too large", status
assert status["records"] + status["unjournalled"] == 50
assert 0 < status["records"] < 50
print(status["records"])
for _ in range(5):
    journal.ask()
journal.recorder.flush()
journal.recorder.tick()
assert journal.recorder.trouble and journal.recorder.unjournalled == 50 - status["records"] + 5
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.clock.now += 4 * 10**9
journal.recorder.tick()
assert journal.recorder.trouble is None
journal.ask(); journal.recorder.close()
"""


def test_on_a_full_disk_answers_go_on_unjournalled_and_the_file_stays_whole(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = contents(Journal(tmp_path))
    assert len(before.requests) == int(done.stdout)
    assert (before.left, after.left) == (0, 0)
    assert len(after.requests) == 1
    (gap,) = after.gaps
    assert gap.answers == 50 - int(done.stdout) + 5
    assert gap.reason == "File too large"


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a file system")
def test_on_a_file_system_without_space_it_stops_and_comes_back(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("not allowed to mount")
    try:
        journal = Journal(tmp_path).follow()
        filler = tmp_path / "filler"
        filler.touch()
        with pytest.raises(OSError, match="No space") as full:
            filler.write_bytes(bytes(1024**2))
        assert full.value.errno == errno.ENOSPC
        for _ in range(200):
            journal.ask()
            journal.recorder.flush()
        assert journal.recorder.status()["stopped"] == "No space left on device"
        lost = journal.recorder.unjournalled
        assert lost + journal.recorder.records == 200
        filler.unlink()
        journal.clock.now += 4 * 10**9
        journal.recorder.tick()
        journal.ask()
        journal.close()
        found = contents(journal)
        assert sum(gap.answers for content in found for gap in content.gaps) == lost
        assert sum(len(content.requests) for content in found) == 201 - lost
        assert all(content.left == 0 for content in found)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file in the way")
    journal = Journal(tmp_path).follow()
    journal.ask()
    journal.recorder.flush()
    assert journal.recorder.trouble
    assert journal.recorder.unjournalled == 1


def test_killed_after_a_flush_it_has_lost_nothing_flushed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.journal.conftest import Journal\n"
        "j = Journal(Path(sys.argv[1])).follow(); [j.ask() for _ in range(100)]; j.recorder.flush(); j.ask()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    assert len(only(Journal(tmp_path)).requests) == 100


def test_power_loss_is_provided_for_when_wished(tmp_path: Path) -> None:
    journal = Journal(tmp_path, journal_fsync=True).follow()
    journal.ask()
    journal.recorder.flush()
    assert len(only(journal).requests) == 1
    journal.close()
    assert list_segments(journal.folder)[0].suffix == CLOSED
