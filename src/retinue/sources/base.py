"""What a catalog is asked and what it answers: keys, questions, facts, pins, and the port itself.

Data moments are naive text as DuckDB prints a TIMESTAMP (`2013-04-30 23:59:00`, fraction only if there is
one): they sort as text, and zoned input is taken to UTC first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from retinue.core.checks import CheckResult
from retinue.core.portfolio import CutoffSpec, TableSpec

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
    versions: Mapping[str, str] = field(default_factory=dict)  # of sources that have one: what was read

    def to_json(self) -> dict[str, str | None]:
        """As JSON, sorted by table; versions as `table@version`."""
        return dict(sorted({**self.until, **{f"{t}@version": v for t, v in self.versions.items()}}.items()))

    def json_of(self, tables: Collection[str]) -> dict[str, str | None]:
        """As JSON, for these base tables; one that is not pinned is None."""
        chosen = {t: v for t, v in self.versions.items() if t in tables}
        return Pin({t: self.until.get(t) for t in tables}, chosen).to_json()

    @classmethod
    def from_json(cls, body: Mapping[str, str | None]) -> Pin:
        """From what `to_json` gave."""
        versions = {n.removesuffix("@version"): v for n, v in body.items() if n.endswith("@version") and v is not None}
        return cls({n: v for n, v in body.items() if not n.endswith("@version")}, versions)

    def filled(self, other: Pin) -> Pin:
        """This pin with the tables that only `other` names added."""
        return Pin({**other.until, **self.until}, {**other.versions, **self.versions})


class Tables(Protocol):
    """What planning and building ask of a portfolio's tables; `catalog.Catalog` is the one that reads files."""

    def spec(self, table: str) -> TableSpec:
        """The declaration of a table. Raises DataError with what is near its name."""

    def columns(self, table: str) -> dict[str, ColumnType]:
        """The columns of a table with their types, in its own order."""

    def keys(self, table: str, columns: Sequence[str]) -> list[KeyRows]:
        """Distinct keys as text with their rows, sorted; rows with a missing key are skipped."""

    def pin(self, tables: Iterable[str]) -> Pin:
        """What a snapshot of these tables taken now is pinned to."""

    def facts(self, questions: Sequence[Question], pin: Pin) -> list[Facts]:
        """Rows, newest moment and content fingerprint for each question, in order."""

    def cutoff(self, spec: CutoffSpec, tables: Iterable[str], pin: Pin) -> str | None:
        """The moment from which rows are held out; None when no table has time."""

    def read(
        self,
        table: str,
        columns: Sequence[str],
        filters: Filters,
        pin: Pin,
        *,
        hide_from: str | None = None,
        since: str | None = None,
        before: str | None = None,
    ) -> Any:
        """A pyarrow.Table of the rows under the pin, ordered; with `hide_from`, as seen at that moment."""

    def check_lookahead(self, table: str, columns: Sequence[str], pin: Pin, cutoff: str) -> None:
        """Prove on the data that a view never looks ahead. Raises DataError naming view, column and a row."""

    def tables_under(self, table: str) -> tuple[str, ...]:
        """All tables and views that a table reads, itself too, sorted."""

    def base_tables(self, table: str) -> tuple[str, ...]:
        """The base tables under a table, sorted."""

    def keys_from(self, function: str, environment: str, code: str) -> list[list[str]]:
        """The keys of a family that a function gives, remembered by its code."""

    def stamps(self) -> str | None:
        """What all tables are known by without reading rows; None when one of them is not read from local files."""

    def notes(self) -> tuple[str, ...]:
        """What was noticed while asking: sources that could not be reached, files whose columns differ."""

    def check(self, table: str, pin: Pin, now: str, last_rows: int | None) -> list[CheckResult]:
        """The table's checks on the rows under a pin. `last_rows`: of the last accepted build, None without one."""
