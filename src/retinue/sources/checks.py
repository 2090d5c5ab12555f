"""Judges a table's checks on its rows, in one session over the pinned rows."""

# ruff: noqa: S608 - every statement here is made of identifier(), literal() and our own words

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from retinue.core.checks import CheckResult, CheckSpec
from retinue.core.portfolio import TableSpec
from retinue.sources.session import Session
from retinue.sources.tables import identifier, literal

_VIEW = "check {table} {number}"


def judge(
    spec: TableSpec,
    told: Sequence[CheckResult],
    now: str,
    last_rows: int | None,
    open_session: Callable[[Sequence[TableSpec]], Session],
) -> list[CheckResult]:
    """The results of all checks of a table, after those that were `told`. `now` is a UTC moment.

    Raises DataError for a check that cannot be asked: a column that is not there, SQL that is wrong.
    """
    views = {
        number: TableSpec(_VIEW.format(table=spec.name, number=number), spec.where, sql=check.sql)
        for number, check in enumerate(spec.checks)
        if check.sql is not None
    }
    with open_session(tuple(views.values())) as session:
        rows = int(session.rows(spec.name, f"SELECT count(*) FROM {identifier(spec.name)}")[0][0])
        found = list(told)
        for number, check in enumerate(spec.checks):
            if check.kind == "min_rows":
                found.append(_at_least(spec, check, rows, check.threshold or 0, ""))
            elif check.kind == "rows_vs_last":
                found.append(_vs_last(spec, check, rows, last_rows))
            elif check.kind == "fresh":
                found.append(_fresh(session, spec, check, rows, now))
            else:
                source = views[number].name if number in views else ""
                found.append(_bad_rows(session, spec, check, rows, source))
    return found


def _at_least(spec: TableSpec, check: CheckSpec, rows: int, least: float, text: str) -> CheckResult:
    return CheckResult(spec.name, check.label, rows >= least, float(rows), float(least), rows, text)


def _vs_last(spec: TableSpec, check: CheckSpec, rows: int, last: int | None) -> CheckResult:
    if not last:
        return CheckResult(spec.name, check.label, None, None, check.threshold, rows, "no accepted build before")
    share = rows / last
    text = f"{last:,} rows at the last accepted build"
    return CheckResult(spec.name, check.label, share >= (check.threshold or 0), share, check.threshold, rows, text)


def _fresh(session: Session, spec: TableSpec, check: CheckSpec, rows: int, now: str) -> CheckResult:
    time = spec.time or ""
    session.need(spec.name, [time])
    newest = session.rows(
        spec.name, f"SELECT CAST(max(CAST({identifier(time)} AS TIMESTAMP)) AS VARCHAR) FROM {identifier(spec.name)}"
    )[0][0]
    if newest is None:
        return CheckResult(spec.name, check.label, False, None, check.threshold, rows, "there is no row")
    age = (datetime.fromisoformat(now[:19]) - datetime.fromisoformat(str(newest)[:19])).total_seconds()
    text = f"newest row is of {newest}"
    return CheckResult(spec.name, check.label, age <= (check.threshold or 0), age, check.threshold, rows, text)


def _bad_rows(session: Session, spec: TableSpec, check: CheckSpec, rows: int, view: str) -> CheckResult:
    """Checks that count rows which break a rule; an example of one is shown."""
    session.need(spec.name, check.columns)
    table = identifier(spec.name)
    columns = [identifier(c) for c in check.columns]
    if check.kind == "unique":
        names = ", ".join(columns)
        grouped = f"SELECT {names}, count(*) AS n FROM {table} GROUP BY {names} HAVING count(*) > 1"
        bad = int(session.rows(spec.name, f"SELECT coalesce(sum(n - 1), 0) FROM ({grouped})")[0][0])
        sample = f"SELECT {names} FROM ({grouped}) ORDER BY ALL LIMIT 1"
    else:
        source = identifier(view) if view else f"{table} WHERE {_rule(check, columns)}"
        bad = int(session.rows(view or spec.name, f"SELECT count(*) FROM {source}")[0][0])
        shown = "*" if view else ", ".join(columns)
        sample = f"SELECT {shown} FROM {source} LIMIT 1"
    text = ""
    if bad:
        example = session.rows(view or spec.name, sample)[0]
        text = "for example " + ", ".join("missing" if v is None else f"{v!s:.40}" for v in example[:6])
    return CheckResult(spec.name, check.label, bad == 0, float(bad), 0.0, rows, text)


def _rule(check: CheckSpec, columns: Sequence[str]) -> str:
    """The condition that a bad row fulfils."""
    if check.kind == "not_null":
        return " OR ".join(f"{c} IS NULL" for c in columns)
    if check.kind == "accepted":
        values = ", ".join(literal(v) for v in check.values)
        return f"{columns[0]} IS NOT NULL AND CAST({columns[0]} AS VARCHAR) NOT IN ({values})"
    bounds = [(f"{columns[0]} < {_bound(check.low)}", check.low), (f"{columns[0]} > {_bound(check.high)}", check.high)]
    return " OR ".join(text for text, bound in bounds if bound is not None)


def _bound(value: float | str | None) -> str:
    return literal(value) if isinstance(value, str) else repr(value)
