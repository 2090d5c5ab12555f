"""`retinue score`: a table through an endpoint or a model."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json, say
from retinue.cli.options import Format, Output, Stage
from retinue.core.errors import UsageError


class Journal(StrEnum):
    """What the journal keeps of a run."""

    facts = "facts"
    summary = "summary"
    none = "none"


Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="An endpoint or a model of the release.")]
Source = Annotated[
    str,
    typer.Option("--in", metavar="TABLE", help="A table or view of the portfolio's `data`, or Parquet or CSV: "
                 "a file, a folder, a pattern in quotes."),
]  # fmt: skip
Target = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="A folder of its own for the answers, as Parquet.")
]
Partition = Annotated[
    str,
    typer.Option("--partition", metavar="COLUMN|ROWS", help="One file for each value of a column, or for so many rows; "
                 "without, about a million."),
]  # fmt: skip
Columns = Annotated[
    str,
    typer.Option("--columns", metavar="A,B", help="Columns of the input that the output carries; '*': all. Without: "
                 "the table's key and time, and what chooses the model."),
]  # fmt: skip
OfRelease = Annotated[int | None, typer.Option("--release", min=1, help="That release; without, the current one.")]
Kept = Annotated[
    Journal, typer.Option("--journal", help="A summary for each partition, a fact for each row, or nothing.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that is there, in the release it began with.")]
Restart = Annotated[bool, typer.Option("--restart", help="Score everything anew, also what is done.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Partitions at once; 0: one for each core.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(score)


def score(  # noqa: PLR0913, PLR0917  one parameter for each option
    context: typer.Context,
    endpoint: Name,
    source: Source,
    out: Target,
    partition: Partition = "",
    columns: Columns = "",
    release: OfRelease = None,
    journal: Kept = Journal.summary,
    resume: Resume = False,
    restart: Restart = False,
    workers: Workers = 0,
    to: Stage = "prod",
    output: Output = Format.text,
) -> int:
    """Score a table: same release, graph, selection, fallback and answers as online, without a server.

    Stopped or killed, the same command goes on where it was: no row twice, none missing.
    """
    if resume and restart:
        raise UsageError("--resume and --restart exclude each other", hint="Go on, or begin anew.")
    frame = context.obj
    assert isinstance(frame, Frame)
    frame.kept = "what is done stays; run the same command again to go on"
    from retinue.cli.render_score import outcome_json, render_outcome, watch
    from retinue.scoring.job import Ask

    ask = Ask(
        endpoint,
        source,
        out,
        partition,
        tuple(name.strip() for name in columns.split(",") if name.strip()) if columns else None,
        (),
        journal.value,
        restart,
        workers or os.cpu_count() or 1,
    )
    with frame.project(to) as project, watch(sys.stderr.isatty(), say) as progress:
        found = project.scoring.score(ask, release, resume, progress)
    if output is Format.json:
        emit_json(outcome_json(found))
    else:
        emit(render_outcome(found))
    return DONE
