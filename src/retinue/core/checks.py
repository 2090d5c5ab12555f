"""Data checks: what must hold of a table before models are trained on it. Not part of any definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Json = Any
Kind = Literal["rows_vs_last", "fresh", "unique", "not_null", "range", "accepted", "min_rows", "sql", "dbt"]
ONLY_NEW: frozenset[Kind] = frozenset({"rows_vs_last", "fresh"})
"""What is asked of newer data only: a snapshot that was accepted once is neither stale nor shrunk later."""


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """One check of a table. `threshold` is a share (rows_vs_last), seconds (fresh) or rows (min_rows)."""

    kind: Kind
    columns: tuple[str, ...] = ()
    threshold: float | None = None
    low: float | str | None = None
    high: float | str | None = None
    values: tuple[str, ...] = ()
    name: str = ""  # of an `sql` check
    sql: str | None = None

    @property
    def label(self) -> str:
        """How the check is named to people: `unique(order_id)`."""
        inside = self.name or ", ".join(self.columns)
        return f"{self.kind}({inside})" if inside else self.kind


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found: `estimate` beside `threshold`, of `rows` rows; `passed` None: nothing to compare with."""

    table: str
    check: str
    passed: bool | None
    estimate: float | None = None
    threshold: float | None = None
    rows: int = 0
    text: str = ""

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "table": self.table,
            "check": self.check,
            "passed": self.passed,
            "estimate": self.estimate,
            "threshold": self.threshold,
            "rows": self.rows,
            "text": self.text,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Json]) -> CheckResult:
        """From what `to_json` gave."""
        return cls(**{name: body[name] for name in cls.__slots__ if name in body})


def describe_check(result: CheckResult) -> str:
    """A check in words: `data orders unique(id): FAIL, 3 of 1,000 rows: …`."""
    word = {True: "pass", False: "FAIL", None: "not judged"}[result.passed]
    numbers = ""
    if result.estimate is not None and result.threshold is not None:
        numbers = f", {result.estimate:,.6g} against {result.threshold:,.6g}"
    text = f": {result.text}" if result.text else ""
    return f"data {result.table} {result.check}: {word}{numbers} ({result.rows:,} rows){text}"
