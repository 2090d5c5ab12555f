"""A plan in words. No I/O: the same plan gives the same text, held by golden files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from retinue.cli.words import about, count, family_name, listed, table
from retinue.core.approval import hold_words
from retinue.core.family import family_label
from retinue.core.identity import short
from retinue.core.plan import Build, Configure, Danger, Held, Plan, Regate, Remove, Rename, Route, Waiting, Why

MANY_SINGLES = 5
"""From so many models without a family with the same change on, they are told in one line."""


Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Act:
    """What happens to one model: members whose `verb` and `reasons` agree are counted together."""

    model: str
    family: str | None
    verb: str
    reasons: str = ""
    text: str = ""
    tail: str = ""  # said once for all


def render_plan(plan: Plan, *, every: bool = False) -> str:
    """The plan as `retinue plan` prints it; with `every`, one line for each model too."""
    since = f"release {plan.base}" if plan.base is not None else "no release yet"
    acts = _acts(plan)
    blocks = [
        [f"Plan for {plan.portfolio} → stage {plan.stage} ({since})"],
        _dangers(plan, every),
        table([*_families(acts, every), *_endpoints(plan), *_settings(plan)], indent=""),
        _tree(plan),
        _around(plan, every),
        [_summary(plan)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def last_lines(plan: Plan) -> str:
    """What `status --plan` adds: newer data, and the plan in one line."""
    newer = [line for line in _around(plan, False) if line.startswith(("newer data", "lapsed"))]
    return "\n".join([*newer, f"{_summary(plan)} `retinue plan` says more."])


def flags_of(plan: Plan, limit: int = 4) -> str:
    """The flags that name all dangers; many members of one family by its selector, where the flag takes one."""
    family = {name: spec.family for name, spec in plan.specs.items()}
    flags = list(dict.fromkeys(d.flag for d in plan.blocked if d.flag))
    if len(flags) > limit:
        flags = list(dict.fromkeys(_by_family(flag, family) for flag in flags))
    return " ".join(flags[:limit]) + (f" … ({len(flags)} flags in all)" if len(flags) > limit else "")


def _by_family(flag: str, family: Mapping[str, str | None]) -> str:
    option, _, name = flag.partition(" ")
    found = family.get(name)
    return f"{option} family:{family_label(found)}" if found and option == "--allow-weaker" else flag


# ── dangers ─────────────────────────────────────────────────────────────────────────────────────────────────


def _dangers(plan: Plan, every: bool) -> list[str]:
    blocked = [d for d in plan.dangers if d.flag]
    others = [d for d in plan.dangers if not d.flag]
    lines = []
    if blocked:
        lines.append(f"DANGER {len(blocked)}: blocked without {flags_of(plan)}")
        lines += table(_danger_rows(blocked, plan, every))
    if others:
        lines.append(f"DANGER {len(others)}: blocks nothing, but look at it")
        lines += table(_danger_rows(others, plan, every))
    return lines


def _danger_rows(dangers: Sequence[Danger], plan: Plan, every: bool) -> list[tuple[str, ...]]:
    """Text and place; dangers that differ in the model's name alone are told once, with one shown."""
    same: dict[tuple[str, str | None], list[Danger]] = {}
    for danger in dangers:
        name = danger.models[0] if danger.models else ""
        pattern = danger.text.replace(name, "{}") if name else danger.text
        same.setdefault((danger.text if every else pattern, danger.where if name else None), []).append(danger)
    rows: list[tuple[str, ...]] = []
    for found in same.values():
        first = found[0]
        text = first.text + (f" (same × {len(found)}, one shown)" if len(found) > 1 else "")
        rows.append((text, first.where or ""))
    return rows


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────


def _acts(plan: Plan) -> list[_Act]:
    acts = []
    for step in plan.steps:
        match step:
            case Build():
                acts.append(_build(step))
            case Regate():
                tail = "retrain those that fail" if step.else_build else ""
                acts.append(_Act(step.model, step.family, "re-gate", *_told(step.why), tail))
            case Remove():
                acts.append(_Act(step.model, step.family, "remove", tail="protected" if step.protect else ""))
            case Rename():
                acts.append(_Act(step.model, step.family, "rename", text=f"{step.was} → {step.model}"))
            case Route() | Configure():
                pass
            case _:
                assert_never(step)
    acts += [_Act(h.model, h.family, "held", text=_held(h), tail="") for h in plan.held]
    return acts


def _build(step: Build) -> _Act:
    reasons, text = _told(tuple(w for w in step.why if w.reason != "ADD"))
    verb = "add" if step.live is None else "retrain"
    if step.reuse is not None:
        verb, tail = ("add by reuse", "") if step.live is None else ("switch", "reuse ")
        return _Act(step.model, step.family, verb, reasons, text, f"{tail}{short(step.reuse)}, no build")
    return _Act(step.model, step.family, verb, reasons, text)


def _told(why: Iterable[Why]) -> tuple[str, str]:
    """("PARAMS + CODE", "max_iter 60 → 120, late.py")."""
    found = list(why)
    return " + ".join(dict.fromkeys(w.reason for w in found)), ", ".join(w.text for w in found if w.text)


def _held(held: Held) -> str:
    name = held.model
    if held.cause == "upstream":
        return f"{name}: {held.detail}"
    if held.release is not None:
        return f"{name}: rolled back in release {held.release}" + (f", {held.detail}" if held.detail else "")
    return f"{name}: {hold_words(held.cause, held.detail)}"


def _families(acts: Sequence[_Act], every: bool) -> Rows:
    groups: dict[str, list[_Act]] = {}
    for act in acts:
        groups.setdefault(act.family or "", []).append(act)
    rows: list[tuple[str, ...]] = []
    for family, members in groups.items():
        if not family:
            rows += _singles(members, every)
            continue
        touched = len({a.model for a in members})
        parts = _collapsed(members)
        rows.append((family_name(family), parts[0] if len(parts) == 1 else f"{touched}: {', '.join(parts)}"))
        if every:
            rows += [(f"  {a.model}", _one(a)) for a in members]
    return rows


def _singles(acts: Sequence[_Act], every: bool) -> Rows:
    same: dict[str, list[_Act]] = {}
    for act in acts:
        same.setdefault(_one(act), []).append(act)
    rows: list[tuple[str, ...]] = []
    for text, found in same.items():
        if every or len(found) < MANY_SINGLES:
            rows += [(act.model, text) for act in found]
        else:
            names = listed([a.model for a in found])
            rows.append((count(len(found), "model"), f"{text}: {names}"))
    return rows


def _one(act: _Act) -> str:
    inner = "; ".join(t for t in (_without_name(act), act.tail) if t)
    return " ".join(t for t in (act.verb, act.reasons, f"({inner})" if inner else "") if t)


def _without_name(act: _Act) -> str:
    return act.text.removeprefix(f"{act.model}: ") if act.verb == "held" else act.text


def _collapsed(acts: Sequence[_Act]) -> list[str]:
    """One part for every verb with its reasons: "2 retrain PARAMS (max_iter 60 → 120; same × 2, one shown)"."""
    same: dict[tuple[str, str], list[_Act]] = {}
    for act in acts:
        same.setdefault((act.verb, act.reasons), []).append(act)
    parts = []
    for (verb, reasons), found in same.items():
        inner = _inner(found)
        parts.append(" ".join(t for t in (str(len(found)), verb, reasons, f"({inner})" if inner else "") if t))
    return parts


def _inner(acts: Sequence[_Act]) -> str:
    texts = Counter(a.text for a in acts if a.text)
    shown = texts.most_common(2)
    bare = Counter(_without_name(a) for a in acts)
    if acts[0].verb == "held" and len(acts) > 1 and len(bare) == 1:
        words = [f"{next(iter(bare))}; same × {len(acts)}, one shown"]
    elif acts[0].verb in ("held", "rename"):
        more = [f"{len(acts) - 3} more: --all"] if len(acts) > 3 else []
        words = [*(a.text for a in acts[:3]), *more]
    elif len(texts) == 1 and shown[0][1] > 1:
        words = [shown[0][0]] if acts[0].verb == "re-gate" else [f"{shown[0][0]}; same × {shown[0][1]}, one shown"]
    else:
        told = [text + (f" × {n}" if n > 1 else "") for text, n in shown]
        words = [" | ".join(told)] if told else []
        if len(texts) > len(shown):
            words.append(f"and {len(texts) - len(shown)} more: --all")
    tails = Counter(a.tail for a in acts if a.tail)
    words += [t for t, _ in tails.most_common(2)]
    if len(tails) > 2:
        words[-1] += " …"
    return "; ".join(words)


def _endpoints(plan: Plan) -> Rows:
    return [(f"endpoint {s.endpoint}", f"{s.change} ({s.text})") for s in plan.steps if isinstance(s, Route)]


def _settings(plan: Plan) -> Rows:
    rows: Rows = []
    for step in plan.steps:
        if isinstance(step, Configure):
            told = ", ".join(f"{w.reason} ({w.text})" if w.text else w.reason for w in step.why)
            of = f" of {listed(step.models, 3)}" if step.models else ""
            rows.append(("settings", f"{told}{of}; builds nothing"))
    return rows


# ── what hangs together ─────────────────────────────────────────────────────────────────────────────────────


def _tree(plan: Plan) -> list[str]:
    """The touched part of the graph, families as one: who reads whom among what is built or tested again."""
    touched = {s.model: s.family for s in plan.steps if isinstance(s, Build | Regate)}
    sizes = Counter(_label(m, f) for m, f in touched.items())
    edges: dict[str, dict[str, None]] = {}
    below: set[str] = set()
    for model, family in touched.items():
        spec = plan.specs.get(model)
        for need in spec.needs if spec else ():
            if need.model not in touched:
                continue
            up, down = _label(need.model, touched[need.model]), _label(model, family)
            if up != down:
                edges.setdefault(up, {})[down] = None
                below.add(down)
    lines: list[str] = []
    roots = [label for label in edges if label not in below]
    for root in roots:
        lines += _branch(root, edges, sizes, ("  ", "  "), frozenset())
    return ["What reads what:", *lines] if lines else []


def _branch(
    label: str,
    edges: Mapping[str, Mapping[str, None]],
    sizes: Mapping[str, int],
    indents: tuple[str, str],
    path: frozenset[str],
) -> list[str]:
    """A node and what reads it; `indents` stand before its own line and before those below it."""
    number = f" ({sizes[label]})" if sizes[label] > 1 or "*" in label else ""
    lines = [f"{indents[0]}{label}{number}"]
    children = [child for child in edges.get(label, {}) if child not in path]
    for child in children:
        last = child is children[-1]
        below = (indents[1] + ("└─ " if last else "├─ "), indents[1] + ("   " if last else "│  "))
        lines += _branch(child, edges, sizes, below, path | {label})
    return lines


def _label(model: str, family: str | None) -> str:
    return family_name(family) if family else model


# ── around ──────────────────────────────────────────────────────────────────────────────────────────────────


def _around(plan: Plan, every: bool) -> list[str]:
    lines = _waiting([w for w in plan.waiting if not w.lapsed], every)
    lapsed = [w for w in plan.waiting if w.lapsed]
    if lapsed:
        told = listed([f"{w.model} ({w.rows:,} of {w.min_rows:,} rows)" for w in lapsed], len(lapsed) if every else 3)
        lines.append(f"lapsed, kept live: {told}")
    taken = {s.model for s in plan.steps if isinstance(s, Build) and any(w.reason == "DATA" for w in s.why)}
    newer = [m for m in plan.newer_data if m not in taken]
    if newer:
        names = f" ({listed(newer, len(newer))})" if every else ""
        lines.append(f"newer data: {count(len(newer), 'model')}{names}; not in this plan: --refresh-data")
    if plan.retries:
        lines.append(f"tried again: {count(len(plan.retries), 'held change')}")
    lines += [f"note: {note}" for note in plan.notes]
    return lines


def _waiting(waiting: Sequence[Waiting], every: bool) -> list[str]:
    if not waiting:
        return []
    near = sorted(waiting, key=lambda w: (-w.rows / max(1, w.min_rows), w.model))
    told = listed([f"{w.model} {w.rows:,} of {w.min_rows:,}" for w in near], len(near) if every else 2)
    who = f"{count(len(waiting), 'member')} with too few rows" if len(waiting) > 1 else "too few rows"
    return [f"waiting: {who} ({told}); a fallback answers for them where an endpoint has one"]


# ── summary ─────────────────────────────────────────────────────────────────────────────────────────────────


def _summary(plan: Plan) -> str:
    if plan.empty:
        held = f" Stage {plan.stage} is as the portfolio file says."
        if plan.held:
            to = f" --to {plan.stage}" if plan.stage != "prod" else ""
            asking = [h.model for h in plan.held if h.cause == "approval" and h.detail.startswith("by ")]
            others = [h for h in plan.held if h.cause != "approval"]
            held = f" {len(plan.held)} held; `retinue unhold {_unheld(others)} --reason TEXT{to}` tries again."
            if asking and all(h.cause == "upstream" for h in others):
                names = " ".join(asking[:3])
                held = f" {len(plan.held)} held; `retinue approve {names} --reason TEXT{to}` lets it land."
        return f"No changes.{held}"
    builds = [s for s in plan.steps if isinstance(s, Build)]
    trained = [s for s in builds if s.reuse is None]
    gone = [s.model for s in plan.steps if isinstance(s, Remove)]
    blocked = {m for d in plan.blocked for m in d.models} & set(gone)
    parts = [
        f"{sum(1 for s in builds if s.live is None)} add",
        f"{sum(1 for s in trained if s.live is not None)} retrain",
    ]
    parts += _counted(
        {
            "switch": sum(1 for s in builds if s.live is not None and s.reuse is not None),
            "re-gate": sum(1 for s in plan.steps if isinstance(s, Regate)),
            "rename": sum(1 for s in plan.steps if isinstance(s, Rename)),
        }
    )
    if gone:
        parts.append(f"{len(gone)} remove" + (" (blocked)" if blocked else ""))
    endpoints = sum(1 for s in plan.steps if isinstance(s, Route))
    parts += [count(endpoints, "endpoint")] if endpoints else []
    parts += ["settings"] if any(isinstance(s, Configure) for s in plan.steps) else []
    parts += _counted({"held": len(plan.held)})
    time = f" About {about(plan.forecast)}." if plan.forecast is not None and trained else ""
    end = f" Blocked: {count(len(plan.blocked), 'danger')} to be named first." if plan.blocked else ""
    return f"Plan: {', '.join(parts)}.{time}{end}"


def _unheld(held: Sequence[Held], limit: int = 3) -> str:
    """Selectors, quoted for a shell, of the models with a hold of their own: ending that of one frees the rest.

    Of what one rollback took back, a model without a family stands for what reads it, which went back with it.
    """
    own = [h for h in held if h.cause != "upstream"]
    if not own:
        return "MODEL"
    roots = [h for h in own if h.family is None]
    acts = {h.release for h in roots if h.release is not None}
    rest = [h for h in own if h.family is not None and h.release not in acts]
    more = len(held) > len(roots)
    words = [f"'{h.model}+'" if more else h.model for h in roots[:limit]]
    families = {h.family: [r.model for r in rest if r.family == h.family] for h in rest}
    for family, models in families.items():
        words += models if len(models) <= limit or family is None else [f"family:{family_label(family)}"]
    return " ".join(words)


def _counted(numbers: Mapping[str, int]) -> list[str]:
    return [f"{number} {word}" for word, number in numbers.items() if number]
