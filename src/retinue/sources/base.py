"""What a catalog is asked and what it answers: keys, questions, facts, pins. Values only.

Data moments are naive text as DuckDB prints a TIMESTAMP (`2013-04-30 23:59:00`, fraction only if there is
one): they sort as text, and zoned input is taken to UTC first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Any
ColumnType = Literal["BOOL", "INT64", "FP64", "BYTES", "TIMESTAMP", "UNSUPPORTED"]
"""A wire type, a moment, or something nested or binary that is refused only when it is used."""

Filters = tuple[tuple[str, str], ...]
"""Equality filters (column, value): rows where the column's text is the value."""


@dataclass(frozen=True, slots=True)
class KeyRows:
    """One distinct key of a table, as text, and how many rows carry it."""

    values: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Question:
    """Ask for the facts of `columns` of those rows of `table` that pass `filters`."""

    table: str
    filters: Filters = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """How many rows, the moment of the newest one (None without time), and a digest of their content."""

    rows: int
    until: str | None
    fingerprint: str

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return {"rows": self.rows, "until": self.until, "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, body: Mapping[str, Json]) -> Facts:
        """From what `to_json` gave."""
        return cls(int(body["rows"]), body["until"], str(body["fingerprint"]))


@dataclass(frozen=True, slots=True)
class Pin:
    """Per base table the newest moment that counts (None: the table has no time). Later rows do not exist.

    A table that is not named is not bounded, so `Pin()` means everything there is.
    """

    until: Mapping[str, str | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, str | None]:
        """As JSON, sorted by table."""
        return dict(sorted(self.until.items()))

    @classmethod
    def from_json(cls, body: Mapping[str, str | None]) -> Pin:
        """From what `to_json` gave."""
        return cls(dict(body))

    def filled(self, other: Pin) -> Pin:
        """This pin with the tables that only `other` names added."""
        return Pin({**other.until, **self.until})
