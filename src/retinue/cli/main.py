"""`retinue`: the commands and the way a run ends."""

from __future__ import annotations

import gc
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from retinue.cli import (
    commands_approve,
    commands_change,
    commands_clients,
    commands_db,
    commands_journal,
    commands_keep,
    commands_logs,
    commands_look,
    commands_publish,
    commands_score,
    commands_serve,
    commands_start,
    commands_test,
)
from retinue.cli.frame import (
    DONE,
    FAILED,
    INTERRUPTED,
    USAGE,
    Frame,
    emit_json,
    error_json,
    error_text,
    guarded,
    say,
)
from retinue.core.errors import UsageError

app = typer.Typer(
    name="retinue",
    help="Runs a portfolio of machine-learning models as one system: plan, apply, serve.",
    rich_markup_mode=None,  # rich costs half of the start-up time
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for room in (
    commands_start,
    commands_change,
    commands_approve,
    commands_test,
    commands_look,
    commands_logs,
    commands_score,
    commands_serve,
    commands_journal,
    commands_clients,
    commands_db,
    commands_keep,
    commands_publish,
):
    room.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"retinue {version('retinue')}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Option("--file", "-f", envvar="RETINUE_FILE", help="The portfolio file, or the folder that holds it."),
    ] = Path("portfolio.yaml"),
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Runs a portfolio of machine-learning models as one system: plan, apply, serve."""
    assert isinstance(context.obj, Frame)
    context.obj.file = file


def run(arguments: list[str]) -> int:
    """One command; returns the exit code. Usage errors of any kind are 64."""
    frame = Frame(json=_wants_json(arguments))
    command = typer.main.get_command(app)

    def work() -> object:
        try:
            code = command.main(arguments, prog_name="retinue", standalone_mode=False, obj=frame)
        except typer.Abort:
            say("aborted: nothing was changed")
            return FAILED
        except Exception as error:
            if getattr(error, "exit_code", None) is None or not hasattr(error, "format_message"):
                raise
            return _wrong_usage(error, frame)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code
            raise KeyboardInterrupt
        return code

    return guarded(work, frame)


def _wants_json(arguments: list[str]) -> bool:
    """Whether -o json is among the arguments: read here, because a wrong command line is told as JSON too."""
    return bool({"-ojson", "--output=json"} & set(arguments)) or any(
        option in ("-o", "--output") and value == "json" for option, value in pairwise(arguments)
    )


def _wrong_usage(error: Exception, frame: Frame) -> int:
    """What typer says of a wrong command line, in our words."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "retinue"
    message = error.format_message()  # type: ignore[attr-defined]  # checked by the caller
    if message.startswith("Usage:"):  # no command at all: typer shows the help and calls that an error
        typer.echo(message, err=True)
        return USAGE
    message = f"{message[0].lower()}{message[1:].rstrip('.')}".replace(": Value error, ", ": ")  # pydantic's words
    before = "-f/--file stands before the command: `retinue -f FILE plan`. " if "such option: -f" in message else ""
    told = UsageError(message, hint=f"{before}See `{path} --help`.")
    if frame.json:
        emit_json(error_json(told))
    say(error_text(told))
    return USAGE


def _ends_soon(arguments: list[str]) -> bool:
    """Whether a command only looks: it drops next to nothing before it ends, and has no circles worth a search."""
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-f", "--file"):
            next(rest, None)
        elif not argument.startswith("-"):
            return argument in ("plan", "status", "history", "diff", "show", "why", "validate")
    return False


def main() -> None:
    """The console entry point."""
    if _ends_soon(sys.argv[1:]):
        gc.disable()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without × or → shows ? instead of failing
    code = run(sys.argv[1:])
    if "duckdb" not in sys.modules:  # which tells at its end what it thinks it leaked
        gc.freeze()  # what is left goes with the process: a last search through it would be for nothing
    sys.exit(code if code != DONE else None)


if __name__ == "__main__":
    main()
