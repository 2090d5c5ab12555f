"""The SQL that answers a catalog's questions. Names are quoted, values are bound; nothing is ever pasted."""

# ruff: noqa: S608 - every statement here is made of identifier(), literal() and our own words

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retinue.sources.base import ColumnType, Filters
from retinue.sources.session import SQL_TYPES
from retinue.sources.tables import identifier, literal


def text_of(column: str, kind: ColumnType) -> str:
    """A value as canonical text: the same for every width of a type, and for both zeros."""
    name = identifier(column)
    if kind == "FP64":
        return f"CAST(CAST({name} AS DOUBLE) + 0.0 AS VARCHAR)"
    if kind == "TIMESTAMP":
        return f"CAST(CAST({name} AS TIMESTAMP) AS VARCHAR)"
    return f"CAST({name} AS VARCHAR)"


def row_text(types: Mapping[str, ColumnType]) -> str:
    """One row as text from which the row can be told: each value after its length, a missing one as `-`."""
    if not types:
        return "''"
    parts = []
    for column, kind in types.items():
        text = text_of(column, kind)
        parts.append(f"coalesce(length({text}) || ':' || {text}, '-')")
    return " || '|' || ".join(parts)


def keys(table: str, columns: Sequence[str]) -> str:
    """Distinct keys as text with their rows, null keys skipped."""
    texts = ", ".join(f"CAST({identifier(c)} AS VARCHAR)" for c in columns)
    known = " AND ".join(f"{identifier(c)} IS NOT NULL" for c in columns)
    groups = ", ".join(str(i + 1) for i in range(len(columns)))
    return f"SELECT {texts}, count(*) FROM {identifier(table)} WHERE {known} GROUP BY {groups}"


def newest(table: str, time: str) -> str:
    """The newest moment of a table as text."""
    return f"SELECT CAST(max(CAST({identifier(time)} AS TIMESTAMP)) AS VARCHAR) FROM {identifier(table)}"


def facts(table: str, time: str | None, filters: Sequence[str], types: Mapping[str, ColumnType]) -> str:
    """Per combination of the filter columns: rows, newest moment, and the two half-sums of the rows' MD5.

    A sum does not depend on the order of rows, and a repeated row counts each time.
    """
    grouped = [f"CAST({identifier(f)} AS VARCHAR) AS g{i}" for i, f in enumerate(filters)]
    moment = f"CAST({identifier(time)} AS TIMESTAMP)" if time else "CAST(NULL AS TIMESTAMP)"
    inner = ", ".join([*grouped, f"{moment} AS moment", f"{row_text(types)} AS body"])
    names = [f"g{i}" for i in range(len(filters))]
    outer = ", ".join(
        [
            *names,
            "count(*)",
            "CAST(max(moment) AS VARCHAR)",
            "CAST(coalesce(sum(md5_number_lower(body)), 0) AS VARCHAR)",
            "CAST(coalesce(sum(md5_number_upper(body)), 0) AS VARCHAR)",
        ]
    )
    known = f" WHERE {' AND '.join(f'{n} IS NOT NULL' for n in names)}" if names else ""
    groups = f" GROUP BY {', '.join(names)}" if names else ""
    return f"SELECT {outer} FROM (SELECT {inner} FROM {identifier(table)}){known}{groups}"


def read(
    table: str,
    types: Mapping[str, ColumnType],
    filters: Filters,
    *,
    time: str | None,
    window: tuple[str | None, str | None],
    order: Sequence[str],
    members: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """Rows of a table as wire types, with the parameters to bind. `window` is [since, before) in time.

    With `members`, columns that families are filtered by, rows stand first in their order; their texts come along
    under `member_names`.
    """
    selected = ", ".join(f"CAST({identifier(c)} AS {SQL_TYPES[k]}) AS {identifier(c)}" for c, k in types.items())
    texts = dict(zip(member_names(members), members, strict=True))
    selected += "".join(f", CAST({identifier(c)} AS VARCHAR) AS {identifier(name)}" for name, c in texts.items())
    conditions = [f"CAST({identifier(column)} AS VARCHAR) = ?" for column, _ in filters]
    parameters = [value for _, value in filters]
    if time is not None:
        moment = f"CAST({identifier(time)} AS TIMESTAMP)"
        conditions.append(f"{moment} IS NOT NULL")  # a row without a moment belongs to neither side of a cutoff
        for sign, value in zip((">=", "<"), window, strict=True):
            if value is not None:
                conditions.append(f"{moment} {sign} CAST(? AS TIMESTAMP)")
                parameters.append(value)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = [*texts, *order]
    by = f" ORDER BY {', '.join(f'{identifier(c)} NULLS FIRST' for c in order)}" if order else ""
    return f"SELECT {selected} FROM {identifier(table)}{where}{by}", parameters


def member_names(columns: Sequence[str]) -> list[str]:
    """What the texts of filter columns are called beside the columns themselves."""
    return [f" member {place} {column}" for place, column in enumerate(columns)]


def count(sql: str) -> str:
    """How many rows a query gives."""
    return f"SELECT count(*) FROM ({sql})"


def moments(table: str, time: str) -> str:
    """Each moment of a table as text with its rows."""
    moment = f"CAST({identifier(time)} AS TIMESTAMP)"
    return f"SELECT CAST({moment} AS VARCHAR), count(*) FROM {identifier(table)} WHERE {moment} IS NOT NULL GROUP BY 1"


def probes(table: str, time: str, cutoff: str) -> str:
    """Moments at which to look for a view that looks ahead: before the cutoff and once after it."""
    moment = f"CAST({identifier(time)} AS TIMESTAMP)"
    limit = f"TIMESTAMP {literal(cutoff)}"
    parts = [f"CAST(quantile_disc(m, {share}) FILTER (m < {limit}) AS VARCHAR)" for share in (0.5, 0.9, 1.0)]
    parts.append(f"CAST(quantile_disc(m, 0.3) FILTER (m > {limit}) AS VARCHAR)")
    return f"SELECT {', '.join(parts)} FROM (SELECT {moment} AS m FROM {identifier(table)}) WHERE m IS NOT NULL"


def sums_before(table: str, time: str, types: Mapping[str, ColumnType], limits: Sequence[str]) -> str:
    """For each limit the content of the rows before it: rows and two half-sums of their MD5."""
    moment = f"CAST({identifier(time)} AS TIMESTAMP)"
    parts = []
    for limit in limits:
        before = f"FILTER (m < TIMESTAMP {literal(limit)})"
        parts.append(
            f"(count(*) {before}) || ' ' || coalesce(sum(md5_number_lower(body)) {before}, 0) "
            f"|| ' ' || coalesce(sum(md5_number_upper(body)) {before}, 0)"
        )
    inner = f"SELECT {moment} AS m, {row_text(types)} AS body FROM {identifier(table)}"
    return f"SELECT {', '.join(parts)} FROM ({inner})"
