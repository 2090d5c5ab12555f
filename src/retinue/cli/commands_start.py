"""Commands to begin with: init, schema, validate, env."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json, say
from retinue.cli.options import Exclude, Format, Output, Select

if TYPE_CHECKING:
    from retinue.project import Project

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where; made if it is not there.")]
FromModel = Annotated[
    Path | None,
    typer.Option("--from-model", metavar="PATH", help="An ONNX, skops, XGBoost, LightGBM or CatBoost file."),
]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Environments; all if none is named.")]
Refresh = Annotated[bool, typer.Option("--refresh", help="Take the newest versions that the requirements allow.")]
Grace = Annotated[float, typer.Option("--grace", min=0, metavar="DAYS", help="Keep what was used in the last days.")]

env_app = typer.Typer(
    help="Environments: locked sets of packages.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (init, schema, validate):
        app.command()(command)
    env_app.command("list")(env_list)
    env_app.command("lock")(env_lock)
    env_app.command("prune")(env_prune)
    app.add_typer(env_app, name="env")


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


def env_list(context: typer.Context, output: Output = Format.text) -> int:
    """The environments of the portfolio and those on disk, with their sizes."""
    from retinue.build.environment import list_environments
    from retinue.cli.facts import to_json
    from retinue.cli.render_env import render_environments

    with _frame(context).project() as project:
        declared = _locks(project)
        stored = list_environments(project.settings.environments)
        if output is Format.json:
            emit_json({"declared": declared, "stored": to_json(stored)})
        else:
            emit(render_environments(declared, stored))
    return DONE


def env_lock(
    context: typer.Context, names: Names = None, refresh: Refresh = False, output: Output = Format.text
) -> int:
    """Resolve requirements into locks; with --refresh to the newest versions."""
    from retinue.build.environment import lock
    from retinue.control.telling import chosen

    with _frame(context).project() as project:
        root = Path(project.portfolio.root)
        declared = project.portfolio.environments
        found = {}
        for name in chosen(declared, names or sorted(declared)):
            say(f"locking environment {name} ({declared[name].requirements})")
            locked = lock(declared[name], root, refresh=refresh)
            found[name] = {"digest": locked.digest, "python": locked.python, "path": str(locked.path)}
        if output is Format.json:
            emit_json(found)
        else:
            for name, body in found.items():
                emit(f"{name}: {body['digest'][:12]}, Python {body['python']}, {body['path']}")
    return DONE


def env_prune(context: typer.Context, grace: Grace = 7.0, output: Output = Format.text) -> int:
    """Delete environments that neither the file nor any live version of any stage uses."""
    from retinue.build.environment import prune

    with _frame(context).project() as project:
        gone = prune(project.settings.environments, _used(project), grace * 86_400)
        if output is Format.json:
            emit_json({"deleted": gone})
        else:
            emit("\n".join(f"deleted {digest[:12]}" for digest in gone) or "Nothing to delete.")
    return DONE


def _used(project: Project) -> set[str]:
    """Lock digests of the file's environments and of every version that is live in any stage."""
    used = {str(body["digest"]) for body in _locks(project).values() if body["digest"]}
    registry, name = project.registry, project.name
    for stage, number in registry.stages(name).items():
        release = registry.release(name, stage, number)
        for version in registry.versions({e.version for e in release.models.values()}).values():
            used.add(version.manifest["environment"])
    return used


def _locks(project: Project) -> dict[str, dict[str, str | None]]:
    """The declared environments with the digest of their lock, None where there is none yet. Resolves nothing."""
    from retinue.build.environment import read_lock

    found: dict[str, dict[str, str | None]] = {}
    for name, spec in project.portfolio.environments.items():
        path = (Path(project.portfolio.root) / spec.requirements).with_suffix(".lock")
        locked = read_lock(path.read_text(encoding="utf-8"), path) if path.is_file() else None
        found[name] = {
            "requirements": spec.requirements,
            "digest": locked.digest if locked else None,
            "python": locked.python if locked else spec.python,
        }
    return found


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
