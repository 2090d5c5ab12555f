from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from retinue.gateway.logs import Log


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_one_line_of_json_with_its_moment_level_and_facts(tmp_path: Path) -> None:
    file = tmp_path / "serve.log"
    log = Log("gateway", level="info", file=str(file), clock=lambda: 1769860800.25)
    log.say("release.changed", "release 7 is served\nnow", release=7, folder=tmp_path)
    log.close()
    [line] = lines(file)
    assert line.pop("pid") > 0
    assert line == {
        "time": "2026-01-31T12:00:00.250000Z",
        "level": "info",
        "event": "release.changed",
        "text": "release 7 is served\nnow",
        "process": "gateway",
        "release": 7,
        "folder": str(tmp_path),
    }


def test_what_is_below_the_level_is_not_said(tmp_path: Path) -> None:
    file = tmp_path / "serve.log"
    log = Log("gateway", level="error", file=str(file))
    log.say("release.changed", "")
    log.say("model.load_failed", "")
    log.say("access.damaged", "")
    log.close()
    assert [line["event"] for line in lines(file)] == ["access.damaged"]


def test_what_clients_cause_is_said_every_ten_seconds_with_how_much_was_left_out(tmp_path: Path) -> None:
    file, now = tmp_path / "serve.log", [100.0]
    log = Log("gateway", file=str(file), clock=lambda: now[0])
    for _ in range(1000):
        log.rarely("request.rejected", "no key")
    now[0] += 10
    log.rarely("request.rejected", "no key")
    log.slow("late", 1.23456789, 200)
    log.close()
    assert [(line["event"], line.get("left_out")) for line in lines(file)] == [
        ("request.rejected", None),
        ("request.rejected", 999),
        ("request.slow", None),
    ]


def test_a_rotated_file_is_made_anew_and_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    file, now = tmp_path / "serve.log", [100.0]
    logs = [Log(f"g{n}", level="info", file=str(file), clock=lambda: now[0]) for n in range(4)]
    threads = [threading.Thread(target=lambda log=log: [log.say("x", "y" * 500) for _ in range(50)]) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(file)) == 200
    file.rename(tmp_path / "serve.log.1")
    now[0] += 2
    for log in logs:
        log.say("x", "after")
        log.close()
    assert len(lines(file)) == 4


def test_a_log_that_cannot_be_written_is_silent(tmp_path: Path) -> None:
    log = Log("gateway", file=str(tmp_path / "no" / "folder" / "log"))
    log.say("access.damaged", "text")
    log.close()


def test_slow_is_never_when_it_is_not_asked_for() -> None:
    assert Log("gateway").slow_after == float("inf")
    assert Log("gateway", slow=0.5).slow_after == 0.5
