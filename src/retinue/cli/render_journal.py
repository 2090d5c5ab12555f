"""The journal as text: answers of a query as a table or CSV, and how the journal stands."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinue.store.journal_days import State

Json = Any
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
WIDEST = 80  # characters of one cell


def plain(value: object) -> Json:
    """A value of a query as JSON: moments as text, numbers that JSON has not as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return float(value)
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple() | set():
            return [plain(item) for item in value]
        case datetime() | date() | timedelta():
            return str(value)
    return str(value)


def render_rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table for people: numbers to the right, text to the left, the count below."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[index]) for row in cells)]) for index, name in enumerate(columns)]
    numeric = [all(map(_is_number, column)) for column in (zip(*rows, strict=True) if rows else [()] * len(columns))]
    lines = [_line(columns, widths, numeric), _line(["-" * width for width in widths], widths, numeric)]
    lines += [_line(row, widths, numeric) for row in cells]
    return "\n".join([*lines, f"({len(rows)} {'row' if len(rows) == 1 else 'rows'})"])


def render_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The rows as CSV with a line of names; missing is empty."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_text(value) for value in row] for row in rows)
    return sink.getvalue()


def render_journal(state: State, folder: str, gateways: Sequence[Mapping[str, Json]] | None) -> str:
    """How a stage's journal stands: on disk, and in the gateways that run (None: no server runs)."""
    waiting = f"{state.closed} closed" + (f" (the oldest {state.lag:.0f} s old)" if state.closed else "")
    span = f"{state.days} days, {state.first} to {state.last}" if state.days > 1 else f"1 day, {state.first}"
    lines = [
        f"Journal: {folder}",
        f"segments:  {state.open} open, {waiting}, {size_text(state.segment_bytes)}",
        f"compacted: {span}, {state.requests:,} requests, {state.rows:,} rows, {size_text(state.bytes)}"
        if state.days
        else "compacted: nothing yet",
        f"disk:      {size_text(state.free)} free",
    ]
    if state.damaged:
        lines.append(
            f"warning: {state.damaged} damaged segments (*.damaged) could be read in part only and are kept aside"
        )
    if gateways is None:
        return "\n".join([*lines, "gateways:  no server runs"])
    lost = sum(int(gateway.get("unjournalled", 0)) for gateway in gateways)
    written = sum(int(gateway.get("records", 0)) for gateway in gateways)
    lines.append(f"gateways:  {written:,} answers journalled, {lost:,} left unjournalled")
    for reason in sorted({str(g["stopped"]) for g in gateways if g.get("stopped")}):
        lines.append(f"DANGER: journalling has stopped: {reason}; serving goes on, answers are not recorded")
    return "\n".join(lines)


def size_text(size: float) -> str:
    """Bytes as people read them.

    >>> size_text(512), size_text(5 * 1024**2)
    ('512 bytes', '5.0 MiB')
    """
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _text(value).replace("\n", " ")
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool))


def _text(value: object) -> str:
    """A value as one text: structs and lists as JSON, missing as nothing."""
    if value is None:
        return ""
    found = plain(value)
    return json.dumps(found, ensure_ascii=False) if isinstance(found, dict | list | bool) else str(found)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    placed = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    )
    return "  ".join(placed).rstrip()
