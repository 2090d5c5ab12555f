"""Commands of who must approve: approve, reject."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json
from retinue.cli.options import Format, Models, Output, Reason, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retinue.core.state import Hold


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (approve, reject):
        app.command()(command)


def approve(
    context: typer.Context, models: Models, reason: Reason = "", to: Stage = "prod", output: Output = Format.text
) -> int:
    """Approve what an apply has built and tested: the next apply lands exactly that, and builds nothing.

    Only for members of the group that the model names. What moved since it was built is refused.
    """
    with _frame(context).project(to) as project:
        done = project.approve(models, why=reason)
        _told(done, output, f"The next `retinue apply{_to(to)}` lands {'it' if len(done) == 1 else 'them'}.")
    return DONE


def reject(
    context: typer.Context, models: Models, reason: Reason = "", to: Stage = "prod", output: Output = Format.text
) -> int:
    """Reject what waits for approval: it stays out until its definition or data changes, or `unhold`."""
    with _frame(context).project(to) as project:
        _told(project.reject(models, why=reason), output, "Held until something of it changes.")
    return DONE


def _told(holds: Sequence[Hold], output: Format, end: str) -> None:
    from retinue.cli.words import listed
    from retinue.core.identity import short

    if output is Format.json:
        import msgspec

        emit_json(msgspec.to_builtins(holds))
        return
    if len(holds) > 10:
        emit(f"{holds[0].cause}: {listed(sorted(h.model for h in holds))}")
    else:
        for hold in holds:
            emit(f"{hold.model}: {hold.cause} ({short(str(hold.version))})")
    emit(end)


def _to(stage: str) -> str:
    return f" --to {stage}" if stage != "prod" else ""


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
