"""Batch scoring in words: its progress, and what it came to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from retinue.scoring.job import Progress, ScoreOutcome

Json = Any
EVERY = 0.2  # seconds between two looks of the line on a terminal
SHOWN = 20  # models that are listed


@contextmanager
def watch(terminal: bool, say: Callable[[str], None]) -> Iterator[Callable[[Progress], None]]:
    """Who is told of the progress: one line that changes on a terminal, else a line when a tenth more is done."""
    began = time.monotonic()
    state = {"last": 0.0, "told": 0, "length": 0}

    def live(progress: Progress) -> None:
        now = time.monotonic()
        if now - state["last"] < EVERY and progress.rows < progress.total:
            return
        state["last"] = now
        text = progress_line(progress, now - began)
        padding = " " * max(0, int(state["length"]) - len(text))
        state["length"] = len(text)
        sys.stderr.write(f"\r{text}{padding}")
        sys.stderr.flush()

    def plain(progress: Progress) -> None:
        tenth = 10 * progress.rows // max(1, progress.total)
        if tenth > state["told"] and progress.rows < progress.total:
            state["told"] = tenth
            say(progress_line(progress, time.monotonic() - began))

    try:
        yield live if terminal else plain
    finally:
        if state["length"]:
            sys.stderr.write("\n")


def progress_line(progress: Progress, seconds: float) -> str:
    """One line: rows done, of how many, how fast, how long it may take.

    >>> progress_line(Progress(500_000, 1_000_000, 0, 0, 1), 1.0)
    '500,000 of 1,000,000 rows (50 %), 0 of 1 partitions, 500,000 rows/s, 1 s left'
    """
    speed = progress.rows / seconds if seconds > 0 else 0.0
    text = f"{progress.rows:,} of {progress.total:,} rows ({100 * progress.rows // max(1, progress.total)} %), "
    text += f"{progress.parts:,} of {progress.of_parts:,} partitions, {speed:,.0f} rows/s"
    if progress.errors:
        text += f", {progress.errors:,} with an error"
    if speed and progress.rows < progress.total:
        text += f", {(progress.total - progress.rows) / speed:,.0f} s left"
    return text


def render_outcome(found: ScoreOutcome) -> str:
    """What a run came to, for people."""
    partitions = "1 partition" if found.partitions == 1 else f"{found.partitions:,} partitions"
    lines = [f"{found.rows:,} rows in {partitions}: {found.output}"]
    if found.scored < found.rows:
        lines.append(f"{found.rows - found.scored:,} of them were there already")
    if found.scored:
        speed = found.scored / max(found.seconds, 1e-9)
        lines.append(f"{found.seconds:.1f} s, {speed:,.0f} rows/s; release {found.release}")
    largest = sorted(found.models, key=lambda entry: -entry[2])
    for model, version, rows, fallback in largest[:SHOWN]:
        lines.append(f"  {model}  {version[:12]}  {rows:,} rows{'  as fallback' if fallback else ''}")
    if len(largest) > SHOWN:
        lines.append(f"  … and {len(largest) - SHOWN} more models")
    if found.errors:
        rows_have = "1 row has" if found.errors == 1 else f"{found.errors:,} rows have"
        lines.append(f"warning: {rows_have} no answer; the column `error` says why:")
        lines += [f"  {count:,}×  {text}" for text, count in found.texts]
    return "\n".join(lines)


def outcome_json(found: ScoreOutcome) -> Json:
    """The same for programs."""
    body = asdict(found)
    names = ("model", "version", "rows", "fallback")
    body["models"] = [dict(zip(names, entry, strict=True)) for entry in found.models]
    body["texts"] = [{"error": text, "rows": count} for text, count in found.texts]
    return {**body, "by_fallback": found.by_fallback}
