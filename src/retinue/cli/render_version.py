"""Versions in words: show, why, diff. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import tzinfo
from typing import Any

from retinue.cli.render_outcome import gate_lines
from retinue.cli.render_state import hold_rows, render_changes
from retinue.cli.words import family_name, listed, moment, size, table, took
from retinue.control.telling import ReleaseDifference, Story, Told, VersionDifference
from retinue.core.identity import short
from retinue.core.plan import Why
from retinue.core.state import BUILD_SECONDS, Evidence

Json = Any
Rows = list[tuple[str, ...]]
REASON = 160  # characters of why a model is not compiled; -o json has all of it


def render_version(told: Told, zone: tzinfo | None = None) -> str:
    """`retinue show`: identity, artifact, data, gates."""
    version = told.version
    lines = [f"{version.model}@{short(version.id)}{'   live' if told.live else ''}"]
    lines += table([*_identity(told, zone), *_artifact(version.manifest), *_data(told)])
    newest = told.evidence[0] if told.evidence else None
    lines += _gates(newest, zone)
    if len(told.evidence) > 1:
        lines.append(f"  the newest of {len(told.evidence):,} tests of this version; -o json has all")
    return "\n".join(lines) + "\n"


def render_story(story: Story, zone: tzinfo | None = None) -> str:
    """`retinue why`: the release and change that made it live, its evidence, what it reads and who reads it."""
    version, release = story.told.version, story.release
    lines = [
        f"{version.model} is at {short(version.id)} in release {release.number} of stage {release.stage}, because:"
    ]
    landed = story.landed
    if landed is not None:
        why = f": {landed.why}" if landed.why else ""
        when = moment(landed.created, zone)
        lines.append(f"  release {landed.release} brought it at {when}: {landed.cause} by {landed.who}{why}")
        lines += [f"  it replaced {short(landed.old)}" if landed.old else "  it is the model's first in this stage"]
    if story.before is not None:
        same = "the definition is the same: other data, other upstreams, or a rebuild"
        lines += [f"  what changed: {text}" for text in _changes(story.changes)] or [f"  what changed: {same}"]
    lines += _gates(story.evidence, zone)
    lines += _around(story, zone)
    lines += ["built from:", *table([*_identity(story.told, zone), *_data(story.told)])]
    return "\n".join(lines) + "\n"


def render_version_difference(found: VersionDifference, zone: tzinfo | None = None) -> str:
    """`retinue diff MODEL@A MODEL@B`."""
    old, new = found.old.version, found.new.version
    lines = [f"{old.model}: {short(old.id)} → {short(new.id)}"]
    lines += table([("built", moment(old.created, zone), "→", moment(new.created, zone))])
    if old.definition == new.definition:
        lines.append("  the same definition")
    lines += [f"  {text}" for text in _changes(found.changes)]
    lines += table([(what, _short_value(a), "→", _short_value(b)) for what, a, b in found.data])
    a, b = (_numbers(told.evidence[0] if told.evidence else None) for told in (found.old, found.new))
    lines += table([(f"gate {g}", a.get(g, "–"), "→", b.get(g, "–")) for g in sorted({*a, *b}) if a.get(g) != b.get(g)])
    return "\n".join(lines) + "\n"


def render_release_difference(found: ReleaseDifference, zone: tzinfo | None = None) -> str:
    """`retinue diff 3 5`."""
    old, new = found.old, found.new
    first, second = moment(old.created, zone), moment(new.created, zone)
    lines = [f"stage {new.stage}: release {old.number} ({first}) → {new.number} ({second})"]
    rows: Rows = []
    for name, (one, two) in found.endpoints.items():
        sign = "+" if one is None else "-" if two is None else "~"
        rows.append((sign, f"endpoint {name}", f"{_route(one)} → {_route(two)}"))
    models = [f"  {line}" for line in render_changes(found.models, limit=1000)]
    return "\n".join([*lines, *([*models, *table(rows)] or ["  the same content"])]) + "\n"


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _identity(told: Told, zone: tzinfo | None) -> Rows:
    version = told.version
    body = told.definition.body if told.definition else {}
    rows: Rows = [("built", moment(version.created, zone) + _seconds(told.evidence))]
    family = version.manifest.get("family")
    if family:
        key = ", ".join(f"{k}={v}" for k, v in version.manifest.get("key", ()))
        rows.append(("family", f"{family_name(family)} ({key})"))
    brought = body.get("artifact")
    if brought:
        text = f"{brought['format']}, sha256 {short(brought['digest'])}; what it was trained on is not attested"
        rows.append(("from outside", text))
        rows += _published(told, zone)
    elif body:
        rows.append(("trained by", f"{body['train']} ({', '.join(sorted(body['code']))})"))
        if body["params"]:
            rows.append(("params", ", ".join(f"{k} {_short_value(v)}" for k, v in sorted(body["params"].items()))))
    environment = version.manifest.get("environment")
    if environment:
        rows.append(("environment", short(environment)))
    sibling = f", sibling {version.sibling}" if version.sibling else ""
    rows.append(("definition", f"{short(version.definition)}, snapshot {short(version.snapshot)}{sibling}"))
    return rows


def _published(told: Told, zone: tzinfo | None) -> Rows:
    made = told.published
    if made is None:
        return []
    rows: Rows = [("published", f"{moment(made.created, zone)} by {made.who}" + (f": {made.why}" if made.why else ""))]
    if made.claimed:
        rows.append(("claimed", ", ".join(f"{key} {value}" for key, value in sorted(made.claimed.items()))))
    return rows


def _seconds(evidence: Iterable[Evidence]) -> str:
    for row in evidence:
        for result in row.results:
            if result.get("gate") == BUILD_SECONDS and result.get("estimate") is not None:
                return f", in {took(float(result['estimate']))}"
    return ""


def _artifact(manifest: Mapping[str, Json]) -> Rows:
    artifact = manifest.get("artifact")
    if not artifact:
        return []
    text = f"{artifact['format']}, {size(artifact['size'])}, sha256 {short(artifact['digest'])}"
    reason = (manifest.get("compiled") or {}).get("reason")
    rows: Rows = [("artifact", text)]
    if reason:
        line = " ".join(str(reason).split())
        rows.append(("not compiled", line if len(line) <= REASON else line[: REASON - 1] + "…"))
    signature = artifact.get("signature") or {}
    if signature.get("inputs"):
        rows.append(("inputs", ", ".join(f"{f['name']} {f['dtype']}" for f in signature["inputs"])))
    if signature.get("outputs"):
        rows.append(("outputs", ", ".join(f"{f['name']} {f['dtype']}{_wide(f)}" for f in signature["outputs"])))
    return rows


def _data(told: Told) -> Rows:
    rows: Rows = []
    counts = told.version.manifest.get("rows")
    if counts:
        rows.append(("rows", f"{counts['train']:,} to train on, {counts['holdout']:,} held out"))
    body = told.snapshot.body if told.snapshot else {}
    if body.get("cutoff"):
        rows.append(("cutoff", f"{body['cutoff']} (data time)"))
    until = {table_: moment_ for table_, moment_ in (body.get("sources") or {}).items() if moment_}
    if until:
        rows.append(("data until", ", ".join(f"{name} {_short_value(value)}" for name, value in sorted(until.items()))))
    if body.get("upstreams"):
        ups = ", ".join(f"{m}@{short(v)}" for m, v in sorted(body["upstreams"].items()))
        rows.append(("built beside", ups))
    return rows


def _around(story: Story, zone: tzinfo | None) -> list[str]:
    lines = []
    if story.upstreams:
        lines.append("reads: " + ", ".join(f"{m}@{short(v)}" for m, v in story.upstreams.items()))
    if story.consumers:
        lines.append(f"read by: {listed(story.consumers)}")
    if story.holds:
        lines += ["held versions of it:", *hold_rows(story.holds, zone)]
    return lines


def _gates(evidence: Evidence | None, zone: tzinfo | None) -> list[str]:
    if evidence is None:
        return ["gates: no evidence beside what it reads today"]
    named = ", ".join(f"{m}@{short(v)}" for m, v in sorted(evidence.upstreams.items()))
    beside = f", beside {named}" if named else ""
    against = f", against {short(evidence.champion)}" if evidence.champion else ""
    head = f"gates: {evidence.verdict} at {moment(evidence.created, zone)}{against}{beside}"
    return [head, *(f"  {line}" for line in gate_lines(evidence.results))]


def _numbers(evidence: Evidence | None) -> dict[str, str]:
    found = {}
    for row in evidence.results if evidence else ():
        if row.get("estimate") is not None and not str(row["gate"]).endswith(".seconds"):
            found[str(row["gate"])] = f"{row['estimate']:.4g} {row['verdict']}"
    return found


def _changes(changes: Iterable[Why]) -> list[str]:
    return [f"{w.reason}" + (f" ({w.text})" if w.text else "") for w in changes]


def _wide(output: Mapping[str, Json]) -> str:
    width = output.get("width") or 1
    return f"[{width}]" if width > 1 else ""


def _route(body: Mapping[str, Json] | None) -> str:
    if body is None:
        return "–"
    return str(body["select"]) + (f", else {body['fallback']}" if body.get("fallback") else "")


def _short_value(value: Json) -> str:
    if value is None:
        return "–"
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return short(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
