"""From the shapes of `data:` and of keys in files to the frozen values of `core/portfolio`."""

from __future__ import annotations

import csv
from pathlib import Path

from retinue.core.checks import CheckSpec
from retinue.core.errors import Location, PortfolioError
from retinue.core.portfolio import ForEach, TableSpec
from retinue.core.suggest import did_you_mean
from retinue.loader.schema_data import Checks, Listed, Table


def table(name: str, shape: Table, where: Location) -> TableSpec:
    """A table or view."""
    return TableSpec(
        name=name,
        where=where,
        path=shape.path,
        sql=shape.sql,
        format=shape.format,
        time=shape.time,
        key=shape.key,
        available=tuple(sorted(shape.available.items())),
        connection=shape.connection,
        query=shape.query,
        version=shape.version,
        dbt=shape.dbt,
        python=shape.python,
        environment=shape.environment,
        checks=tuple(checks(shape.checks)) if shape.checks is not None else (),
    )


def checks(shape: Checks) -> list[CheckSpec]:
    """The checks of a table in a fixed order."""
    found: list[CheckSpec] = []
    for kind in ("min_rows", "rows_vs_last", "fresh"):
        threshold = getattr(shape, kind)
        if threshold is not None:
            found.append(CheckSpec(kind, threshold=float(threshold)))
    for rule in ("unique", "not_null"):
        columns = getattr(shape, rule)
        if columns is not None:
            found.append(CheckSpec(rule, (columns,) if isinstance(columns, str) else tuple(columns)))
    for column, (low, high) in sorted(shape.range.items()):
        found.append(CheckSpec("range", (column,), low=low, high=high))
    for column, values in sorted(shape.accepted.items()):
        texts = tuple(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
        found.append(CheckSpec("accepted", (column,), values=texts))
    queries = {"": shape.sql} if isinstance(shape.sql, str) else shape.sql or {}
    return found + [CheckSpec("sql", name=name, sql=sql) for name, sql in sorted(queries.items())]


def listed(
    name: str, order: tuple[str, ...], shape: Listed, root: Path, where: Location
) -> tuple[ForEach, dict[str, str]]:
    """Keys of a csv file, read now, or the function that gives them; and placeholder → column.

    Raises PortfolioError with the csv's own file and line.
    """
    given = shape.columns
    columns = dict(given) if isinstance(given, dict) else dict(zip(given, given, strict=True)) if given else {}
    columns = columns or {p: p for p in order}
    if shape.python is not None:
        return ForEach(order, python=shape.python), {p: p for p in order}
    keys = _rows(f"models.{name}.for_each", root / (shape.csv or ""), shape.csv or "", columns, where)
    return ForEach(order, tuple(tuple((p, row[p]) for p in order if p in row) for row in keys)), columns


def _rows(label: str, path: Path, shown: str, columns: dict[str, str], where: Location) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, restval=None)
            header = reader.fieldnames or []
            missing = next((c for c in columns.values() if c not in header), None)
            if missing is not None:
                raise PortfolioError(
                    f"{label}: {shown} has no column {missing!r}",
                    where=Location(shown, 1, 1),
                    hint=did_you_mean(missing, header),
                )
            found: dict[tuple[str, ...], dict[str, str]] = {}
            for row in reader:
                key = {p: row[c] for p, c in columns.items()}
                if any(v is None for v in key.values()) or None in row:
                    raise PortfolioError(
                        f"{label}: line {reader.line_num} of {shown} has not {len(header)} values",
                        where=Location(shown, reader.line_num, 1),
                        hint="Write one value per column; quote values that hold a comma.",
                    )
                found.setdefault(tuple(key.values()), key)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise PortfolioError(
            f"{label}: {shown} cannot be read: {text}", where=where, hint="Name a csv file (UTF-8) with a header line."
        ) from error
    if not found:
        raise PortfolioError(
            f"{label}: {shown} holds no keys", where=where, hint="Write one key a line under the column names."
        )
    return list(found.values())
