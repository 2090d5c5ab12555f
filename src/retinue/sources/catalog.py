"""The catalog: every question about a portfolio's tables and views, answered from files, remembered by their stamps.

A question about unchanged files imports neither DuckDB nor Arrow: the answer is found by the digest of the
files' stamps, the SQL texts and the question.
"""

from __future__ import annotations

import time as clock_
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retinue.core.checks import CheckResult
from retinue.core.errors import DataError
from retinue.core.identity import digest
from retinue.core.portfolio import CutoffSpec, TableSpec
from retinue.sources import queries
from retinue.sources.base import ColumnType, Facts, Filters, Json, KeyRows, Pin, Question
from retinue.sources.cache import AnswerCache
from retinue.sources.checks import judge
from retinue.sources.cutting import cutoff_of, moment
from retinue.sources.lookahead import prove_no_lookahead
from retinue.sources.members import Members
from retinue.sources.origins import Origins, is_local
from retinue.sources.session import Scope, Session
from retinue.sources.shapes import lacking, refuse_clash
from retinue.sources.tables import as_parquet, files_of, parquet_files, stamps_of
from retinue.sources.views import declared, mentioned, ordered, references

KEPT_GROUPS = 20_000
"""How many groups of one grouped scan are remembered; beyond it only those asked for are."""


class Catalog:
    """Answers about `tables` (from `Portfolio.tables`), whose paths start from `root`; `cache` may be deleted.

    Every method raises DataError, naming table and place, for missing or unreadable files, wrong SQL, and
    columns that are not there. `clock` gives seconds since the epoch and is asked only how old a file is.
    """

    def __init__(
        self,
        tables: Mapping[str, TableSpec],
        root: Path,
        cache: Path,
        *,
        origins: Origins | None = None,
        clock: Callable[[], float] = clock_.time,
    ) -> None:
        self.tables = tables
        self._root = root.absolute()
        self._cache = cache.absolute()
        self._answers = AnswerCache(self._cache)
        self._clock = clock
        self._members = Members()
        self._origins = origins or Origins(self._root, self._cache, {}, None)

    # -- recognising -----------------------------------------------------------------------------------------

    def stat_key(self, tables: Iterable[str], pin: Pin | None = None) -> str:
        """Digest of the files' stamps, SQL texts and declarations of these tables and all they may read.

        Imports neither DuckDB nor Arrow. A file changed in the last 2 s is also known by its content. A file
        that cannot be read counts as such; using it raises. A source elsewhere is known by its version: the pinned
        one while its files are kept, else the one it has now.
        """
        body: dict[str, Json] = {}
        now = self._clock()
        for name in mentioned(self.tables, tables):
            spec = self.tables[name]
            body[name] = [
                self._stamped(spec, now, pin),
                [spec.path, spec.sql, spec.format, spec.time, spec.key, spec.available],
            ]
        return digest(body)

    def _stamped(self, spec: TableSpec, now: float, pin: Pin | None) -> Json:
        if spec.is_view:
            return None
        if is_local(spec):
            stamps = stamps_of(spec, self._root, now)
            return [s.to_json() for s in stamps] if stamps is not None else None
        pinned = pin.versions.get(spec.name) if pin is not None else None
        if pinned is not None and self._origins.kept(spec, pinned):
            return ["version", pinned]
        return ["version", self._origins.version(spec), spec.code, *([pinned] if pinned is not None else [])]

    def stamps(self) -> str | None:
        """What all tables are known by without reading rows; None when one of them is not read from local files."""
        local = all(spec.is_view or is_local(spec) for spec in self.tables.values())
        return self.stat_key(self.tables) if local else None

    def columns(self, table: str) -> dict[str, ColumnType]:
        """The columns of a table in its own order; what is nested or binary is UNSUPPORTED until it is used."""

        def compute() -> Json:
            with self._session([table]) as session:
                return list(session.types(table).items())

        self.spec(table)
        return dict(self._answer("columns", [table], [table], compute))

    def spec(self, table: str) -> TableSpec:
        """The declaration of a table. Raises DataError with what is near its name."""
        return declared(self.tables, table)

    def tables_under(self, table: str) -> tuple[str, ...]:
        """All tables and views that a table reads, itself too, sorted."""
        return tuple(sorted(spec.name for spec in self._closure([table])))

    def base_tables(self, table: str) -> tuple[str, ...]:
        """The files-backed tables under a table, sorted. Raises DataError for wrong SQL and for a cycle of views."""
        return tuple(sorted(spec.name for spec in self._closure([table]) if not spec.is_view))

    # -- asking ----------------------------------------------------------------------------------------------

    def keys(self, table: str, columns: Sequence[str]) -> list[KeyRows]:
        """Distinct keys of a table as text with their rows, sorted; rows with a missing key are skipped."""

        def compute() -> Json:
            with self._session([table]) as session:
                session.need(table, columns)
                return [[list(r[:-1]), r[-1]] for r in session.rows(table, queries.keys(table, columns))]

        found = self._answer("keys", [table], [table, *columns], compute)
        return sorted((KeyRows(tuple(v), n) for v, n in found), key=lambda k: k.values)

    def pin(self, tables: Iterable[str]) -> Pin:
        """What a snapshot of these tables is pinned to: the newest moment of every base table under them.

        A view that gives a time to files without one is pinned itself.
        """
        names = sorted(set(tables))

        def compute() -> Json:
            until: dict[str, str | None] = {}
            closure = self._closure(names)
            with self._session(names) as session:
                for spec in closure:
                    if spec.time is not None and (not spec.is_view or self._gives_time(spec)):
                        until[spec.name] = session.rows(spec.name, queries.newest(spec.name, spec.time))[0][0]
                    elif not spec.is_view:
                        until[spec.name] = None
            return until

        until = dict(self._answer("pin", names, names, compute))
        elsewhere = [self.tables[t] for t in until if not self.tables[t].is_view and not is_local(self.tables[t])]
        return Pin(until, {spec.name: self._origins.version(spec) for spec in elsewhere})

    def facts(self, questions: Sequence[Question], pin: Pin) -> list[Facts]:
        """Rows, newest moment and content fingerprint for each question, in order.

        Questions with the same table, columns and filter columns share one grouped scan. The fingerprint
        depends on neither the order of rows nor that of columns, only on names, types and values.
        """
        groups: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[int]] = defaultdict(list)
        for i, q in enumerate(questions):
            names = tuple(sorted({c for c, _ in q.filters}))
            groups[q.table, tuple(sorted(set(q.columns))), names].append(i)
        answers: dict[int, Facts] = {}
        for (table, columns, names), members in groups.items():
            asked = {i: _group_key(questions[i].filters) for i in members}
            found = self._grouped(table, columns, names, frozenset(asked.values()), pin)
            answers.update((i, found[key]) for i, key in asked.items())
        return [answers[i] for i in range(len(questions))]

    def cutoff(self, spec: CutoffSpec, tables: Iterable[str], pin: Pin) -> str | None:
        """The moment from which rows are held out, over all rows of those of `tables` that have time.

        With a share: the latest actual moment such that at least that share of rows is at or after it. With a
        date: that date, if rows lie on both sides. None when no table has time. Raises DataError otherwise.
        """
        timed = [(t, s.time) for t in sorted(set(tables)) if (s := self.spec(t)).time is not None]
        if not timed:
            return None
        names = [t for t, _ in timed]

        def compute() -> Json:
            counts: dict[str, int] = defaultdict(int)
            with self._session(names, pin) as session:
                for table, time in timed:
                    for value, rows in session.rows(table, queries.moments(table, str(time))):
                        counts[value] += rows
            return cutoff_of(spec, counts, names)

        return str(self._answer("cutoff", names, [names, self._pinned(names, pin), spec.share, spec.at], compute, pin))

    # -- reading ---------------------------------------------------------------------------------------------

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
        """Rows as a pyarrow.Table with int64, double, bool, string and timestamp[us] columns, in a fixed order.

        `since` and `before` bound the table's own time: [since, before). `hide_from` = T answers as someone
        would have been answered at T: every base table loses its rows at or after T before any view runs, and
        cells declared available only after T are null. Rows are sorted by time, key, then the columns.
        """
        spec = self.spec(table)
        if spec.time is None and (since is not None or before is not None):
            raise DataError(
                f"table {table} has no time to be cut by", where=spec.where, hint="Add `time:` to its declaration."
            )
        names = list(dict.fromkeys(columns))
        hide_from, since, before = (moment(m) if m is not None else None for m in (hide_from, since, before))
        order = [c for c in dict.fromkeys([spec.time, spec.key, *names]) if c is not None]

        def read(some: Filters, members: Sequence[str], limit: int | None) -> Any:
            with self._session([table], pin, hide_from) as session:
                types = session.need(table, names)
                session.need(table, [column for column, _ in (*some, *filters)])
                sql, parameters = queries.read(
                    table, types, some, time=spec.time, window=(since, before), order=order, members=members
                )
                if limit is not None and session.rows(table, queries.count(sql), parameters)[0][0] > limit:
                    return None
                return session.arrow(table, sql, parameters)

        if not filters:
            return read((), (), None)
        question = digest([table, names, self.stat_key([table], pin), pin.to_json(), hide_from, since, before])
        return self._members.rows(question, filters, len(names), read)

    def check_lookahead(self, table: str, columns: Sequence[str], pin: Pin, cutoff: str) -> None:
        """Prove on the data that a view never looks ahead, for `columns` less those declared `available`.

        The view is evaluated as of several moments around the cutoff; rows before each must be the same as in
        the whole. Raises DataError naming view, column and an example row. A table of files passes.
        """
        spec = self.spec(table)
        if not spec.is_view or spec.time is None:
            return
        late = {column for column, _ in spec.available}
        names = sorted(set(columns) - late - {spec.time})

        def compute() -> Json:
            self._refuse_unprovable(spec)
            closure = self._closure([table])
            timed = [s for s in closure if s.time is not None and (not s.is_view or s.name == table)]
            prove_no_lookahead(spec, names, cutoff, timed, lambda hide_from: self._session([table], pin, hide_from))
            return True

        self._answer("lookahead", [table], [table, names, self._pinned([table], pin), cutoff], compute, pin)

    # -- telling ---------------------------------------------------------------------------------------------

    def keys_from(self, function: str, environment: str, code: str) -> list[list[str]]:
        """The keys of a family that a function gives, remembered by its code."""
        return self._origins.keys(function, environment, code)

    def notes(self) -> tuple[str, ...]:
        """Sources that could not be reached, and columns that some files of a table lack."""
        found = list(self._origins.notes)
        for spec in self.tables.values():
            if is_local(spec) and any(sign in (spec.path or "") for sign in "*?["):
                found += self._differences(spec)
        return tuple(dict.fromkeys(found))

    def _differences(self, spec: TableSpec) -> list[str]:
        def compute() -> Json:
            return lacking(spec, self._files(spec, Pin()), files_of(spec, self._root))

        try:
            return list(self._answer("shapes", [spec.name], [spec.name], compute))
        except DataError:
            return []  # told where the table is used

    def check(self, table: str, pin: Pin, now: str, last_rows: int | None) -> list[CheckResult]:
        """The table's checks on the rows under a pin, dbt's own first. `now` is UTC."""
        return judge(self.spec(table), self._dbt_checks(table), now, last_rows,
                     lambda more: self._session([table], pin, more=more))  # fmt: skip

    def _dbt_checks(self, table: str) -> list[CheckResult]:
        spec = self.spec(table)
        return self._origins.dbt_checks(spec) if spec.dbt is not None else []

    # -- inside ----------------------------------------------------------------------------------------------

    def _grouped(
        self, table: str, columns: tuple[str, ...], names: tuple[str, ...], asked: frozenset[str], pin: Pin
    ) -> dict[str, Facts]:
        """Facts by group key; a group that has no rows is answered as such."""
        base = [table, columns, names, self._pinned([table], pin)]
        found = self._answer("facts", [table], base, lambda: self._scan(table, columns, names, pin, None), pin)
        if not found["whole"]:
            few = [*base, sorted(asked)]
            found = self._answer("facts", [table], few, lambda: self._scan(table, columns, names, pin, asked), pin)
        empty = Facts.from_json(found["empty"])
        groups = found["groups"]
        return {key: Facts.from_json(groups[key]) if key in groups else empty for key in asked}

    def _scan(
        self, table: str, columns: tuple[str, ...], names: tuple[str, ...], pin: Pin, only: frozenset[str] | None
    ) -> Json:
        with self._session([table], pin) as session:
            types = session.need(table, columns)
            session.need(table, names)
            rows = session.rows(table, queries.facts(table, self.spec(table).time, names, types))
        groups: dict[str, Json] = {}
        for row in rows:
            key = _group_key(tuple(zip(names, row[: len(names)], strict=True)))
            if only is None or key in only:
                count, until, low, high = row[len(names) :]
                groups[key] = _facts(types, count, until, low, high).to_json()
        empty = _facts(types, 0, None, "0", "0").to_json()
        if only is None and len(groups) > KEPT_GROUPS:
            return {"whole": False, "groups": {}, "empty": empty}
        return {"whole": True, "groups": groups, "empty": empty}

    def _answer(
        self, kind: str, tables: Iterable[str], question: Json, compute: Callable[[], Json], pin: Pin | None = None
    ) -> Json:
        """The remembered answer, or a new one; it is remembered only if the files stood still meanwhile."""
        names = list(tables)
        key = [self.stat_key(names, pin), question]
        found = self._answers.get(kind, key)
        if found is not None:
            return found
        value = compute()
        if self.stat_key(names, pin) == key[0]:
            self._answers.put(kind, key, value)
        return value

    def _reads(self, spec: TableSpec) -> tuple[list[str], bool]:
        """The tables a view's SQL reads and whether it gathers, remembered by its text."""
        key = [spec.name, spec.sql, sorted(self.tables)]
        found = self._answers.get("reads", key)
        if found is None:
            tables, gathers = references(spec, self.tables)
            found = {"tables": list(tables), "gathers": gathers}
            self._answers.put("reads", key, found)
        return found["tables"], found["gathers"]

    def _gives_time(self, view: TableSpec) -> bool:
        return all(self.spec(t).time is None for t in self._reads(view)[0])

    def _refuse_unprovable(self, spec: TableSpec) -> None:
        """Windows over rows without time cannot be looked at as of a moment."""
        reads, gathers = self._reads(spec)
        if gathers and self._gives_time(spec):
            raise DataError(
                f"view {spec.name} gathers rows of {', '.join(reads)}, which have no time: it may look ahead",
                where=spec.where,
                hint="Declare `time` for what it reads; if the file has no such column, make it in a view of its own "
                "and gather in another view over that one.",
            )

    def _closure(self, tables: Iterable[str]) -> tuple[TableSpec, ...]:
        return ordered(self.tables, tables, lambda spec: self._reads(spec)[0])

    def _pinned(self, tables: Iterable[str], pin: Pin) -> Json:
        """The part of a pin that bears on these tables."""
        under = mentioned(self.tables, tables)
        return {name: until for name, until in pin.until.items() if name in under}

    def _session(
        self,
        tables: Iterable[str],
        pin: Pin | None = None,
        hide_from: str | None = None,
        more: Sequence[TableSpec] = (),
    ) -> Session:
        """A session over these tables and all they read; `more` are views beside the declared ones."""
        read = {t for view in more for t in references(view, self.tables)[0]}
        closure = self._closure([*tables, *read])
        files = {s.name: self._files(s, pin or Pin()) for s in closure if not s.is_view}
        return Session(Scope((*closure, *more), files, pin or Pin(), hide_from), self._cache / "scratch")

    def _files(self, spec: TableSpec, pin: Pin) -> tuple[Path, ...]:
        """The table's Parquet files, of the pinned version where it has one."""
        now = self._clock()
        if is_local(spec):
            named, found = files_of(spec, self._root), parquet_files(spec, self._root, self._cache, now)
        else:
            named = self._origins.files(spec, pin.versions.get(spec.name))
            found = tuple(as_parquet(spec, path, self._cache, now) for path in named)
        if len(found) > 1:
            refuse_clash(spec, found, named)
        return found


def _group_key(filters: Filters) -> str:
    return digest(sorted(filters))[:32]


def _facts(types: Mapping[str, ColumnType], rows: int, until: str | None, low: str, high: str) -> Facts:
    return Facts(rows, until, digest([sorted(types.items()), rows, low, high]))
