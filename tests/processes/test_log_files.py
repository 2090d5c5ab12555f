"""`retinue logs` of a server's processes: the last lines, those that follow, and what is wrong."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from tests.control.kept import add, land, opened

from retinue.cli.main import run
from retinue.core.errors import StateError
from retinue.gateway.logs import Log
from retinue.processes.log_files import bound_worker_logs, follow, last_lines
from retinue.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "portfolio.yaml").write_text("portfolio: shop\nformat: 1\n")
    return load_settings(tmp_path, {})


def said(settings: Settings, process: str, event: str, text: str) -> None:
    log = Log(process, level="error", kept=settings.logs / "serve.log")
    log.say(event, text)
    log.close()


def texts(settings: Settings, process: str, count: int = 100) -> list[str]:
    return [line.text for line in last_lines(settings, process, count)]


def test_each_process_has_its_lines_across_rotations(settings: Settings) -> None:
    said(settings, "supervisor", "server.started", "one")
    said(settings, "supervisor", "controller", "compacted")
    (settings.logs / "serve.log").rename(settings.logs / "serve.log.1")
    said(settings, "gateway", "release.changed", "two")
    with (settings.logs / "serve.log").open("a") as file:
        file.write("Traceback\n[1]\n")
    said(settings, "gateway", "worker.died", "three")
    (settings.logs / "worker-ab.log").write_text("hello\nworld\n")
    assert texts(settings, "gateway") == ["one", "two", "Traceback", "[1]", "three"]
    assert texts(settings, "gateway", 2) == ["[1]", "three"]
    assert texts(settings, "gateway", 0) == []
    assert texts(settings, "controller") == ["compacted"]
    assert texts(settings, "worker", 1) == ["world"]
    bound_worker_logs(settings)
    assert texts(settings, "worker") == ["hello", "world"]


def test_what_follows_is_told_across_a_rotation_and_a_file_that_begins_later(settings: Settings) -> None:
    def act(step: list[int] = [0]) -> None:  # noqa: B006 - counts its calls
        step[0] += 1
        path = settings.logs / "serve.log"
        if step[0] == 1:
            said(settings, "gateway", "a", "first")
        elif step[0] == 2:
            said(settings, "gateway", "b", "before the move")
            path.rename(settings.logs / "serve.log.1")
            said(settings, "gateway", "c", "after the move")
        else:
            path.write_bytes(b"")
            said(settings, "gateway", "d", "emptied")

    coming = follow(settings, "gateway", lambda seconds: act())
    with closing(coming):
        assert [line.text for line in islice(coming, 4)] == ["first", "before the move", "after the move", "emptied"]


def test_nothing_yet_is_told_with_what_writes_it(settings: Settings) -> None:
    for process in ("gateway", "controller", "worker"):
        with pytest.raises(StateError, match=f"nothing is logged of a {process} yet") as caught:
            last_lines(settings, process, 10)
        assert caught.value.hint


def test_the_command_shows_text_and_json_and_says_what_is_wrong(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> tuple[int, str, str]:
        code = run(["-f", str(tmp_path), "logs", *words])
        return code, *capsys.readouterr()

    code, _, err = told("gateway")
    assert (code, "retinue serve" in err) == (1, True)
    said(settings, "gateway", "release.changed", "release 7 is served")
    code, out, _ = told("gateway", "--lines", "5")
    assert (code, "info    release.changed [gateway " in out, "release 7 is served" in out) == (0, True, True)
    assert json.loads(told("gateway", "-o", "json")[1])["lines"][0]["event"] == "release.changed"
    assert told("controller")[:2] == (0, "")
    state = opened(tmp_path)
    land(state, "prod", 1, {"late-JFK": add(state, "late-JFK", 1, 1)})
    state.registry.close()
    for word, hint in (("late-JKF", "Did you mean 'late-JFK'?"), ("gatway", "Did you mean 'gateway'?")):
        code, _, err = told(word)
        assert (code, hint in err) == (64, True), err
    code, _, err = told("late-JFK", "--follow")
    assert (code, "--follow is for gateway" in err) == (64, True)
    assert told("gateway", "--lines", "-1")[0] == 64
    assert "no training log of late-JFK@" in told("late-JFK")[2]
    (tmp_path / "retinue.toml").write_text('[log]\nfile = "folder"\n')
    (tmp_path / "folder").mkdir()
    code, _, err = told("gateway")
    assert (code, "Is a directory" in err, "[log] file" in err) == (1, True, True), err
