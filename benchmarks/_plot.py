"""Plots as plain SVG, written by hand: bars with whiskers and pairs of dots, on a logarithmic or linear axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

OURS, THEIRS, INK, FAINT, TARGET = "#2a9d8f", "#94a3b8", "#1e293b", "#e2e8f0", "#c2410c"
ROW, LEFT, TOP = 34, 190, 74


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its spread, and a tick where the target is."""

    label: str
    low: float
    value: float
    high: float
    text: str
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two dots on one line: ours and theirs."""

    label: str
    ours: float
    theirs: float


class Axis:
    """Where a value is, in pixels from the left."""

    def __init__(self, left: float, width: float, low: float, high: float, *, log: bool) -> None:
        self.left, self.width, self.low, self.high, self.log = left, width, low, high, log

    def at(self, value: float) -> float:
        """The place of a value; what is beyond an end is put at the end."""
        value = min(max(value, self.low), self.high)
        if not self.log:
            return self.left + self.width * (value - self.low) / (self.high - self.low)
        return self.left + self.width * math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Powers of ten, or quarters."""
        if not self.log:
            return [self.low + (self.high - self.low) * quarter / 4 for quarter in range(5)]
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


def page(width: int, rows: int, title: str, subtitle: str, parts: Sequence[str]) -> str:
    """The whole file."""
    height = TOP + rows * ROW + 54
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            text(16, 26, title, size=17, weight="600"),
            text(16, 46, subtitle, fill="#64748b", size=12),
            *parts,
            "</svg>",
            "",
        ]
    )


def text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = INK, size: int = 13, weight: str = "400"
) -> str:
    """Some words."""
    style = f'text-anchor="{anchor}" fill="{fill}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    """A straight line."""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def labels(names: Sequence[str]) -> list[str]:
    """The names of the rows."""
    return [text(LEFT - 12, TOP + ROW * i + ROW / 2 + 4, name, anchor="end") for i, name in enumerate(names)]


def grid(axis: Axis, rows: int, unit: str, name: str) -> list[str]:
    """Lines at the ticks, their values below, the axis's name under them."""
    bottom = TOP + ROW * rows
    parts = []
    for tick in axis.ticks():
        x = axis.at(tick)
        parts.append(line(x, TOP, x, bottom, FAINT))
        parts.append(text(x, bottom + 17, f"{tick:,g}{unit}", anchor="middle", fill="#64748b", size=11))
    return [*parts, text(axis.left + axis.width / 2, bottom + 38, name, anchor="middle", fill="#475569", size=12)]


def bars(axis: Axis, values: Sequence[Bar]) -> list[str]:
    """Bars from the axis's low end, whiskers from lowest to highest, the value in words at the right."""
    parts = []
    for i, bar in enumerate(values):
        y = TOP + ROW * i
        middle = y + ROW / 2
        end, low, high = axis.at(bar.value), axis.at(bar.low), axis.at(bar.high)
        parts.append(
            f'<rect x="{axis.left:.1f}" y="{y + 8}" width="{max(end - axis.left, 1):.1f}" height="{ROW - 16}" '
            f'rx="3" fill="{OURS}"/>'
        )
        parts.append(line(low, middle, high, middle, INK, 1.5))
        for x in (low, high):
            parts.append(line(x, middle - 4, x, middle + 4, INK, 1.5))
        right = max(end, high)
        if bar.target is not None:
            x = axis.at(bar.target)
            parts.append(line(x, y + 3, x, y + ROW - 3, TARGET, 2.5))
            if x > right - 2 and x < right + 70:
                right = x
        parts.append(text(right + 8, middle + 4, bar.text, weight="600"))
    return parts


def pairs(axis: Axis, values: Sequence[Pair]) -> list[str]:
    """Two dots and the line between them, their values beside them."""
    parts = []
    for i, pair in enumerate(values):
        y = TOP + ROW * i + ROW / 2
        ours, theirs = axis.at(pair.ours), axis.at(pair.theirs)
        parts.append(line(ours, y, theirs, y, "#cbd5e1", 3))
        left_is_ours = pair.ours <= pair.theirs
        for x, value, colour, left in (
            (theirs, pair.theirs, THEIRS, not left_is_ours),
            (ours, pair.ours, OURS, left_is_ours),
        ):
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="5.5" fill="{colour}"/>')
            words = f"{value:.1f}" if value < 100 else f"{value:,.0f}"
            parts.append(
                text(
                    x + (-10 if left else 10), y + 4, words, anchor="end" if left else "start", size=11, fill="#475569"
                )
            )
    return parts
