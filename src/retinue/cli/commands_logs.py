"""`retinue logs`: what a training printed, or what the processes of a server logged."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json, say
from retinue.cli.options import Format, Output, Stage
from retinue.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from retinue.processes.log_files import LogLine

Which = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[@VERSION]|gateway|controller|worker",
        help="The live version, or the one whose id starts with VERSION; or a process of the server.",
    ),
]
Lines = Annotated[
    int | None,
    typer.Option("--lines", "-n", min=0, help="The last so many lines; without: 100 of a process, all of a training."),
]
Follow = Annotated[bool, typer.Option("--follow", "-F", help="Go on with what a process logs, until Ctrl-C.")]
LAST = 100


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(logs)


def logs(
    context: typer.Context,
    what: Which,
    lines: Lines = None,
    follow: Follow = False,
    to: Stage = "prod",
    output: Output = Format.text,
) -> int:
    """What a version's training printed, or what the server's processes logged.

    For a model's name alone it is the last attempt's, if that failed. The processes of all stages that are served
    from a state folder log there, also when the terminal is closed, unless [log] file names another place.
    """
    from retinue.processes.log_files import PROCESSES

    frame = context.obj
    assert isinstance(frame, Frame)
    if what in PROCESSES:
        return _of_process(frame, what, (LAST if lines is None else lines, follow), output)
    if follow:
        raise UsageError(
            "--follow is for gateway, controller and worker",
            hint=f"A training is shown once it ended: omit it for {what}.",
        )
    return _of_training(frame, what, lines, to, output)


def _of_training(frame: Frame, what: str, lines: int | None, to: str, output: Format) -> int:
    from dataclasses import replace

    from retinue.cli.facts import no_release_yet
    from retinue.cli.training_log import find_log

    with frame.project(to) as project:
        if (told := no_release_yet(project)) is not None:
            say(told)
        found = find_log(project, what)
    if lines is not None:
        kept = found.text.splitlines(keepends=True)
        found = replace(found, text="".join(kept[len(kept) - min(lines, len(kept)) :]))
    if output is Format.json:
        emit_json(found.to_json())
    else:
        say(found.head)
        emit(found.text or f"(the training of {found.model} printed nothing)")
    return DONE


def _of_process(frame: Frame, process: str, shown: tuple[int, bool], output: Format) -> int:
    from retinue.core.errors import StateError, StateUnavailableError
    from retinue.processes import log_files

    (count, following), settings = shown, frame.settings()
    frame.kept = "the server goes on"
    coming = log_files.follow(settings, process) if following else ()
    try:
        found = log_files.last_lines(settings, process, count)
    except StateUnavailableError:
        raise
    except StateError as error:
        if not following:
            raise
        say(f"{error.message}: waiting")
        found = []
    if following:
        for line in chain(found, coming):
            emit(_text(line) if output is Format.text else json.dumps(line.to_json(), ensure_ascii=False))
    elif output is Format.json:
        emit_json({"process": process, "lines": [line.to_json() for line in found]})
    else:
        _emit_all(found, process)
    return DONE


def _emit_all(found: Iterable[LogLine], process: str) -> None:
    file = ""
    for line in found:
        if process == "worker" and line.file != file:
            say(f"{line.file}:")
            file = line.file
        emit(_text(line))


def _text(line: LogLine) -> str:
    """Moment, level and event before the text; further facts behind it."""
    if not line.event:
        return line.text
    who = f"{line.facts.get('process', '')} {line.facts.get('pid', '')}".strip()
    more = " ".join(f"{k}={_short(v)}" for k, v in line.facts.items() if k not in ("process", "pid"))
    return f"{line.time[:23]}Z {line.level:<7} {line.event} [{who}] {line.text}{f'  ({more})' if more else ''}"


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
