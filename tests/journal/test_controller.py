"""The controller's loop: when a round is due, and what follows when one fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tests.journal.conftest import Journal

from retinue.processes.controller import BACK_OFF, LOOK, Loop
from retinue.store.journal import list_segments
from retinue.store.journal_days import changing, days


def counting(tmp_path: Path, code: int = 0) -> tuple[list[str], Path]:
    """A round that only leaves a line, and where."""
    file = tmp_path / "rounds"
    file.touch()
    return [sys.executable, "-c", f"open({str(file)!r}, 'a').write('x'); raise SystemExit({code})"], file


def test_a_round_is_run_at_the_start_and_then_only_when_a_segment_waits(journal: Journal, tmp_path: Path) -> None:
    command, file = counting(tmp_path)
    loop = Loop(journal.folder, command)
    for _ in range(3):
        assert loop.look()
    assert file.read_text() == "x"
    journal.ask()
    journal.recorder.rotate()
    assert loop.look()
    assert file.read_text() == "xx"


def test_a_round_that_fails_is_tried_again_ever_later(journal: Journal, tmp_path: Path) -> None:
    command, _ = counting(tmp_path, 1)
    waits: list[float] = []

    def ended(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 7

    Loop(journal.folder, command).run(ended)
    assert waits == [LOOK, 10.0, 20.0, 40.0, BACK_OFF, BACK_OFF, BACK_OFF]


def test_a_round_compacts_and_retains_and_leaves_it_to_whoever_does_it_by_hand(tmp_path: Path) -> None:
    journal = Journal(tmp_path, journal_retain_days=1).follow()
    journal.ask()
    journal.close()
    words = [sys.executable, "-m", "retinue.processes.compacting", "shop", "prod", "--settings"]
    words.append(json.dumps(asdict(journal.settings), default=str))
    with changing(journal.folder):
        assert subprocess.run(words, check=False).returncode == 0
    assert len(list_segments(journal.folder)) == 1
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, list_segments(journal.folder), days(journal.folder)) == (0, [], [])
    assert "2026-01-01 is past its retention" in done.stderr
