"""What every command stands in: the project, what goes to stdout and stderr, errors in words, exit codes.

Imports of our own rooms are late here and in the commands, and nowhere else in Retinue: `retinue --help` and
a wrong option must answer at once, so a command loads the platform only when it runs.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinue.core.errors import RetinueError, UsageError

if TYPE_CHECKING:
    from retinue.compose import State
    from retinue.project import Project
    from retinue.settings import Settings

DONE, FAILED, CHANGES, USAGE, INTERRUPTED = 0, 1, 2, 64, 130
Json = Any
_COLOURS = {"DANGER": "1;31", "error:": "31", "hint:": "36", "Plan:": "1", "No changes.": "32", "warning:": "33"}


@dataclass(slots=True)
class Frame:
    """The global options of one run, and what a Ctrl-C should tell."""

    file: Path = Path("portfolio.yaml")
    kept: str = "nothing was changed"
    json: bool = False  # -o json: errors go to stdout too, as JSON

    @contextmanager
    def project(self, stage: str = "prod") -> Iterator[Project]:
        """The project of the chosen file; its database is closed at the end."""
        file = self.file / "portfolio.yaml" if self.file.is_dir() else self.file
        if not file.is_file():
            raise UsageError(
                f"there is no {file}", hint="Name one: `retinue --file FILE …`, or make a first one: `retinue init`."
            )
        from retinue.project import Project  # only now: it takes a second

        project = Project(file, stage)
        try:
            yield project
        finally:
            project.close()

    @contextmanager
    def state(self) -> Iterator[State]:
        """Settings, registry and artifacts, without the portfolio file: it may be gone or wrong."""
        from retinue import compose

        state = compose.open_state(self.settings())
        try:
            yield state
        finally:
            state.close()

    def settings(self) -> Settings:
        """The settings beside the chosen file; the file itself need not be there or load."""
        from retinue.settings import load_settings

        return load_settings((self.file if self.file.is_dir() else self.file.parent).resolve())


def say(text: str) -> None:
    """Talk: to stderr, one or more lines."""
    print(paint(text, sys.stderr.isatty()), file=sys.stderr, flush=True)  # noqa: T201 - the command line's voice


def emit(text: str) -> None:
    """Data for people: to stdout."""
    print(paint(text.rstrip("\n"), sys.stdout.isatty()), flush=True)  # noqa: T201 - the command line's voice


def emit_json(value: Json) -> None:
    """Data for programs: one JSON document to stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)  # noqa: T201 - the command line's voice


def paint(text: str, terminal: bool) -> str:
    """Colour the first word of lines that matter, on a terminal without NO_COLOR. Never the only carrier."""
    if not terminal or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return "\n".join(_paint_line(line) for line in text.split("\n"))


def _paint_line(line: str) -> str:
    for word, code in _COLOURS.items():
        if line.startswith(word):
            return f"\033[{code}m{word}\033[0m{line[len(word) :]}"
    return line


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────


def error_text(error: RetinueError) -> str:
    """An error as people read it: place, message, next step; every problem of a portfolio file."""
    problems = getattr(error, "problems", None) or (error,)
    blocks = []
    for problem in problems:
        place = f"{problem.where}: " if problem.where else ""
        hint = f"\nhint: {problem.hint}" if problem.hint else ""
        blocks.append(f"error: {place}{problem.message}{hint}")
    if len(problems) > 1:
        blocks.append(f"{len(problems)} problems.")
    return "\n".join(blocks)


def error_json(error: RetinueError) -> Json:
    """The same for programs: {"error": {"message", "hint", "where", "problems"}}; one problem is the error itself."""
    problems = getattr(error, "problems", None) or (error,)
    told = [{"message": p.message, "hint": p.hint, "where": p.where} for p in problems]
    return {"error": {**told[0], "problems": told}}


def guarded(work: Callable[[], object], frame: Frame) -> int:
    """Run a command; everything it raises becomes words on stderr and an exit code."""
    try:
        code = work()
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except KeyboardInterrupt:
        say(f"\ninterrupted: {frame.kept}")
        return INTERRUPTED
    except BrokenPipeError:
        _hush()
        return DONE
    except Exception as error:  # noqa: BLE001 - the last door: whatever it is, it is told in words
        return _failed(error, frame)


def _failed(error: Exception, frame: Frame) -> int:
    if isinstance(error, RetinueError):
        if frame.json:
            emit_json(error_json(error))
        say(error_text(error))
        return USAGE if isinstance(error, UsageError) else FAILED
    log = _log_bug(error, frame)
    say(f"error: this is a bug in Retinue: {type(error).__name__}: {error}")
    say(f"hint: please report it; the whole traceback is in {log}" if log else f"hint: {traceback.format_exc()}")
    return FAILED


def _log_bug(error: Exception, frame: Frame) -> Path | None:
    """Write the traceback under `.retinue/logs`; None if even that fails."""
    folder = (frame.file if frame.file.is_dir() else frame.file.parent) / ".retinue" / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"bug-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
        text = "".join(traceback.format_exception(error))
        path.write_text(f"command: {' '.join(sys.argv)}\n{text}", encoding="utf-8")
    except OSError:
        return None
    return path


def _hush() -> None:
    """The reader of our output went away (`| head`): say nothing more, not even at interpreter exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
