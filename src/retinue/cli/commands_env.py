"""Commands of environments: env list, lock, build, show, prune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json, say
from retinue.cli.options import Format, Output

if TYPE_CHECKING:
    from retinue.project import Project

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Environments; all if none is named.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="An environment of the portfolio.")]
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
    env_app.command("list")(env_list)
    env_app.command("lock")(env_lock)
    env_app.command("build")(env_build)
    env_app.command("show")(env_show)
    env_app.command("prune")(env_prune)
    app.add_typer(env_app, name="env")


def env_list(context: typer.Context, output: Output = Format.text) -> int:
    """The environments of the portfolio and those on disk, with their sizes."""
    from retinue.build.environment import list_environments
    from retinue.cli.facts import to_json
    from retinue.cli.render_env import render_environments

    with _frame(context).project() as project:
        declared = declared_locks(project)
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


def env_build(context: typer.Context, names: Names = None, output: Output = Format.text) -> int:
    """Install environments now, as the next apply would; for an image, or before a machine goes off the network."""
    from retinue.build.environment import lock, materialise
    from retinue.control.telling import chosen

    with _frame(context).project() as project:
        root, declared = Path(project.portfolio.root), project.portfolio.environments
        found = {}
        for name in chosen(declared, names or sorted(declared)):
            locked = lock(declared[name], root, memory=project.settings.directory / "locks")
            if not (project.settings.environments / locked.digest / "bin" / "python").exists():
                say(f"building environment {name} ({declared[name].requirements})")
            made = materialise(locked, project.settings.environments)
            found[name] = {"digest": made.digest, "python": str(made.python)}
        if output is Format.json:
            emit_json(found)
        else:
            for name, body in found.items():
                emit(f"{name}: {body['digest'][:12]}, {body['python']}")
    return DONE


def env_show(context: typer.Context, name: Name, output: Output = Format.text) -> int:
    """The lock of an environment: its packages, and whether it is installed."""
    from retinue.build.environment import packages, read_lock
    from retinue.control.telling import chosen

    with _frame(context).project() as project:
        chosen(project.portfolio.environments, [name])
        body = declared_locks(project)[name]
        lock = Path(project.portfolio.root, str(body["requirements"])).with_suffix(".lock")
        pins = packages(read_lock(lock.read_text(encoding="utf-8"), lock)) if body["digest"] else {}
        python = project.settings.environments / str(body["digest"]) / "bin" / "python"
    ready = bool(body["digest"]) and python.exists()
    if output is Format.json:
        found = {"name": name, **body, "ready": ready, "interpreter": str(python) if ready else None}
        emit_json({**found, "packages": pins})
        return DONE
    if body["digest"] is None:
        emit(f"{name}: {body['requirements']}, not locked yet: `retinue env lock {name}`")
        return DONE
    emit(f"{name}: {body['requirements']}, lock {body['digest'][:12]}, Python {body['python']}")
    emit(f"  {python}" if ready else f"  not installed yet: `retinue env build {name}`")
    for package, version in pins.items():
        emit(f"  {package} {version}")
    return DONE


def env_prune(context: typer.Context, grace: Grace = 7.0, output: Output = Format.text) -> int:
    """Delete environments that neither the file needs nor any version that a rollback, a hold or gc would keep."""
    from retinue import compose
    from retinue.build.environment import prune
    from retinue.control.events import utc_now

    with _frame(context).project() as project:
        collector = compose.open_collector(project.settings, project.registry, utc_now(), locked(project))
        gone = prune(project.settings.environments, collector.environments(), grace * 86_400)
        if output is Format.json:
            emit_json({"deleted": gone})
        else:
            emit("\n".join(f"deleted {digest[:12]}" for digest in gone) or "Nothing to delete.")
    return DONE


def locked(project: Project) -> frozenset[str]:
    """Digests of the locks that the file declares."""
    return frozenset(str(body["digest"]) for body in declared_locks(project).values() if body["digest"])


def declared_locks(project: Project) -> dict[str, dict[str, str | None]]:
    """The declared environments with the digest of their lock, None where there is none yet. Resolves nothing."""
    from retinue.build.environment import read_lock

    found: dict[str, dict[str, str | None]] = {}
    for name, spec in project.portfolio.environments.items():
        path = (Path(project.portfolio.root) / spec.requirements).with_suffix(".lock")
        lock = read_lock(path.read_text(encoding="utf-8"), path) if path.is_file() else None
        found[name] = {
            "requirements": spec.requirements,
            "digest": lock.digest if lock else None,
            "python": lock.python if lock else spec.python,
        }
    return found


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
