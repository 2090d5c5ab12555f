"""Commands that plan a change and carry it out: plan, apply, rebuild, rollback, unhold."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from retinue.cli.frame import CHANGES, DONE, FAILED, Frame, emit, emit_json, say
from retinue.cli.options import (
    AllowRemove,
    AllowWeaker,
    Detailed,
    Every,
    Exclude,
    Format,
    MaybeModels,
    Models,
    Out,
    Output,
    Reason,
    Refresh,
    Retry,
    Select,
    Selectors,
    Stage,
    Why,
    Yes,
)

if TYPE_CHECKING:
    from retinue.core.plan import Plan
    from retinue.project import Asked, Project

PlanFile = Annotated[
    Path | None, typer.Argument(metavar="PLANFILE", help="A plan saved by `retinue plan --out`; without, of now.")
]
ToRelease = Annotated[
    str | None, typer.Option("--to", metavar="N", help="Go back to the content of release N as a whole.")
]
Wait = Annotated[
    float,
    typer.Option("--wait", min=0, metavar="SECONDS", help="Wait so long for another apply on the same models to end."),
]
StageOnly = Annotated[str, typer.Option("--stage", metavar="STAGE", help="The stage, e.g. dev, staging or prod.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (plan, apply, rebuild, rollback, unhold):
        app.command()(command)


def plan(  # noqa: PLR0913 - typer reads a command's options from its parameters
    context: typer.Context,
    *,
    to: Stage = "prod",
    select: Select = None,
    exclude: Exclude = None,
    refresh_data: Refresh = False,
    allow_remove: AllowRemove = None,
    allow_weaker: AllowWeaker = None,
    retry: Retry = None,
    out: Out = None,
    all_: Every = False,
    detailed_exitcode: Detailed = False,
    output: Output = Format.text,
) -> int:
    """Say what apply would do, and why; changes nothing."""
    from retinue.project import Asked

    asked = Asked(
        select=_many(select),
        exclude=_many(exclude),
        refresh_data=refresh_data,
        allow_remove=_many(allow_remove),
        allow_weaker=_many(allow_weaker),
        retry=_many(retry),
    )
    with _frame(context).project(to) as project:
        found = project.plan(asked, say=say)
        if found.base is None:
            _note_new_stage(project)
        if out is not None:
            found = project.save(found, out, asked)
        _show(found, output, every=all_)
        if out is not None:
            say(f"saved to {out}: `retinue apply {out}` does exactly this")
    return CHANGES if detailed_exitcode and not found.empty else DONE


def apply(  # noqa: PLR0913 - typer reads a command's options from its parameters
    context: typer.Context,
    planfile: PlanFile = None,
    *,
    to: Annotated[
        str | None, typer.Option("--to", "--stage", metavar="STAGE", help="The stage; prod if not given.")
    ] = None,
    select: Select = None,
    exclude: Exclude = None,
    refresh_data: Refresh = False,
    allow_remove: AllowRemove = None,
    allow_weaker: AllowWeaker = None,
    retry: Retry = None,
    why: Why = "",
    yes: Yes = False,
    wait: Wait = 0.0,
    all_: Every = False,
    output: Output = Format.text,
) -> int:
    """Carry a plan out: train, test, release."""
    from retinue.project import Asked

    asked = Asked(
        select=_many(select),
        exclude=_many(exclude),
        refresh_data=refresh_data,
        allow_remove=_many(allow_remove),
        allow_weaker=_many(allow_weaker),
        retry=_many(retry),
    )
    stage = _stage(planfile, to, asked)
    with _frame(context).project(stage) as project:
        return _apply(project, _Wanted(_frame(context), planfile, asked, why, yes, all_, output, wait))


def rebuild(
    context: typer.Context,
    models: Models,
    reason: Reason = "",
    to: Stage = "prod",
    yes: Yes = False,
    output: Output = Format.text,
) -> int:
    """Build models again on purpose, on the same definition and data."""
    from retinue.core.errors import UsageError
    from retinue.project import Asked

    if not reason:
        raise UsageError("say why it is built again", hint="Add --reason TEXT.")
    asked = Asked(select=tuple(models), rebuild=tuple(models))
    with _frame(context).project(to) as project:
        return _apply(project, _Wanted(_frame(context), None, asked, reason, yes, False, output))


def rollback(
    context: typer.Context,
    models: MaybeModels = None,
    to_release: ToRelease = None,
    why: Why = "",
    stage: StageOnly = "prod",
    output: Output = Format.text,
) -> int:
    """Go back to what was live before; builds nothing.

    Name models, or take the whole release back with --to N. What is taken back is held: no plan tries it again until
    something of it changes, or `unhold` ends the hold.
    """
    from retinue.cli.render_state import render_rollback

    number = _release_number(to_release, models or [], stage)
    with _frame(context).project(stage) as project:
        before = project.current()
        started = monotonic()
        release = project.rollback(models or (), to=number, why=why)
        seconds = monotonic() - started
        held = project.registry.holds(project.name, stage)
        holds = [h for h in held if h.release == release.number]
        if output is Format.json:
            import msgspec

            told = {"release": msgspec.to_builtins(release), "holds": msgspec.to_builtins(holds)}
            emit_json({**told, "seconds": seconds})
        else:
            emit(render_rollback(before, release, holds, seconds))
    return DONE


def _release_number(text: str | None, models: list[str], stage: str) -> int | None:
    """The number after --to. Raises UsageError for a word: in this command --to takes no stage."""
    from retinue.core.errors import UsageError

    if text is None or text.isdecimal():
        return int(text) if text else None
    what = " ".join(models) or f"--to N{_stage_of(stage)}"
    raise UsageError(
        f"rollback --to takes the number of a release, not {text!r}",
        hint=f"If {text} is a stage: `retinue rollback {what} --stage {text}`; `retinue history` lists releases.",
    )


def _stage_of(stage: str) -> str:
    return f" --stage {stage}" if stage != "prod" else ""


def unhold(
    context: typer.Context, models: Selectors, reason: Reason = "", to: Stage = "prod", output: Output = Format.text
) -> int:
    """End holds, so that the next plan tries the models again."""
    from retinue.cli.render_state import SHOWN
    from retinue.cli.words import listed

    with _frame(context).project(to) as project:
        ended = project.unhold(models, why=reason)
        if output is Format.json:
            import msgspec

            emit_json(msgspec.to_builtins(ended))
        else:
            if len(ended) > SHOWN:
                emit(f"{len(ended)} models are no longer held: {listed(sorted(h.model for h in ended))}")
            else:
                for hold in ended:
                    emit(f"{hold.model}: no longer held ({hold.cause}{', ' + hold.detail if hold.detail else ''})")
            emit(f"The next `retinue plan{_to(project.stage)}` tries {'it' if len(ended) == 1 else 'them'} again.")
    return DONE


# ── apply ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the caller of apply or rebuild asked for."""

    frame: Frame
    planfile: Path | None
    asked: Asked
    why: str
    yes: bool
    every: bool
    output: Format
    wait: float = 0.0  # seconds


def _apply(project: Project, wanted: _Wanted) -> int:
    from retinue.cli.progress import watch
    from retinue.cli.render_outcome import render_outcome

    plan = _plan_of(project, wanted)
    if wanted.planfile is None and not wanted.yes and not plan.empty and not plan.blocked and not _agreed(plan, wanted):
        say("nothing was changed")
        return FAILED
    wanted.frame.kept = (
        f"stage {plan.stage} is unchanged; what is built and tested is kept, "
        "and the next `retinue apply` goes on from there"
    )
    if plan.blocked:
        return _refused(plan, wanted.output)
    with watch(plan) as progress:
        source = wanted.planfile if wanted.planfile is not None else plan
        outcome = project.apply(source, wanted.asked, why=wanted.why, observer=progress)
    wanted.frame.kept = "nothing was changed"
    if wanted.output is Format.json:
        from retinue.cli.facts import outcome_json

        emit_json(outcome_json(outcome))
    elif not plan.empty:
        emit(render_outcome(outcome, plan, plan.stage))
    return FAILED if outcome.failed else DONE


def _plan_of(project: Project, wanted: _Wanted) -> Plan:
    """The plan that is about to be done; shown, unless its result is asked for as JSON."""
    from retinue.cli.render_plan import render_plan

    if wanted.planfile is not None:
        from retinue.control.planfile import read_plan

        plan = read_plan(wanted.planfile)
    else:
        _note_new_stage(project)
        plan = project.plan(wanted.asked, say=say)
    if wanted.wait and _waited(project, plan, wanted.wait) and wanted.planfile is None:
        plan = project.plan(wanted.asked, say=say)  # the other apply may have changed what there is to do
    text = render_plan(plan, every=wanted.every)
    if wanted.output is Format.json:
        say(text)
    else:
        emit(text)
    return plan


def _waited(project: Project, plan: Plan, seconds: float) -> bool:
    """Wait until no other apply is at work on the models of `plan`; whether there was any waiting."""
    from time import sleep

    from retinue.control.events import utc_now
    from retinue.control.waiting import wait_for

    place = (plan.portfolio, plan.stage)
    return wait_for(project.registry, place, plan.affected, seconds=seconds, say=say, clock=utc_now, sleep=sleep)


def _note_new_stage(project: Project) -> None:
    """A stage without a release may be new, or misspelled: say which others there are."""
    from retinue.cli.facts import no_release_yet

    note = no_release_yet(project)
    if note is not None:
        say(f"note: {note}")


def _refused(plan: Plan, output: Format) -> int:
    """A blocked plan is not done: say which flags would name its dangers."""
    from retinue.cli.render_plan import flags_of

    message = "the plan is blocked by its dangers; nothing was changed"
    hint = f"if they are meant, run again with: {flags_of(plan, 8)}"
    if output is Format.json:
        problems = [{"message": d.text, "hint": d.flag, "where": d.where} for d in plan.blocked]
        emit_json({"error": {"message": message, "hint": hint, "where": None, "problems": problems}})
    say(f"error: {message}")
    say(f"hint: {hint}")
    return FAILED


def _agreed(plan: Plan, wanted: _Wanted) -> bool:
    from retinue.core.errors import UsageError

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "off a terminal, apply needs a saved plan or --yes",
            hint="`retinue plan --out plan.json`, then `retinue apply plan.json`; or `retinue apply --yes`.",
        )
    try:
        return typer.confirm(f"Apply this to stage {plan.stage}?", default=False, err=True)
    except typer.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None  # Ctrl-C ends with 130 here as everywhere; Ctrl-D is a no
        return False


def _stage(planfile: Path | None, to: str | None, asked: Asked) -> str:
    """The stage of the plan: of the file if there is one, which cannot be combined with other wishes."""
    if planfile is None:
        return "prod" if to is None else to  # an empty one is a mistake, not a wish for prod
    from retinue.control.planfile import read_plan
    from retinue.core.errors import UsageError
    from retinue.project import Asked as Nothing

    if asked != Nothing():
        raise UsageError(
            "a saved plan is done exactly as it was printed: it takes no selection or permission",
            hint="Give the options to `retinue plan --out FILE`, then apply that file.",
        )
    plan = read_plan(planfile)
    if to is not None and to != plan.stage:
        raise UsageError(f"{planfile} is a plan for stage {plan.stage}, not {to}", hint="Leave --to out.")
    return plan.stage


def _show(plan: Plan, output: Format, *, every: bool) -> None:
    if output is Format.json:
        from retinue.control.planfile import plan_json

        emit_json(plan_json(plan))
    else:
        from retinue.cli.render_plan import render_plan

        emit(render_plan(plan, every=every))


def _to(stage: str) -> str:
    return f" --to {stage}" if stage != "prod" else ""


def _many(values: list[str] | None) -> tuple[str, ...]:
    """Repeated options; `--select a --select b` and commas inside a selector are both allowed."""
    return tuple(values or ())


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
