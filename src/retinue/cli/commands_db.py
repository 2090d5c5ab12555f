"""Commands for the state database: db status and db upgrade."""

from __future__ import annotations

import typer

from retinue.cli.frame import DONE, FAILED, Frame, emit, emit_json
from retinue.cli.options import Format, Output

db_app = typer.Typer(
    help="The state database: its schema.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    db_app.command("status")(db_status)
    db_app.command("upgrade")(db_upgrade)
    app.add_typer(db_app, name="db")


def db_status(context: typer.Context, output: Output = Format.text) -> int:
    """Which database, which schema it has and which one this Retinue needs; exit code 1 if they differ."""
    from retinue import compose

    found = compose.database_schema(_frame(context).settings())
    if output is Format.json:
        emit_json(found)
    else:
        emit(f"{found['database']}: schema {found['schema'] or 'none yet'}, this Retinue needs {found['needs']}")
    return DONE if found["schema"] == found["needs"] else FAILED


def db_upgrade(context: typer.Context, output: Output = Format.text) -> int:
    """Bring the database's schema up to date; one transaction, safe to repeat. Make a backup first."""
    from retinue import compose

    name, before, after = compose.upgrade_database(_frame(context).settings())
    if output is Format.json:
        emit_json({"database": name, "before": before, "after": after})
    elif before == after:
        emit(f"{name} has schema {after} already.")
    else:
        emit(f"{name}: schema {before or 'none'} → {after}")
    return DONE


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
