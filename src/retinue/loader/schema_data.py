"""The shapes of `data:`: tables from files, databases, dbt and functions, views, and what must hold of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from retinue.loader.shape import Shape, opt
from retinue.loader.types import Duration, Percent, Scalar, SomeTexts, Text, Train, one_or_many, wrong

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SOURCES = ("path", "sql", "query", "dbt", "python")

TextOrTexts = Annotated[
    Annotated[Text, Tag("<name>")] | Annotated[SomeTexts, Tag("<list>")],
    Discriminator(
        one_or_many, custom_error_type="retinue", custom_error_message="expected a column or a list of columns"
    ),
]
SqlChecks = Annotated[
    Annotated[Text, Tag("<name>")] | Annotated[dict[Text, Text], Tag("<mapping>")],
    Discriminator(
        one_or_many,
        custom_error_type="retinue",
        custom_error_message="expected SQL that selects bad rows, or {name: SQL}",
    ),
]


class Checks(Shape):
    """What must hold of a table before any model that reads it is trained; nothing of it is in a definition."""

    rows_vs_last: Percent | None = opt("Least share of the rows that the last accepted build had: `80%`.")
    fresh: Duration | None = opt("Largest age of the newest row, its `time` taken as UTC: `26h`.")
    unique: TextOrTexts | None = opt("Columns that together never repeat.")
    not_null: TextOrTexts | None = opt("Columns without missing values.")
    range: dict[Text, list[float | str | None]] = opt("Column → [low, high], null for no bound.", default={})
    accepted: dict[Text, list[Scalar]] = opt("Column → the only values it may have.", default={})
    min_rows: Annotated[int, Field(ge=1)] | None = opt("Least number of rows.")
    sql: SqlChecks | None = opt("DuckDB SQL over declared tables that selects bad rows; none may come back.")

    @model_validator(mode="after")
    def _bounds(self) -> Checks:
        for column, bounds in self.range.items():
            low, high = (*bounds, None, None)[:2]
            if len(bounds) != 2 or (low is None and high is None):
                raise wrong(f"range of {column}: expected [low, high]", "Write two bounds; null for none.")
            if low is not None and high is not None and (isinstance(low, str) != isinstance(high, str) or low > high):  # type: ignore[operator]  # of one type
                raise wrong(f"range of {column}: {low} is not below {high}", "Write the smaller bound first.")
        for column, values in self.accepted.items():
            if not values:
                raise wrong(f"accepted of {column} is empty", "List the values that may stand there.")
        return self


class Table(Shape):
    """A table (`path`, `query`, `dbt` or `python`) or a view (`sql` over other tables)."""

    path: Text | None = opt("File, glob or URL (`s3://…`): .parquet, .csv, .csv.gz, .csv.zip.")
    sql: Text | None = opt("A view: DuckDB SQL over the other tables; `asof join` never looks ahead.", "yes")
    query: Text | None = opt("SELECT in the database's own SQL, run through `connection`.", "yes")
    dbt: Text | None = opt("A dbt model, read through `connection`, whose artifacts say how it stands.")
    python: Train | None = opt("`module:function` that gives the table; runs alone in `environment`.", "yes")
    connection: Text | None = opt("A connection of retinue.toml.")
    version: Text | None = opt(
        "Cheap question whether the source has moved: a query, or `module:function` for `python`."
    )
    environment: Text | None = opt("Environment in which `python` runs; the only one, if there is one.")
    format: Literal["parquet", "csv"] | None = opt("Needed only where the path's ending does not tell.")
    time: Text | None = opt("Column with the moment a row belongs to; the holdout is split along it.", "yes")
    key: Text | None = opt("Column that identifies a row.", "yes")
    available: dict[Text, Duration] = opt(
        "Columns that are known only some time after `time`: {late: 3h}.", "yes", default={}
    )
    checks: Checks | None = opt("What must hold before training.")

    @model_validator(mode="after")
    def _one_source(self) -> Table:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            told = f", found {' and '.join(f'`{n}`' for n in given)}" if given else ""
            raise wrong(
                f"expected either `path` or `sql`{told}"
                if not given or set(given) <= {"path", "sql"}
                else f"expected one source{told}",
                "A table has a `path`; a view has `sql` over other tables; or `query`, `dbt`, `python`.",
            )
        if self.available and self.time is None:
            raise wrong("`available` counts from `time`, which is missing", "Add `time: COLUMN`.")
        if self.sql is not None and self.format is not None:
            raise wrong("a view has no `format`", "Remove `format`.")
        if self.path is not None and self.format is None and not known_ending(self.path):
            raise wrong(
                f"the format of {self.path!r} is not known from its ending", "Add `format: parquet` or `format: csv`."
            )
        if self.checks is not None and self.checks.fresh is not None and self.time is None:
            raise wrong("`checks.fresh` counts from `time`, which is missing", "Add `time: COLUMN`.")
        self._connected()
        return self

    def _connected(self) -> None:
        """The keys that belong to some sources only."""
        if (self.query is not None or self.dbt is not None) and self.connection is None:
            raise wrong("`connection` is missing", "Name a connection of retinue.toml: connection: warehouse.")
        remote = self.path is not None and _URL.match(self.path)
        if self.connection is not None and (self.sql or self.python or (self.path is not None and not remote)):
            raise wrong("`connection` belongs to `query`, `dbt` and URLs", "Remove `connection`.")
        if self.version is not None and not (self.query or self.dbt or self.python):
            raise wrong(
                "`version` belongs to `query`, `dbt` and `python`", "Remove `version`: files tell by themselves."
            )
        if self.python and self.version is not None and ":" not in self.version:
            raise wrong("`version` of a function is a function", "Write it like module:function.")
        if self.environment is not None and not self.python:
            raise wrong("`environment` belongs to `python`", "Remove `environment`.")
        if self.format is not None and self.path is None:
            raise wrong("`format` belongs to `path`", "Remove `format`.")


class Listed(Shape):
    """Members are the rows of a csv file beside the portfolio, or what a function gives."""

    csv: Text | None = opt("File with a header line; each row is one key.")
    columns: Any = opt("Columns of the csv, or {placeholder: column}; default: the placeholders.")
    python: Train | None = opt("`module:function` that gives keys; runs in the model's environment.")
    exclude: list[str] = opt('Keys left out: "JFK,B6" or "JFK,*".', default=[])
    only: list[str] = opt("The only keys to take; patterns as in `exclude`.", default=[])

    @model_validator(mode="after")
    def _one(self) -> Listed:
        if (self.csv is None) == (self.python is None):
            raise wrong("expected either `csv` or `python`", "Keys come from one of them.")
        if self.python is not None and self.columns is not None:
            raise wrong("`columns` belongs to `csv`", "A function gives values in the order of the placeholders.")
        names = list(self.columns.values()) if isinstance(self.columns, dict) else self.columns
        if names is not None and (
            not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names)
        ):
            raise wrong("expected a list of columns or {placeholder: column}", "Write columns: [origin, carrier].")
        return self


def known_ending(path: str) -> bool:
    """Whether a path's ending says how to read it."""
    return path.lower().endswith((".parquet", ".csv", ".csv.gz", ".csv.zip"))
