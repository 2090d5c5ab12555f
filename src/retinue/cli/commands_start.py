"""Commands to begin with: init, schema, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retinue.cli import commands_env
from retinue.cli.frame import DONE, Frame, emit, emit_json
from retinue.cli.options import Exclude, Format, Output, Select

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where; made if it is not there.")]
FromModel = Annotated[
    Path | None,
    typer.Option("--from-model", metavar="PATH", help="An ONNX, skops, XGBoost, LightGBM or CatBoost file."),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (init, schema, validate):
        app.command()(command)
    commands_env.register(app)


def init(
    context: typer.Context, folder: Folder = Path("."), from_model: FromModel = None, output: Output = Format.text
) -> int:
    """Write a first portfolio of one model that runs: an example, or around a model file that is there."""
    if from_model is not None:
        from retinue.loader.from_model import scaffold_model

        files = scaffold_model(folder, from_model)
    else:
        from retinue.loader import scaffold

        files = scaffold(folder)
    if output is Format.json:
        emit_json({"files": [str(f) for f in files]})
        return DONE
    for file in files:
        emit(f"wrote {file}")
    where = "" if folder == Path(".") else f"cd {folder}, then "
    emit(f"Next: {where}`retinue plan` and `retinue apply`.")
    return DONE


def schema() -> int:
    """Print the JSON Schema of portfolio.yaml, for editors."""
    from retinue.loader import json_schema

    emit_json(json_schema())
    return DONE


def validate(
    context: typer.Context, select: Select = None, exclude: Exclude = None, output: Output = Format.text
) -> int:
    """Check the portfolio file and the code it names, without data.

    With --select or --exclude it also lists the models that these choose: then the data is read for the families.
    """
    with _frame(context).project() as project:
        lines = project.validate()
        notes = list(project.portfolio.notes)
        chosen = list(project.chosen(select or (), exclude or ())) if select or exclude else None
        if output is Format.json:
            body = {"valid": True, "portfolio": project.portfolio.name, "found": lines, "notes": notes}
            emit_json(body if chosen is None else {**body, "selected": chosen})
        else:
            for line in lines:
                emit(f"{project.portfolio.name}: {line}")
            for note in notes:
                emit(f"note: {note}")
            for name in chosen or ():
                emit(name)
            emit("Valid." if chosen is None else f"Valid; {len(chosen)} selected.")
    return DONE


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
