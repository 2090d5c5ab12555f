"""Data checks of the tables that a model reads, judged once per apply and table before anything is trained on it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from retinue.core.checks import ONLY_NEW, CheckResult, describe_check
from retinue.core.errors import DataError
from retinue.core.portfolio import ModelSpec
from retinue.sources.base import Pin, Tables

Json = Any
ROWS = "rows"


class DataChecks:
    """Judges tables at one moment. `last` maps table → rows of the last accepted build. Thread-safe."""

    def __init__(self, tables: Tables, last: Mapping[str, int], now: str) -> None:
        self._tables, self._last, self._now = tables, last, now
        self._guard = threading.Lock()
        self._judged: dict[tuple[str, str], list[CheckResult]] = {}

    def require(self, spec: ModelSpec, pinned: Mapping[str, Json], before: Mapping[str, Json] | None) -> None:
        """Raise DataError if a check fails on what this model reads.

        `pinned` are the snapshot's sources, `before` those of the live version: rows that were accepted with it are
        not asked again whether they are fresh.
        """
        bad: list[CheckResult] = []
        for table in self._read(spec):
            bad += [r for r in self._results(table, pinned, pinned == before) if r.passed is False]
        if bad:
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise DataError(
                f"{spec.name}: not trained, {describe_check(bad[0])}{more}",
                where=self._tables.spec(bad[0].table).where,
                hint="Correct the data, or the check under `checks`; then run `retinue apply` again.",
            )

    @property
    def results(self) -> tuple[CheckResult, ...]:
        """Everything that was judged, by table."""
        return tuple(r for key in sorted(self._judged) for r in self._judged[key])

    def _read(self, spec: ModelSpec) -> list[str]:
        """The tables with checks among those that the model reads, directly or through views."""
        found: set[str] = set()
        for use in spec.data:
            found |= {use.table, *self._tables.tables_under(use.table)}
        return [t for t in sorted(found) if self._tables.spec(t).checks or self._tables.spec(t).dbt is not None]

    def _results(self, table: str, pinned: Mapping[str, Json], accepted: bool) -> list[CheckResult]:
        pin = Pin.from_json(pinned)
        key = (table, str(sorted((t, u) for t, u in pin.to_json().items())))
        with self._guard:
            if key not in self._judged:
                self._judged[key] = self._tables.check(table, pin, self._now, self._last.get(table))
            found = self._judged[key]
        if accepted:
            names = tuple(ONLY_NEW)
            return [replace(r, passed=None) if r.check in names else r for r in found]
        return found


def accepted_rows(summaries: list[Mapping[str, Json]]) -> dict[str, int]:
    """Table → rows of the newest apply in which all checks of the table passed; `summaries` are newest first."""
    found: dict[str, int] = {}
    for summary in summaries:
        by_table: dict[str, list[CheckResult]] = {}
        for body in summary.get("checks", ()):
            by_table.setdefault(body["table"], []).append(CheckResult.from_json(body))
        for table, results in by_table.items():
            counted = [r.rows for r in results if not r.check.startswith("dbt ")]
            if table not in found and counted and all(r.passed is not False for r in results):
                found[table] = max(counted)
    return found
