"""`retinue publish`: hand over the result of a training that ran elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json
from retinue.cli.options import Format, Output

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model of `artifact: published`.")]
Artifact = Annotated[str, typer.Option("--artifact", metavar="PATH", help="The file, or s3://bucket/key.")]
Kind = Annotated[
    str | None,
    typer.Option("--format", metavar="FORMAT", help="onnx, skops, xgboost, lightgbm or catboost; else by its ending."),
]
Lineage = Annotated[
    list[str] | None,
    typer.Option("--lineage", metavar="KEY=VALUE", help="What it was made of and by: shown as claimed. Repeatable."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(publish)


def publish(
    context: typer.Context,
    model: Model,
    artifact: Artifact,
    format_: Kind = None,
    lineage: Lineage = None,
    reason: Reason = "",
    output: Output = Format.text,
) -> int:
    """Hand over the result of a training that ran elsewhere; the next plan shows it.

    The same bytes with the same lineage again change nothing.
    """
    from dataclasses import asdict

    from retinue.cli.words import size
    from retinue.control.handover import HandOver
    from retinue.core.identity import short
    from retinue.core.publication import lineage as pairs

    frame = context.obj
    assert isinstance(frame, Frame)
    claimed = pairs(lineage or ())
    with frame.project() as project:
        made, new = project.hand_over(model, HandOver(artifact, format_, claimed, reason))
    if output is Format.json:
        emit_json({"recorded": new, **asdict(made)})
        return DONE
    said = "; claimed: " + ", ".join(f"{k} {v}" for k, v in sorted(made.claimed.items())) if made.claimed else ""
    what = f"{made.format}, {size(made.size)}, sha256 {short(made.digest)}{said}"
    if not new:
        emit(f"Nothing to do: {model} is published as this already ({what}).")
        return DONE
    emit(f"Published {model}: {what}.")
    emit("Next: `retinue plan` shows the change, `retinue apply` tests and releases it.")
    return DONE
