"""The command that tests what is live, as a developer's CI does: test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retinue.cli.frame import DONE, FAILED, Frame, emit, emit_json, say
from retinue.cli.options import Exclude, Format, Output, Select, Stage

Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Also write the verdicts as JUnit XML, for CI.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("test")(run_tests)


def run_tests(
    context: typer.Context,
    to: Stage = "prod",
    select: Select = None,
    exclude: Exclude = None,
    junit: Junit = None,
    output: Output = Format.text,
) -> int:
    """Ask all gates of the live versions again: artifacts, contract, metrics, your own tests; records nothing.

    The file is validated and planned first; what is wrong there ends the run. Exits with 1 when a gate fails or could
    not be asked; too little data is told, and no failure.
    """
    from retinue.cli.progress import watch
    from retinue.cli.render_test import render_test, report_json
    from retinue.core.errors import RetinueError, UsageError

    frame = context.obj
    assert isinstance(frame, Frame)
    if junit is not None and (junit.is_dir() or not junit.absolute().parent.is_dir()):
        raise UsageError(f"--junit {junit}: not a file in a folder that is there", hint="Make its folder first.")
    with frame.project(to) as project:
        try:
            with project.tester(select or (), exclude or ()) as tester, watch(len(tester.models)) as progress:
                report = tester.run(progress)
        except RetinueError as error:
            if junit is not None and not isinstance(error, UsageError):
                from retinue.cli.junit import junit_of_error

                _write(junit, junit_of_error(project.file.parent.name, error))
            raise
    if junit is not None:
        from retinue.cli.junit import junit as written

        _write(junit, written(report))
        say(f"wrote {junit}")
    if output is Format.json:
        emit_json(report_json(report))
    else:
        emit(render_test(report))
    return FAILED if report.failed else DONE


def _write(path: Path, text: str) -> None:
    from retinue.core.errors import UsageError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="Name another file with --junit.") from error
