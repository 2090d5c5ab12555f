"""Commands that look at what is recorded: status, history, show, diff, at, why."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json, say
from retinue.cli.options import Exclude, Format, Limit, Model, Output, Select, Stage, VersionRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retinue.control.telling import Change
    from retinue.core.state import HistoryRow, Version
    from retinue.project import Project

Json = Any

Check = Annotated[bool, typer.Option("--plan", help="Also plan: what the file would change, and newer data.")]
MaybeModel = Annotated[str | None, typer.Argument(metavar="MODEL", help="One model; without, all releases.")]
Two = Annotated[str, typer.Argument(metavar="MODEL@VERSION|RELEASE", help="A version of a model, or a release number.")]
When = Annotated[
    str, typer.Argument(metavar="TIME", help='A moment, local time unless it says otherwise: "2026-01-31 12:00", …Z.')
]
OfModels = Annotated[list[str] | None, typer.Option("--model", "-m", metavar="MODEL", help="Only these models.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (status, history, show, diff, at, why):
        app.command()(command)


def status(
    context: typer.Context,
    to: Stage = "prod",
    select: Select = None,
    exclude: Exclude = None,
    plan: Check = False,
    output: Output = Format.text,
) -> int:
    """What is live: release, models, holds, dangers, server."""
    from retinue.cli.facts import lost_database, server, to_json
    from retinue.cli.render_plan import last_lines
    from retinue.cli.render_state import render_status
    from retinue.control.events import utc_now
    from retinue.control.recorded import Recorded
    from retinue.control.telling import narrowed
    from retinue.control.telling import status as recorded
    from retinue.project import Asked

    with _project(context, to, note=False) as project:
        kept = Recorded(project.settings.cache, project.name, to)
        found = recorded(project.registry, project.name, to, utc_now(), kept)
        if select or exclude:
            found = narrowed(found, project.chosen(select or (), exclude or ()))
        served, lost = server(project), lost_database(project)
        planned = project.plan(Asked(tuple(select or ()), tuple(exclude or ())), say=say) if plan else None
        if output is Format.json:
            from retinue.control.planfile import plan_json

            body = {"status": to_json(found), "server": served, "lost": lost}
            emit_json({**body, "plan": plan_json(planned)} if planned is not None else body)
        else:
            emit(render_status(found, served, last_lines(planned) if planned is not None else None, lost=lost))
    return DONE


def history(
    context: typer.Context,
    model: MaybeModel = None,
    to: Stage = "prod",
    limit: Limit = 20,
    output: Output = Format.text,
) -> int:
    """Releases, or the changes of one model, newest first."""
    from retinue.cli.facts import to_json
    from retinue.cli.render_state import render_history, render_model_history
    from retinue.control.telling import changes

    with _project(context, to) as project:
        name, registry = project.name, project.registry
        if model is not None:
            rows = registry.history(name, to, model, limit)
            if not rows:
                _refuse_unknown(project, model)
            told = changes(registry, [(r.model, r.old, r.new) for r in rows])
            if output is Format.json:
                emit_json(_with_reasons(rows, told))
            else:
                emit(render_model_history(model, rows, told))
            return DONE
        releases = registry.releases(name, to, limit, heads=output is not Format.json)
        since = min((r.number for r in releases), default=0)
        rows = registry.history(name, to, None, limit=1_000_000, since=since) if releases else []
        told = changes(registry, [(r.model, r.old, r.new) for r in rows])
        if output is Format.json:
            emit_json({"releases": to_json(releases), "changes": _with_reasons(rows, told)})
        else:
            emit(render_history(rows, releases, told))
    return DONE


def _refuse_unknown(project: Project, model: str) -> None:
    """Raises UsageError for a name that neither the file nor the release has: it is misspelt, not without a history."""
    from retinue.core.errors import RetinueError, UsageError
    from retinue.core.family import could_be
    from retinue.core.suggest import did_you_mean

    release = project.current()
    live = set(release.models) if release else set()
    try:
        declared = set(project.portfolio.models)
    except RetinueError:
        return  # a file that does not load may have it
    if model not in live and not any(could_be(name, model) for name in declared):
        raise UsageError(
            f"{model} was never in a release of stage {project.stage}, and the file has no such model",
            hint=did_you_mean(model, live | declared) or "`retinue status` lists the models.",
        )


def _with_reasons(rows: Sequence[HistoryRow], told: Sequence[Change]) -> list[Json]:
    """History rows as JSON, each with its model's family and the reasons of the change."""
    from retinue.cli.facts import to_json

    more = ({"family": change.family, "reasons": to_json(change.reasons)} for change in told)
    return [{**to_json(row), **extra} for row, extra in zip(rows, more, strict=True)]


def show(context: typer.Context, version: VersionRef, to: Stage = "prod", output: Output = Format.text) -> int:
    """One version: what it was built from, what its gates said."""
    from retinue.cli.facts import to_json
    from retinue.cli.outside import what_it_is
    from retinue.cli.render_version import render_version
    from retinue.control.telling import told

    with _project(context, to) as project:
        if "@" not in version and (outside := what_it_is(project, version, say)) is not None:
            emit_json(outside.facts) if output is Format.json else emit(outside.text)
            return DONE
        found = told(project.registry, _version(project, version), project.current())
        if output is Format.json:
            emit_json(to_json(found))
        else:
            emit(render_version(found))
    return DONE


def diff(context: typer.Context, old: Two, new: Two, to: Stage = "prod", output: Output = Format.text) -> int:
    """What differs between two versions or two releases.

    Two versions of a model: `retinue diff MODEL@A MODEL@B`. Two releases: `retinue diff 3 5`.
    """
    from retinue.cli.facts import to_json
    from retinue.cli.render_version import render_release_difference, render_version_difference
    from retinue.control.telling import compare_releases, compare_versions
    from retinue.core.errors import UsageError

    with _project(context, to) as project:
        registry, name = project.registry, project.name
        if old.isdigit() and new.isdigit():
            releases = compare_releases(
                registry, registry.release(name, to, int(old)), registry.release(name, to, int(new))
            )
            emit_json(to_json(releases)) if output is Format.json else emit(render_release_difference(releases))
            return DONE
        if old.isdigit() or new.isdigit():
            raise UsageError("a release is compared with a release", hint="`retinue diff 3 5`, or MODEL@A MODEL@B.")
        first, second = _version(project, old), _version(project, new)
        if first.model != second.model:
            raise UsageError(f"{first.model} and {second.model} are two models", hint="Compare versions of one model.")
        versions = compare_versions(registry, project.current(), first, second)
        emit_json(to_json(versions)) if output is Format.json else emit(render_version_difference(versions))
    return DONE


def at(
    context: typer.Context, time: When, model: OfModels = None, to: Stage = "prod", output: Output = Format.text
) -> int:
    """What was live at a moment."""
    from retinue.cli.facts import to_json
    from retinue.cli.render_state import render_release
    from retinue.cli.words import moment, utc
    from retinue.control.telling import by_family, chosen
    from retinue.core.errors import UsageError

    try:
        when = utc(time)
    except ValueError as error:
        hint = 'Write it as "2026-01-31 12:00" (local time), or with an offset, +01:00 or Z.'
        raise UsageError(f"{time!r} is no moment", hint=hint) from error
    with _project(context, to) as project:
        release = project.registry.release_at(project.name, to, when)
        if release is None:
            raise UsageError(f"at {moment(when)} stage {to} had no release", hint="`retinue history` lists releases.")
        names = chosen(release.models, model or sorted(release.models))
        if output is Format.json:
            body = {"at": when, "release": to_json(release)}
            body["models"] = {m: release.models[m].version for m in names}
            emit_json(body)
        elif model:
            from retinue.cli.render_state import render_live_at

            emit(render_live_at(release, names, when))
        else:
            families = by_family(project.registry, {m: e.version for m, e in release.models.items()})
            emit(render_release(release, families, when))
    return DONE


def why(context: typer.Context, model: Model, to: Stage = "prod", output: Output = Format.text) -> int:
    """Why a model's live version is live.

    Its release, the change that brought it, its gates with their evidence, what it reads, holds, lineage.
    """
    from retinue.cli.facts import to_json
    from retinue.cli.outside import what_it_is
    from retinue.cli.render_version import render_story
    from retinue.control.telling import story

    with _project(context, to) as project:
        if (outside := what_it_is(project, model, say)) is not None:
            emit_json(outside.facts) if output is Format.json else emit(outside.text)
            return DONE
        found = story(project.registry, project.current(), model)
        emit_json(to_json(found)) if output is Format.json else emit(render_story(found))
    return DONE


def _version(project: Project, reference: str) -> Version:
    """The version that MODEL, or MODEL@PREFIX, names. Without @: the live one, else the newest."""
    model, at_, prefix = reference.partition("@")
    return project.version(model, prefix if at_ else None)


@contextmanager
def _project(context: typer.Context, stage: str, *, note: bool = True) -> Iterator[Project]:
    """The project; says which stages there are when this one has no release: it may be misspelled."""
    from retinue.cli.facts import no_release_yet

    frame = context.obj
    assert isinstance(frame, Frame)
    with frame.project(stage) as project:
        told = no_release_yet(project) if note else None
        if told is not None:
            say(told)
        yield project
