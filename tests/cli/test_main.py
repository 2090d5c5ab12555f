"""The command line as a program: exit codes, what goes where, what is imported."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from retinue.cli.frame import Frame, error_text, guarded, paint
from retinue.cli.main import run
from retinue.cli.progress import Progress
from retinue.control.events import Event
from retinue.core.errors import DataError, Location, PortfolioError, UsageError

HEAVY = (
    "sqlalchemy",
    "pydantic",
    "duckdb",
    "pyarrow",
    "numpy",
    "onnxruntime",
    "rich",
    "httpx",
    "retinue.project",
    "retinue.control.apply",
)
WRONG = [
    ["plan", "--nope"],
    ["nope"],
    [],
    ["plan", "-o", "yaml"],
    ["show"],
    ["history", "--limit", "0"],
    ["plan", "-f", "x.yaml"],
    ["serve", "--port", "70000"],
    ["env"],
]


def retinue(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The real program."""
    return subprocess.run(
        [sys.executable, "-m", "retinue", *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("stage", ["../../out", "..", "", "a\nb", "x" * 101])
@pytest.mark.parametrize("command", ["plan", "apply", "status", "rollback"])
def test_a_stage_is_a_name_and_no_path(
    command: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "portfolio.yaml").write_text("portfolio: p\n")
    assert run([command, "--stage", stage]) == 64
    assert "cannot be the name of a stage" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["portfolio.yaml"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from retinue.cli.main import run
run({arguments!r})
print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", WRONG, ids=lambda a: " ".join(a) or "nothing")
def test_a_wrong_command_line_is_64_and_says_so_on_stderr(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith(("error: ", "Usage: "))


def test_a_missing_file_is_told_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plan"]) == 64
    assert "retinue init" in capsys.readouterr().err


def test_every_problem_of_a_wrong_file_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "portfolio.yaml"
    file.write_text("portfolio: x\nmodles: {}\nmodels: {a: {train: 7}}\n")
    assert run(["--file", str(file), "validate"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error: ") >= 2
    assert err.count("error: ") == err.count("hint: ")
    assert "portfolio.yaml:2:1" in err
    assert "problems." in err


def test_with_json_an_error_is_a_document_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "portfolio.yaml"
    file.write_text("portfolio: x\nmodles: {}\nmodels: {a: {train: 7}}\n")
    for command in (["validate"], ["plan"], ["apply", "--yes"]):
        assert run(["--file", str(file), *command, "-o", "json"]) == 1
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["message"] == "unknown key 'modles'"
        assert error["where"].endswith("portfolio.yaml:2:1")
        assert len(error["problems"]) >= 2
    assert run(["plan", "--nope", "--output=json"]) == 64
    assert "--nope" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_rollback_to_a_stage_says_what_to_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rollback", "--to", "staging"]) == 64
    assert "--stage staging" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "code"), [(b"\x03", 130), (b"\x04", 0), (b"n\n", 0), (b"y\n", 1)])
def test_ctrl_c_at_the_question_is_130_and_ctrl_d_is_a_no(typed: bytes, code: int) -> None:
    asks = """
import fcntl, sys, termios
from retinue.cli.commands_change import _agreed, _Wanted
from retinue.cli.frame import Frame, guarded
from retinue.cli.options import Format
from retinue.core.plan import Plan
from retinue.project import Asked
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
wanted = _Wanted(Frame(), None, Asked(), "", False, False, Format.text)
sys.exit(guarded(lambda: int(_agreed(Plan("x", "prod", None, ()), wanted)), Frame()))
"""
    terminal, end = os.openpty()
    try:
        asking = subprocess.Popen(
            [sys.executable, "-c", asks], stdin=end, stdout=end, stderr=end, start_new_session=True
        )
        os.close(end)
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(terminal, 1024)
        for _ in range(30):  # a signal just before readline waits is seen with the next key only
            os.write(terminal, typed)
            with contextlib.suppress(subprocess.TimeoutExpired):
                asking.wait(1)
                break
        assert asking.wait(1) == code
    finally:
        os.close(terminal)


def test_what_ctrl_c_ended_is_not_told_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Progress(2) as progress:
        progress(Event("end", "a", "the trainer process died", "failed", 1.0))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        progress(Event("end", "b", "the trainer process died", "failed", 1.0))
    told = capsys.readouterr().err.splitlines()
    assert "failed" in told[0]
    assert told[1] == "b   stopped"
    assert signal.getsignal(signal.SIGINT) == before


def test_an_error_names_place_message_and_hint() -> None:
    error = DataError("no column late", hint="Add it.", where=Location("p.yaml", 3, 7))
    assert error_text(error) == "error: p.yaml:3:7: no column late\nhint: Add it."
    two = PortfolioError(
        "a", where="x:1", problems=(PortfolioError("a", where="x:1"), PortfolioError("b", where="x:2"))
    )
    assert error_text(two).count("error: x:") == 2


def test_a_bug_is_one_line_and_its_traceback_is_in_a_named_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    assert guarded(broken, Frame(tmp_path / "portfolio.yaml")) == 1
    err = capsys.readouterr().err
    assert "this is a bug in Retinue: ZeroDivisionError: oh" in err
    assert "Traceback" not in err
    (log,) = (tmp_path / ".retinue" / "logs").iterdir()
    assert str(log) in err
    assert "ZeroDivisionError: oh" in log.read_text()


def test_a_bug_where_nothing_can_be_written_still_tells_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    assert guarded(broken, Frame(Path("/dev/null/portfolio.yaml"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130_and_says_what_was_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    assert guarded(stopped, Frame(kept="12 versions are kept")) == 130
    assert "interrupted: 12 versions are kept" in capsys.readouterr().err


def test_a_usage_error_from_deep_below_is_64(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong() -> None:
        raise UsageError("no such model")

    assert guarded(wrong, Frame()) == 64
    assert capsys.readouterr().err == "error: no such model\nhint: See `retinue --help`.\n"


def test_colour_only_on_a_terminal_and_never_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("DANGER 1: x", False) == "DANGER 1: x"
    assert "\033[" in paint("ok\nDANGER 1: x", True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("DANGER 1: x", True) == "DANGER 1: x"


def test_the_schema_is_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["type"] == "object"
    assert err == ""


def test_a_reader_that_leaves_early_is_no_failure(tmp_path: Path) -> None:
    head = subprocess.run(
        f"{sys.executable} -m retinue schema | head -c 10", shell=True, capture_output=True, text=True, check=True
    )
    assert head.stdout.strip()
    assert head.stderr == ""


def test_init_writes_a_portfolio_that_validates_and_never_over_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", str(tmp_path)]) == 0
    assert run(["--file", str(tmp_path), "validate", "-o", "json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["valid"] is True
    assert run(["init", str(tmp_path)]) == 64


def test_looking_at_a_stage_that_has_nothing_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(tmp_path)]) == 0
    base = ["--file", str(tmp_path)]
    assert run([*base, "status"]) == 0
    assert run([*base, "history"]) == 0
    out = capsys.readouterr().out
    assert "no release yet" in out
    assert run([*base, "why", "species"]) == 1
    assert run([*base, "show", "species"]) == 64
    assert run([*base, "rollback", "species"]) == 1
    assert run([*base, "rollback"]) == 64
    assert run([*base, "unhold", "species"]) == 64
    assert run([*base, "rebuild", "species"]) == 64
    assert run([*base, "at", "yesterday"]) == 64
    assert run([*base, "at", "2020-01-01"]) == 64
    assert run([*base, "predict", "species", "--row", "{}"]) == 1
    assert run([*base, "predict", "species"]) == 64
    assert run([*base, "predict", "species", "--row", "[1]"]) == 64
    assert run([*base, "apply", str(tmp_path / "no.json")]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.e2e
def test_the_first_quarter_of_an_hour_of_a_newcomer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """init → plan → apply → change → saved plan → rollback with its hold → unhold → reuse → failing training."""
    folder = tmp_path / "iris"

    def look(*arguments: str, code: int = 0) -> str:
        """A command in this process, which spares the start of the interpreter; what it said."""
        capsys.readouterr()
        assert run(list(arguments)) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return out or err

    def act(*arguments: str, code: int = 0) -> str:
        """A command as a program of its own."""
        done = retinue(*arguments, cwd=folder)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    assert run(["init", str(folder)]) == 0
    shared = Path(tempfile.gettempdir()) / "retinue-test-environments"
    shared.mkdir(exist_ok=True)
    (folder / ".retinue").mkdir()
    (folder / ".retinue" / "environments").symlink_to(shared)  # installed once for all tests
    monkeypatch.chdir(folder)
    assert "Plan: 1 add" in look("plan", "--detailed-exitcode", code=2)
    assert "Plan for iris" in look("apply", code=64)  # shown; off a terminal it then needs --yes
    first = json.loads(act("apply", "--yes", "--why", "first", "-o", "json"))
    assert (first["release"], first["models"][0]["status"]) == (1, "built")
    assert "No changes." in look("plan", "--detailed-exitcode")
    assert "release 1" in look("status")

    file = folder / "portfolio.yaml"
    file.write_text(file.read_text().replace("task: multiclass,", "task: multiclass, params: {C: 0.5},"))
    assert "retrain PARAMS" in look("plan", "--out", "plan.json")
    assert "Release 2 is live" in act("apply", "plan.json", "--why", "less C")
    assert look("apply", "plan.json", code=1)  # its affected set has moved
    old, new = first["models"][0]["version"], json.loads(look("show", "species", "-o", "json"))["version"]["id"]
    assert "PARAMS" in look("diff", f"species@{old[:10]}", f"species@{new[:10]}")
    assert "species" in look("diff", "1", "2")
    assert "less C" in look("why", "species")

    assert "Release 3 is live" in look("rollback", "species", "--why", "complaints")
    assert "held (rolled back in release 3, complaints)" in look("plan")
    assert "complaints" in look("status")
    assert "no longer held" in look("unhold", "species", "--reason", "it was not the model")
    assert "reuse" in look("plan")
    assert json.loads(act("apply", "--yes", "-o", "json"))["models"][0]["status"] == "reused"
    assert [r["release"] for r in json.loads(look("history", "species", "-o", "json"))] == [4, 3, 2, 1]
    assert "stage prod was at release 4" in look("at", "2999-01-01")

    (folder / "train.py").write_text("def train(job):\n    raise ValueError('no luck')\n")
    failed = act("apply", "--yes", code=1)
    assert "1 failed" in failed
    assert "no luck" in failed
    assert "stays at release 4" in failed
    assert "species: train.py:2: training raised ValueError: no luck" in look("status")
    assert "no luck" in look("logs", "species")
    assert json.loads(look("logs", "species", "-o", "json"))["failed"] is True
    assert json.loads(look("logs", f"species@{new[:12]}", "-o", "json"))["version"] == new
    assert "PARAMS (+C 0.5)" in look("history")
    assert "PARAMS (+C 0.5)" in look("diff", "1", "2")
    assert [r["reasons"] for r in json.loads(look("history", "species", "-o", "json"))][-1] == []
    assert "other stages: prod" in retinue("history", "--to", "porduction", cwd=folder).stderr
    assert "no active hold" in look("unhold", "spec*", "--why", "none has one", code=64)
