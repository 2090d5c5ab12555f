"""What is recorded of a stage, in words: status, history, a release at a moment, a rollback. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Any

from retinue.cli.render_outcome import gate_lines
from retinue.cli.words import count, family_name, listed, moment, table
from retinue.control.telling import Change, Failing, Status
from retinue.core.approval import ASKING, hold_words
from retinue.core.identity import short
from retinue.core.plan import Why
from retinue.core.state import ApplyRecord, HistoryRow, Hold, Release

Json = Any

SHOWN = 10
"""Longer lists are cut to this many lines; -o json has all."""


def render_status(
    status: Status,
    server: Mapping[str, Json] | None,
    planned: str | None = None,
    zone: tzinfo | None = None,
    *,
    lost: str | None = None,
) -> str:
    """`retinue status`. `planned`: the last line of a plan, if one was asked for; `lost`: that the database is."""
    blocks = [
        _head(status, zone) if lost is None else [f"{status.portfolio} → stage {status.stage}: {lost}"],
        _failing(status.failing),
        _models(status),
        _holds(status.holds, zone),
        _work(status, zone),
        _server(server, status),
        [planned] if planned else [],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def render_history(
    rows: Sequence[HistoryRow], releases: Sequence[Release], told: Sequence[Change], zone: tzinfo | None = None
) -> str:
    """Releases, newest first, with what each changed; `told` has the change of every row, in the same order."""
    if not releases and not rows:
        return "No release yet: `retinue apply` makes the first one.\n"
    changed: dict[int, list[Change]] = {}
    for row, change in zip(rows, told, strict=True):
        changed.setdefault(row.release, []).append(change)
    lines: list[str] = []
    for release in releases:
        lines.append(f"release {release.number}   {moment(release.created, zone)}   {_by(release)}")
        lines += [f"  {line}" for line in render_changes(changed.get(release.number, []))]
    return "\n".join(lines) + "\n"


def render_model_history(
    model: str, rows: Sequence[HistoryRow], told: Sequence[Change], zone: tzinfo | None = None
) -> str:
    """The changes of one model, newest first; `told` has the change of every row, in the same order."""
    if not rows:
        return f"{model} was never in a release of this stage.\n"
    cells = [
        (
            f"release {r.release}",
            moment(r.created, zone),
            f"{_version(r.old)} → {_version(r.new)}",
            f"{r.cause} by {r.who}{': ' + r.why if r.why else ''}",
            reasons_text(change.reasons),
        )
        for r, change in zip(rows, told, strict=True)
    ]
    return "\n".join([model, *table(cells)]) + "\n"


def render_changes(changes: Sequence[Change], limit: int = 6) -> list[str]:
    """One line a model; members of a family that changed for the same reasons share one. At most `limit` lines."""
    same: dict[tuple[str, ...], list[Change]] = {}
    for c in changes:
        key = (c.family, _verb(c), *(w.reason for w in c.reasons)) if c.family else (c.model,)
        same.setdefault(key, []).append(c)
    rows = []
    for found in same.values():
        first = found[0]
        if len(found) == 1 or first.family is None:
            rows.append((first.model, f"{_version(first.old)} → {_version(first.new)}", _reason(first)))
            continue
        texts = Counter(_reason(c) for c in found).most_common(1)
        more = "" if texts[0][1] == len(found) else ", … "
        rows.append((family_name(first.family), count(len(found), "model"), f"{texts[0][0]}{more}".rstrip()))
    lines = table(rows[:limit], indent="")
    return lines + ([f"and {len(rows) - limit} more"] if len(rows) > limit else [])


def reasons_text(reasons: Iterable[Why]) -> str:
    """PARAMS (max_iter 60 → 120), CODE (late.py)."""
    return ", ".join(w.reason + (f" ({w.text})" if w.text else "") for w in reasons)


def _verb(change: Change) -> str:
    return "add" if change.old is None else "remove" if change.new is None else "change"


def _reason(change: Change) -> str:
    """Why, or what it is if nothing is known of why."""
    return reasons_text(change.reasons) or _verb(change).replace("change", "built again")


def render_release(
    release: Release, families: Mapping[str, Sequence[str]], when: str | None = None, zone: tzinfo | None = None
) -> str:
    """A release and what it holds; `when` is the moment that was asked about."""
    head = (
        f"At {moment(when, zone)} stage {release.stage} was at release {release.number}"
        if when
        else (f"Release {release.number} of stage {release.stage}")
    )
    lines = [head, f"  since {moment(release.created, zone)}, {_by(release)}", ""]
    rows = []
    for family, models in families.items():
        if family:
            rows.append((family_name(family), count(len(models), "model")))
        else:
            rows += [(m, short(release.models[m].version)) for m in models]
    lines += table(rows)
    lines += table([(f"endpoint {name}", str(body["select"])) for name, body in sorted(release.endpoints.items())])
    return "\n".join(lines) + "\n"


def render_live_at(release: Release, models: Sequence[str], when: str, zone: tzinfo | None = None) -> str:
    """The versions of some models that were live at a moment."""
    head = f"At {moment(when, zone)} stage {release.stage} was at release {release.number}:"
    return "\n".join([head, *table([(m, short(release.models[m].version)) for m in models])]) + "\n"


def render_rollback(
    before: Release | None, release: Release, holds: Sequence[Hold], seconds: float | None = None
) -> str:
    """What a rollback did, and how long it took to be decided and published."""
    old = {m: e.version for m, e in before.models.items()} if before else {}
    new = {m: e.version for m, e in release.models.items()}
    rows = [
        (model, f"{_version(old.get(model))} → {_version(new.get(model))}")
        for model in sorted({*old, *new})
        if old.get(model) != new.get(model)
    ]
    number = before.number if before else None
    took = f", decided in {seconds:.2f} s" if seconds is not None else ""
    lines = [f"Release {release.number} is live on stage {release.stage}{took}; it replaces release {number}."]
    shown = table(rows)
    lines += shown if len(shown) <= SHOWN else [*shown[: SHOWN - 1], f"  and {len(shown) - SHOWN + 1} more models"]
    if holds:
        names = listed([h.model for h in holds])
        few = " ".join(h.model for h in holds) if len(holds) <= 3 else "SELECTOR"
        more = "" if len(holds) <= 3 else " (`retinue plan` says which)"
        lines.append(
            f"Held until something of it changes: {names}. `retinue unhold {few} --reason TEXT`{more} tries again."
        )
    return "\n".join(lines) + "\n"


def hold_rows(holds: Sequence[Hold], zone: tzinfo | None = None) -> list[str]:
    """One line for every hold; models that are held by the same act share a line."""
    acts: dict[tuple[str, str], list[Hold]] = {}
    for h in sorted(holds, key=lambda h: h.model):
        cause = f"rolled back in release {h.release}" if h.release is not None else h.cause
        detail = h.detail
        if h.cause in ASKING:
            cause, detail = hold_words(h.cause, h.detail), ""
        acts.setdefault((cause, f"{detail + ', ' if detail else ''}since {moment(h.created, zone)}"), []).append(h)
    return table(
        [
            (
                listed([h.model for h in found], 2),
                (len(found) == 1 and found[0].version and short(found[0].version)) or "",
                *told,
            )
            for told, found in acts.items()
        ]
    )


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _by(release: Release | HistoryRow) -> str:
    return f"{release.cause} by {release.who}" + (f": {release.why}" if release.why else "")


def _version(version: str | None) -> str:
    return short(version) if version else "–"


def _head(status: Status, zone: tzinfo | None) -> list[str]:
    release = status.release
    if release is None:
        others = f" Other stages: {_others(status)}." if _others(status) else ""
        return [f"{status.portfolio} → stage {status.stage}: no release yet; `retinue apply` makes the first.{others}"]
    lines = [
        f"{status.portfolio} → stage {status.stage}: release {release.number}",
        f"  since {moment(release.created, zone)}, {_by(release)}",
    ]
    return [*lines, f"  other stages: {_others(status)}"] if _others(status) else lines


def _others(status: Status) -> str:
    return ", ".join(f"{s} at release {n}" for s, n in sorted(status.stages.items()) if s != status.stage)


def _models(status: Status) -> list[str]:
    if status.release is None:
        return []
    total = len(status.release.models)
    rows = []
    for family, models in status.families.items():
        if family:
            rows.append((family_name(family), str(len(models))))
        else:
            rows += [(m, short(status.release.models[m].version)) for m in models[:10]]
            rows += [(f"and {len(models) - 10} more without a family", "")] if len(models) > 10 else []
    endpoints = [
        (f"endpoint {n}", f"{b['select']}{', else ' + b['fallback'] if b['fallback'] else ''}")
        for n, b in sorted(status.release.endpoints.items())
    ]
    return [f"{count(total, 'model')}, {count(len(endpoints), 'endpoint')}:", *table([*rows, *endpoints])]


def _failing(failing: Sequence[Failing]) -> list[str]:
    if not failing:
        return []
    lines = [f"DANGER {len(failing)}: live, and not shown to pass"]
    for found in failing[:10]:
        gates = gate_lines(found.results, passes=False)
        lines.append(f"  {found.model}   {found.verdict}" + (f": {gates[0]}" if gates else ""))
    return lines + ([f"  and {len(failing) - 10} more"] if len(failing) > 10 else [])


def _holds(holds: Sequence[Hold], zone: tzinfo | None) -> list[str]:
    if not holds:
        return []
    lines = hold_rows(holds, zone)
    more = [f"  and {len(lines) - 10} more"] if len(lines) > 10 else []
    return [f"{count(len(holds), 'hold')}:", *lines[:10], *more]


def _work(status: Status, zone: tzinfo | None) -> list[str]:
    lines = [f"running: an apply by {a.who} since {moment(a.created, zone)}" for a in status.running]
    lines += [
        f"lease: {lease.holder} on {count(len(lease.models), 'model')} until {moment(lease.expires, zone)}"
        for lease in status.leases
    ]
    last = status.last_apply
    if last is not None and (last.status in ("failed", "interrupted") or last.summary.get("errors")):
        lines += _last(last, zone)
    return lines


def _last(last: ApplyRecord, zone: tzinfo | None) -> list[str]:
    """The last apply's end; each model that failed with the first line of its error."""
    models, errors = last.summary.get("models") or {}, last.summary.get("errors") or {}
    bad = [m for m, s in models.items() if s in ("failed", "skipped", "gate failed") and m not in errors]
    why = f": {listed(bad)}" if bad else f": {last.summary['error']}" if last.summary.get("error") else ""
    lines = [f"last apply: {last.status} at {moment(last.ended or last.created, zone)} by {last.who}{why}"]
    for model, text in list(errors.items())[:SHOWN]:
        first = (str(text).strip() or "failed").splitlines()[0].replace(f"{model}: ", "", 1)
        lines.append(f"  {model}: {first}; `retinue logs {model}` shows what it printed")
    return lines + ([f"  and {len(errors) - SHOWN} more"] if len(errors) > SHOWN else [])


def _server(server: Mapping[str, Json] | None, status: Status) -> list[str]:
    if server is None:
        return ["server: none runs for this stage; `retinue serve` starts one"] if status.release else []
    if "silent" in server:
        return [
            f"server: {server['url']} (pid {server['pid']}) runs, its admin port does not answer: {server['silent']}"
        ]
    body = server["status"]
    lines = [f"server: {server['url']} (pid {server['pid']}) serves release {body['release']}"]
    if body.get("wanted") != body.get("release"):
        lines.append(f"  wanted is release {body['wanted']}")
    if body.get("refused"):
        lines.append(f"  DANGER: it refused release {body['refused']['release']}: {body['refused']['why']}")
    lines += [f"  not available: {model}: {why}" for model, why in list(body.get("unavailable", {}).items())[:5]]
    gateways = body.get("gateways", [])
    lines += [f"  DANGER: {text}" for text in sorted({text for g in gateways for text in g.get("trouble", ())})]
    requests = sum(g["requests"] for g in gateways)
    errors = sum(g["errors"] for g in gateways)
    lines.append(f"  {count(len(gateways), 'gateway')}, {requests:,} requests, {errors:,} errors")
    return lines
