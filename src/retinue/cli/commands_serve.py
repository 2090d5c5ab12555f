"""Commands that answer: serve and predict."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue.cli.frame import DONE, FAILED, Frame, emit, emit_json, say
from retinue.cli.options import Format, Output, Stage

if TYPE_CHECKING:
    from retinue.project import Project

Json = Any
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on; of retinue.toml if not given.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 lets the system choose.")]
Gateways = Annotated[int | None, typer.Option("--gateways", min=1, help="How many gateway processes.")]
Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint to ask.")]
Row = Annotated[list[str] | None, typer.Option("--row", metavar="JSON", help="One row as a JSON object; repeatable.")]
RowsFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Rows in .json (a list), .jsonl or .csv; - for JSON lines."),
]
Url = Annotated[str | None, typer.Option("--url", help="Of the server; of this stage's running server if not given.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (serve, predict):
        app.command()(command)


def serve(
    context: typer.Context, host: Host = None, port: Port = None, gateways: Gateways = None, to: Stage = "prod"
) -> int:
    """Serve a stage over HTTP, following each new release."""
    from retinue.processes.serve import serve as serve_stage

    frame = _frame(context)
    frame.kept = "the server has stopped"
    with frame.project(to) as project:
        _publish(project)
        settings = project.settings if gateways is None else replace(project.settings, gateways=gateways)
        name = project.name
    return serve_stage(settings, name, to, host=host, port=port)


def _publish(project: Project) -> None:
    """Bring this stage's release file up to date; where the database is lost, the last one written is served."""
    from retinue.core.errors import StateUnavailableError
    from retinue.store.releasefile import current

    number = current(project.releases)
    last = f"release {number}, the last that was written here, is served"
    if number is not None and _database_is_gone(project.settings.database):
        say(f"warning: the database is gone ({project.settings.database}); {last}")
        return
    try:
        if project.current() is not None:
            project.publish()
        elif number is None:
            project.publish()  # who may ask what
            say(f"warning: stage {project.stage} has no release yet; `retinue apply` makes one, served at once")
        else:
            say(f"warning: the database knows no release of stage {project.stage}; {last}")
    except StateUnavailableError as error:
        if number is None:
            raise
        say(f"warning: {error}; {last}")


def _database_is_gone(url: str) -> bool:
    """Whether it is a file that is not there: opening it would make an empty one."""
    kind, _, path = url.partition(":///")
    return kind.startswith("sqlite") and bool(path) and not Path(path).exists()


def predict(
    context: typer.Context,
    endpoint: Endpoint,
    row: Row = None,
    file: RowsFile = None,
    url: Url = None,
    to: Stage = "prod",
    output: Output = Format.text,
) -> int:
    """Ask a running server; with the API key in RETINUE_KEY where it asks for one."""
    from retinue.cli.render_predictions import renumbered
    from retinue.cli.rows import read_rows
    from retinue.client import Client
    from retinue.core.errors import RequestError

    rows = read_rows(row or [], file)
    if url is None:
        with _frame(context).project(to) as project:
            url = _url(project)
    with Client(url if "://" in url else f"http://{url}", key=os.environ.get("RETINUE_KEY")) as client:
        try:
            answers = client.predict(endpoint, rows)
        except RequestError as error:
            hint = (
                "`retinue status` lists models and endpoints." if "GET /v2/models lists" in error.hint else error.hint
            )
            raise type(error)(renumbered(error.message, _first_number(row or [], file)), hint=hint) from error
    return _told(answers, output, _first_number(row or [], file))


def _first_number(texts: list[str], file: Path | None) -> int:
    """The number of the first row as its reader counts: a csv's first row stands below the names, in row 2."""
    return 2 if not texts and file is not None and file.suffix.lower() == ".csv" else 1


def _url(project: Project) -> str:
    """Where this stage's server answers. Raises UnavailableError when none runs."""
    from retinue.cli.facts import no_release_yet
    from retinue.core.errors import UnavailableError
    from retinue.gateway.record import read_record

    record = read_record(project.releases)
    if record is None:
        to = f" --to {project.stage}" if project.stage != "prod" else ""
        note = no_release_yet(project)
        raise UnavailableError(
            note or f"no server runs for stage {project.stage}",
            hint=f"Start one, `retinue serve{to}`, or name one with --url.",
        )
    return record.url


def _told(answers: dict[str, Json], output: Format, first: int) -> int:
    """Print the answers: a JSON document, or a line for each row; 1 if a row failed."""
    from retinue.cli.render_predictions import failed_rows, render_predictions

    if output is Format.json:
        emit_json(answers)
    else:
        emit(render_predictions(answers, first))
    return FAILED if failed_rows(answers) else DONE


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
