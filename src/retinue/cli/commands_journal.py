"""Commands over what was answered: query, journal status, journal compact, journal erase."""

from __future__ import annotations

import time
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json, say
from retinue.cli.options import Format, Output, Reason, Stage, Yes
from retinue.core.errors import UsageError

Json = Any


class Rows(StrEnum):
    """How rows are printed."""

    table = "table"
    csv = "csv"
    json = "json"


Sql = Annotated[
    str,
    typer.Argument(metavar="SQL", help="A SELECT over predictions, requests, gaps and batches; - reads it from stdin."),
]
RowsOutput = Annotated[Rows, typer.Option("--output", "-o", help="A table for people, csv or json for programs.")]
Since = Annotated[str, typer.Option("--since", metavar="DAY", help="Only this day (UTC, 2026-01-31) and later ones.")]
Until = Annotated[str, typer.Option("--until", metavar="DAY", help="Only this day (UTC) and earlier ones.")]
OfEndpoint = Annotated[str | None, typer.Option("--endpoint", metavar="NAME", help="Rows that this endpoint answered.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="FIELD=VALUE",
        help="Rows in which this input, or id, client, client_id, model, has the value; repeatable: all must hold.",
    ),
]

journal_app = typer.Typer(
    help="The journal: what was answered.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(query)
    journal_app.command("status")(journal_status)
    journal_app.command("compact")(journal_compact)
    journal_app.command("erase")(journal_erase)
    app.add_typer(journal_app, name="journal")


def query(
    context: typer.Context,
    sql: Sql,
    since: Since = "",
    until: Until = "",
    to: Stage = "prod",
    output: RowsOutput = Rows.table,
) -> int:
    """Ask the journal in SQL: every answered row, with its model, version, inputs and outputs.

    retinue query "select endpoint, model, version, probability from predictions limit 5"
    """
    import sys

    from retinue.cli.render_journal import plain, render_csv, render_rows
    from retinue.control.query import Span
    from retinue.control.query import query as ask

    with _frame(context).project(to) as project:
        folder = project.settings.journal(project.name, to)
        span = Span(_day(since), _day(until))
        found = ask(folder, sys.stdin.read() if sql == "-" else sql, span)
    if output is Rows.json:
        emit_json([dict(zip(found.columns, map(plain, row), strict=True)) for row in found.rows])
    else:
        emit((render_csv if output is Rows.csv else render_rows)(found.columns, found.rows))
    return DONE


def journal_status(context: typer.Context, to: Stage = "prod", output: Output = Format.text) -> int:
    """How the journal stands: size, lag, segments, what was left unjournalled."""
    import msgspec

    from retinue.cli.facts import server
    from retinue.cli.render_journal import render_journal
    from retinue.store.journal_days import state

    with _frame(context).project(to) as project:
        folder = project.settings.journal(project.name, to)
        found = state(folder, time.time_ns())
        served = server(project)
    gateways = _journals(served)
    if output is Format.json:
        emit_json({"folder": str(folder), **msgspec.to_builtins(found), "gateways": gateways})
    else:
        emit(render_journal(found, str(folder), gateways))
    return DONE


def journal_compact(context: typer.Context, to: Stage = "prod", output: Output = Format.text) -> int:
    """Compact closed segments now; the server does so by itself."""
    from retinue.control.compact import compact, retain

    with _frame(context).project(to) as project:
        settings = project.settings
        folder = settings.journal(project.name, to)
        done = compact(folder, patience=60.0)
        gone = retain(folder, time.time(), settings.journal_retain_days, settings.journal_retain_bytes)
    if output is Format.json:
        emit_json({**asdict(done), "removed_days": list(gone)})
        return DONE
    emit(f"Compacted {done.segments} segments: {done.requests:,} requests, {done.rows:,} rows.")
    for name in done.damaged:
        say(f"warning: segment {name} could be read in part only; it is kept as {name}.damaged")
    if gone:
        emit(f"Removed {len(gone)} days past their retention, up to {gone[-1]}.")
    return DONE


def journal_erase(
    context: typer.Context,
    where: Where = None,
    endpoint: OfEndpoint = None,
    why: Reason = "",
    yes: Yes = False,
    to: Stage = "prod",
    output: Output = Format.text,
) -> int:
    """Erase a person's rows from the journal, with every node call made for them.

    Gateways that run are told to close their open segments first (SIGUSR1); if one does not, nothing is erased.
    """
    from retinue import compose
    from retinue.control.erase import Wanted, erase
    from retinue.control.events import utc_now
    from retinue.core.state import AuditRow
    from retinue.store.journal_key import digest_of, hash_key

    wanted = _conditions(where or [])
    if not why:
        raise UsageError("say why the rows are erased", hint="Add --reason TEXT.")
    if not yes and output is Format.text:
        typer.confirm(f"Erase every row with {' and '.join(wanted)} from the journal of {to}?", abort=True, err=True)
    with _frame(context).project(to) as project:
        key = hash_key(project.settings.journals)
        done = erase(project.settings.journal(project.name, to), Wanted(endpoint, wanted, key))
        named = " and ".join(f"{field} = {digest_of(key, value)}" for field, value in wanted.items())
        what = f"journal of {to}: {done.rows} rows of {endpoint or 'all endpoints'} where {named} (keyed digests)"
        project.registry.record(project.name, AuditRow(utc_now(), compose.who(), "erase", what, why, None))
    if output is Format.json:
        emit_json(asdict(done))
        return DONE
    emit(f"Erased {done.rows:,} rows, of {done.days} day(s); {done.requests:,} requests went whole.")
    if not done.rows:
        said = " and ".join(f"{field}={value}" for field, value in wanted.items())
        say(
            f"warning: no row{f' of endpoint {endpoint!r}' if endpoint else ''} has {said}. Is the name right? "
            '`retinue query "describe predictions"` lists the fields; one that the journal drops finds nobody.'
        )
    for name in done.damaged:
        say(f"warning: {name} cannot be read: whether it holds such rows is not known. Delete the file to be sure.")
    return DONE


def _conditions(texts: list[str]) -> dict[str, str]:
    """FIELD=VALUE as a mapping. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        field, sign, value = text.partition("=")
        if not sign or not field or not value:
            raise UsageError(f"--where {text!r} is no FIELD=VALUE", hint="For example: --where customer=1234.")
        found[field] = value
    if not found:
        raise UsageError("say whose rows: a field and its value", hint="Add --where FIELD=VALUE.")
    return found


def _day(text: str) -> str:
    """A day as it is written in the journal. Raises UsageError."""
    from datetime import date

    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError as error:
        raise UsageError(f"{text!r} is no day", hint="Write it as 2026-01-31.") from error


def _journals(served: dict[str, Json] | None) -> list[Json] | None:
    """What each running gateway says of its journal."""
    if served is None or "status" not in served:
        return None
    return [gateway["journal"] for gateway in served["status"]["gateways"] if gateway.get("journal")]


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
