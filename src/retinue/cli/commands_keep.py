"""Commands that keep a state in order: backup, restore, gc, doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retinue.cli.frame import DONE, FAILED, Frame, emit, emit_json, say
from retinue.cli.options import Format, Output, Yes
from retinue.core.errors import RetinueError, UsageError

if TYPE_CHECKING:
    from retinue.control.backup import BackupDone

File = Annotated[Path, typer.Argument(metavar="FILE", help="The archive.")]
Journal = Annotated[bool, typer.Option("--journal", help="Also the journal, which may be large.")]
Force = Annotated[bool, typer.Option("--force", help="Replace all that is recorded now.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only list what would go; so does gc without --yes.")]
Deep = Annotated[bool, typer.Option("--deep", help="Also read every artifact and compare its digest.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (backup, restore, gc, doctor):
        app.command()(command)


def backup(context: typer.Context, file: File, journal: Journal = False, output: Output = Format.text) -> int:
    """Write one archive with all that is recorded: rows, artifacts, release files, locks."""
    from importlib.metadata import version

    from retinue import compose
    from retinue.control.backup import write_backup
    from retinue.control.events import utc_now

    with _frame(context).state() as state:
        made = {"retinue": version("retinue"), "who": compose.who(), "created": utc_now()}
        dump = compose.open_dump(state.registry)
        done = write_backup(dump, state.artifacts, state.settings, file, journal=journal, made=made)
    return _told("Wrote", done, output)


def restore(context: typer.Context, file: File, force: Force = False, output: Output = Format.text) -> int:
    """Read a backup into an empty state folder and database, of whichever kind; safe to repeat."""
    from retinue import compose
    from retinue.control.backup import restore_state

    with _frame(context).state() as state:
        dump = compose.open_dump(state.registry)
        done = restore_state(dump, state.artifacts, state.settings, file, force=force)
    return _told("Restored", done, output)


def _told(verb: str, done: BackupDone, output: Format) -> int:
    from retinue.cli.words import count, size

    if output is Format.json:
        emit_json(asdict(done))
        return DONE
    what = f"{count(done.rows, 'row')}, {count(done.artifacts, 'artifact')}, {count(done.files, 'file')}"
    emit(f"{verb} {done.file}: {size(done.bytes)}; {what}.")
    if done.missing:
        say(f"note: {len(done.missing)} artifacts of earlier versions are gone: `retinue gc` removed them")
    return DONE


def gc(context: typer.Context, dry_run: Dry = False, yes: Yes = False, output: Output = Format.text) -> int:
    """Find what nothing needs any more; with --yes remove it.

    Kept: what is live in any stage, what a rollback goes back to ([gc] releases and days, at least as long as the
    journal is kept), holds, and all that is younger than a day.
    """
    from retinue import compose
    from retinue.cli.render_keep import garbage_json, render_garbage
    from retinue.control.events import utc_now
    from retinue.control.gc_lease import alone
    from retinue.control.leases import name_holder

    if dry_run and yes:
        raise UsageError("--dry-run and --yes exclude each other", hint="Leave one of them out.")
    with _frame(context).state() as state:
        collector = compose.open_collector(state.settings, state.registry, utc_now(), _declared(_frame(context)))
        removed = None
        if not yes:
            found = collector.find()
        else:
            with alone(state.registry, collector.dump.portfolios(), name_holder(compose.who()), utc_now()):
                found = collector.find()
                removed = collector.remove(found)
    if output is Format.json:
        emit_json(garbage_json(found, removed))
    else:
        emit(render_garbage(found, removed))
    return DONE


def _declared(frame: Frame) -> frozenset[str]:
    """Locks of the portfolio file, whose environments stay; a file that is gone or wrong keeps none of its own."""
    from retinue.cli.commands_env import locked

    try:
        with frame.project() as project:
            return locked(project)
    except RetinueError as error:
        say(f"note: environments are kept for versions only, the portfolio file cannot be read: {error.message}")
        return frozenset()


def doctor(context: typer.Context, deep: Deep = False, output: Output = Format.text) -> int:
    """Check installation, settings, database, artifacts, release files, environments, leases, journal, ports."""
    from retinue.cli.render_keep import render_findings
    from retinue.processes.doctor import examine

    frame = _frame(context)
    found = examine(frame.file if frame.file.is_dir() else frame.file.parent, frame.file, deep=deep)
    if output is Format.json:
        emit_json({"ok": all(f.level != "fail" for f in found), "findings": [asdict(f) for f in found]})
    else:
        emit(render_findings(found))
    return FAILED if any(f.level == "fail" for f in found) else DONE


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
