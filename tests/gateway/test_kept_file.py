from __future__ import annotations

import json
from pathlib import Path

import pytest

from retinue.gateway.kept_file import GENERATIONS, KeptFile, empty_if_large, generation, rotate
from retinue.gateway.logs import Log


def test_the_state_folder_keeps_what_the_terminal_is_not_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "logs" / "serve.log"
    log = Log("gateway", level="warning", kept=kept)
    log.say("release.changed", "release 7 is served")
    log.say("worker.died", "one")
    log.close()
    assert [json.loads(line)["event"] for line in kept.read_text().splitlines()] == ["release.changed", "worker.died"]
    assert [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()] == ["worker.died"]


def test_a_file_that_the_user_names_is_the_only_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = Log("gateway", level="info", file=str(tmp_path / "own.log"), kept=tmp_path / "serve.log")
    log.say("worker.died", "one")
    log.close()
    assert (tmp_path / "own.log").exists()
    assert not (tmp_path / "serve.log").exists()
    assert capfd.readouterr().err == ""


def test_a_state_folder_that_cannot_be_written_does_not_hush_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file")
    log = Log("gateway", kept=tmp_path / "logs" / "serve.log")
    log.say("worker.died", "one")
    log.close()
    assert "worker.died" in capfd.readouterr().err


def test_a_large_file_is_moved_on_by_one_of_its_writers_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    writers = [KeptFile(path, largest=400) for _ in range(3)]
    for second in range(12):
        for number, writer in enumerate(writers):
            writer.write(b"%02d %d %s\n" % (second, number, b"x" * 30), float(second * 2))
    for writer in writers:
        writer.close()
    files = [generation(path, number) for number in range(GENERATIONS, -1, -1)]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    assert generation(path, 1).exists()
    assert sorted(lines) == sorted(f"{s:02d} {n} {'x' * 30}" for s in range(12) for n in range(3))


def test_only_so_many_generations_are_kept_and_a_small_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    for number in range(GENERATIONS + 3):
        path.write_text(f"{number}" * 100)
        assert rotate(path, 50)
    assert sorted(file.name for file in tmp_path.glob("serve.log*")) == [
        f"serve.log.{n + 1}" for n in range(GENERATIONS)
    ]
    path.write_text("small")
    assert not rotate(path, 50)


def test_output_of_a_worker_is_emptied_under_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "worker-1.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        assert not empty_if_large(path, 100)
        assert empty_if_large(path, 99)
        writer.write(b"after")
    assert path.read_bytes() == b"after"
    assert generation(path, 1).read_bytes() == b"x" * 100
