"""How numbers, times, names and lists are put into words; used by every renderer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, tzinfo


def family_name(template: str) -> str:
    """A family as people see it: placeholders become one star.

    >>> family_name("late-{origin}-{carrier}"), family_name("{a}-x-{b}")
    ('late-*', '*-x-*')
    """
    return re.sub(r"\*(?:[-._~]?\*)+", "*", re.sub(r"\{[^{}]*\}", "*", template))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "model"), count(1200, "model"), count(2, "family", "families")
    ('1 model', '1,200 models', '2 families')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Collection[str], limit: int = 5) -> str:
    """Names with commas; beyond `limit` only their number.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = list(names)[:limit]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def about(seconds: float) -> str:
    """A forecast, no more exact than it is.

    >>> about(0.4), about(38), about(260), about(7300)
    ('1 s', '40 s', '4 min', '2.0 h')
    """
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 100:
        return f"{round(seconds / 5) * 5} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def took(seconds: float) -> str:
    """A measured time.

    >>> took(0.32), took(12.34), took(75)
    ('0.3 s', '12.3 s', '1 min 15 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(number: float) -> str:
    """Bytes for people.

    >>> size(900), size(20_000_000)
    ('900 B', '20.0 MB')
    """
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def moment(text: str, zone: tzinfo | None = None) -> str:
    """A recorded UTC moment in local time (or `zone`), with the zone's name and its offset from UTC.

    >>> moment("2026-01-31T12:00:00.000000Z", UTC)
    '2026-01-31 12:00:00 UTC'
    """
    local = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(zone)
    name, offset = local.strftime("%Z"), local.strftime("%z")
    offset = f"UTC{offset[:3]}:{offset[3:5]}"
    if name in ("UTC", "GMT") and offset == "UTC+00:00":
        return local.strftime("%Y-%m-%d %H:%M:%S UTC")
    named = f"{name} ({offset})" if name and name[0] not in "+-" and not name.startswith("UTC") else offset
    return f"{local.strftime('%Y-%m-%d %H:%M:%S')} {named}"


def utc(text: str) -> str:
    """What a person wrote for a moment (local unless it names an offset or Z) as a recorded UTC moment.

    Raises ValueError for text that is no ISO moment.
    """
    found = datetime.fromisoformat(text.strip().removesuffix(" UTC") + ("+00:00" if text.endswith(" UTC") else ""))
    return found.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def table(rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows as aligned columns, three spaces apart; the last column is left as it is."""
    cells = [list(row) for row in rows]
    if not cells:
        return []
    columns = max(len(row) for row in cells)
    widths = [max((len(row[i]) for row in cells if i < len(row) - 1), default=0) for i in range(columns)]
    lines = []
    for row in cells:
        parts = [cell.ljust(widths[i]) if i < len(row) - 1 else cell for i, cell in enumerate(row)]
        lines.append((indent + "   ".join(parts)).rstrip())
    return lines
