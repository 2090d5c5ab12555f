"""What an apply did, in words, and one line for a model that has ended. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from retinue.cli.words import listed, table, took
from retinue.control.events import ModelResult, Outcome
from retinue.core.checks import describe_check
from retinue.core.gates import GateResult, describe
from retinue.core.identity import short
from retinue.core.plan import Build, Plan, Route
from retinue.core.state import MEASUREMENTS

Json = Any
_KNOWN = {f.name for f in fields(GateResult)}
_ORDER = (
    "built",
    "reused",
    "rebuilt",
    "regated",
    "unchanged",
    "waiting",
    "failed",
    "gate failed",
    "inconclusive",
    "skipped",
)
_WORDS = {
    "regated": "tested again",
    "waiting": "waiting for approval",
    "inconclusive": "inconclusive (held)",
    "gate failed": "failed at gates (held)",
    "skipped": "skipped because of those",
}


def gate_results(rows: Iterable[Mapping[str, Json]]) -> list[GateResult]:
    """Recorded gate results as values; measurements of the build itself (`build.seconds`) are left out."""
    found = []
    for row in rows:
        name = str(row.get("gate", ""))
        if name and not name.endswith(".seconds"):
            found.append(GateResult(**{k: v for k, v in row.items() if k in _KNOWN}))
    return found


def gate_lines(rows: Iterable[Mapping[str, Json]], *, passes: bool = True) -> list[str]:
    """One line a gate; without `passes` only those that did not pass."""
    return [describe(r) for r in gate_results(rows) if passes or r.verdict != "pass"]


def key_gate(rows: Iterable[Mapping[str, Json]]) -> str:
    """The one gate worth a line: the first that did not pass, else the first with a number."""
    results = gate_results(rows)
    bad = [r for r in results if r.verdict != "pass"]
    numbers = [r for r in results if r.estimate is not None and r.gate not in MEASUREMENTS]
    chosen = bad or numbers
    return describe(chosen[0]) if chosen else ""


def render_outcome(outcome: Outcome, plan: Plan | None, stage: str) -> str:
    """The summary under an apply: totals, what failed and why, what is held, the release, the next commands."""
    blocks = [
        [_totals(outcome)],
        _checks(outcome),
        *[_failure(m) for m in outcome.models if m.status == "failed"],
        _gates(outcome.models),
        _approvals(outcome.models, stage),
        _skipped(outcome.models),
        _release(outcome, plan, stage),
        _next(outcome, plan, stage),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _checks(outcome: Outcome) -> list[str]:
    """Data checks: those that did not pass in full, the others as a number."""
    bad = [describe_check(c) for c in outcome.checks if c.passed is not True]
    good = sum(c.passed is True for c in outcome.checks)
    return [*bad, *([f"{good} data checks passed."] if good else [])]


def _totals(outcome: Outcome) -> str:
    numbers: Counter[str] = Counter(m.status for m in outcome.models)
    parts = [f"{numbers[s]} {_WORDS.get(s, s)}" for s in _ORDER if numbers[s]]
    if not parts:
        return "Nothing had to be built or tested."
    return f"{', '.join(parts)} in {took(outcome.seconds)}."


def _failure(result: ModelResult) -> list[str]:
    error = result.error
    if error is None:
        return [f"{result.model}: failed: {result.text}"]
    place = f"{error.where}: " if error.where and error.where != result.model else ""
    message = error.message.removeprefix(f"{result.model}: ")
    lines = f"{result.model}: failed: {place}{message}".split("\n")
    return [lines[0], *(f"  {line}" for line in lines[1:]), f"  hint: {error.hint}"]


def _gates(models: Sequence[ModelResult]) -> list[str]:
    lines: list[str] = []
    for result in models:
        if result.status not in ("gate failed", "inconclusive"):
            continue
        version = f" ({short(result.version)} is held)" if result.version else ""
        lines.append(f"{result.model}: {result.status}{version}" + (f": {result.text}" if result.text else ""))
        lines += [f"  {line}" for line in gate_lines(result.results, passes=False)]
    return lines


def _approvals(models: Sequence[ModelResult], stage: str) -> list[str]:
    waiting = [m for m in models if m.status == "waiting"]
    lines = [f"{m.model}: {m.text}" + (f" ({short(m.version)})" if m.version else "") for m in waiting[:10]]
    lines += [f"and {len(waiting) - 10} more"] if len(waiting) > 10 else []
    asking = [m.model for m in waiting if "approval by " in m.text]
    if asking:
        to = f" --to {stage}" if stage != "prod" else ""
        lines.append(f"`retinue approve {' '.join(asking[:3])} --reason TEXT{to}`, then `retinue apply{to}` lands it.")
    return lines


def _skipped(models: Sequence[ModelResult]) -> list[str]:
    why: dict[str, list[str]] = {}
    for result in models:
        if result.status == "skipped":
            why.setdefault(result.text or "not started", []).append(result.model)
    return [f"skipped {text}: {listed(names)}" for text, names in why.items()]


def _release(outcome: Outcome, plan: Plan | None, stage: str) -> list[str]:
    if outcome.release is not None:
        replaced = f"it replaces release {outcome.before}" if outcome.before else "it is the first"
        lines = [f"Release {outcome.release} is live on stage {stage}; {replaced}."]
    elif outcome.before is not None:
        lines = [f"No new release: stage {stage} stays at release {outcome.before}."]
    else:
        lines = [f"No release: stage {stage} still has none."]
    live = {s.model: s.live for s in plan.steps if isinstance(s, Build)} if plan else {}
    same = [m.model for m in outcome.models if m.version is not None and live.get(m.model) == m.version]
    if same:
        lines.append(f"Built the same, to the byte, as what is live: {listed(same)}.")
    if outcome.settings is not None:
        lines.append(f"Settings revision {outcome.settings} is recorded.")
    return lines


def _next(outcome: Outcome, plan: Plan | None, stage: str) -> list[str]:
    to = f" --to {stage}" if stage != "prod" else ""
    rows: list[tuple[str, str]] = []
    if any(m.status == "failed" for m in outcome.models):
        rows.append((f"retinue apply{to}", "try again what failed; what is built is reused"))
    if outcome.release is not None:
        rows.append((f"retinue serve{to}", "answer requests (a running server follows by itself)"))
        asked = _askable(outcome, plan)
        if asked is not None and outcome.before is None:
            rows.append((f"retinue predict {asked} --row '{{…}}'{to}", "ask it"))
        if outcome.before is not None:
            stage_ = f" --stage {stage}" if stage != "prod" else ""
            rows.append((f"retinue rollback{stage_} --to {outcome.before} --why TEXT", "take it all back"))
    return ["Next:", *table(rows)] if rows else []


def _askable(outcome: Outcome, plan: Plan | None) -> str | None:
    """An endpoint that was just made, else a model."""
    routes = [s.endpoint for s in plan.steps if isinstance(s, Route) and s.change == "add"] if plan else []
    built = [m.model for m in outcome.models if m.status in ("built", "reused")]
    return next(iter([*routes, *built]), None)


def ended_line(done: int, total: int, event: Mapping[str, Json], gate: str = "") -> str:
    """One finished model: "[ 3/27] late-JFK-B6   built   2.1 s   roc_auc 0.71 …"."""
    width = len(str(total))
    status = str(event["status"])
    text = str(event["text"] or "").split("\n")[0]
    parts = [f"[{done:>{width}}/{total}] {event['model']}", status, took(float(event["seconds"]))]
    return "   ".join([*parts, *(t for t in (gate or text,) if t)])
