"""What gc found and what doctor says, in words. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retinue.cli.words import count, size, table

if TYPE_CHECKING:
    from retinue.control.gc import Garbage, Item
    from retinue.processes.doctor import Finding

Json = Any
_SHOWN = 10


def render_garbage(found: Garbage, removed: int | None) -> str:
    """By kind: how many, how large, the largest of them; then the sum and the next step."""
    if not found.items:
        return f"Nothing to remove; {count(found.kept_versions, 'version')} kept.\n"
    lines = []
    kinds: dict[str, list[Item]] = {}
    for item in found.items:
        kinds.setdefault(item.kind, []).append(item)
    for kind, items in kinds.items():
        lines.append(f"{count(len(items), kind)}: {size(sum(item.bytes for item in items))}")
        largest = sorted(items, key=lambda item: -item.bytes)[:_SHOWN]
        lines += table([(i.name if len(i.name) < 60 else f"…{i.name[-58:]}", size(i.bytes)) for i in largest])
        if len(items) > _SHOWN:
            lines.append(f"  and {len(items) - _SHOWN:,} more")
    if removed is None:
        lines.append(f"{size(found.bytes)} would go: `retinue gc --yes` removes it.")
    else:
        lines.append(f"Removed {size(removed)}; {count(found.kept_versions, 'version')} kept.")
    return "\n".join(lines) + "\n"


def garbage_json(found: Garbage, removed: int | None) -> Json:
    """The same facts for programs."""
    items = [{"kind": i.kind, "name": i.name, "bytes": i.bytes, "path": i.path or None} for i in found.items]
    return {"bytes": found.bytes, "removed": removed, "kept_versions": found.kept_versions, "items": items}


def render_findings(found: Sequence[Finding]) -> str:
    """One line a check; under what is not well the next step."""
    lines = []
    width = max(len(f.check) for f in found)
    for finding in found:
        lines.append(f"{finding.level:<4}  {finding.check:<{width}}  {finding.text}")
        if finding.next:
            lines.append(f"{'':<6}{'':<{width}}  → {finding.next}")
    bad, doubtful = (sum(f.level == level for f in found) for level in ("fail", "warn"))
    lines.append(f"{count(len(found), 'check')}: {bad} failed, {count(doubtful, 'warning')}.")
    return "\n".join(lines) + "\n"
