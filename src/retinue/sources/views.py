"""Views: what their SQL may do, which tables it reads, and in which order they must be made.

A view is one SELECT over tables that the portfolio declares. It reads no files, calls nothing that answers
differently tomorrow, and refers to nothing that `hide_from` could not hide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec
from retinue.core.suggest import did_you_mean
from retinue.sources.base import Json

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})
UNSTEADY = frozenset(
    {
        "random",
        "setseed",
        "uuid",
        "uuidv4",
        "uuidv7",
        "gen_random_uuid",
        "now",
        "today",
        "current_date",
        "current_time",
        "current_timestamp",
        "current_localtime",
        "current_localtimestamp",
        "localtime",
        "localtimestamp",
        "get_current_time",
        "get_current_timestamp",
        "transaction_timestamp",
        "nextval",
        "currval",
        "txid_current",
        "current_connection_id",
        "current_query_id",
        "current_transaction_id",
        "setval",
        "sleep_ms",
        "stats",
        "vector_type",
        "write_log",
        "pg_conf_load_time",
        "pg_postmaster_start_time",
        "current_setting",
        "getvariable",
        "getenv",
        "current_query",
        "current_user",
        "current_database",
        "current_schema",
        "current_schemas",
        "version",
    }
)
"""Functions whose answer depends on when, where or how often they are asked."""

_NOWHERE = 1 << 63
_WORDS = re.compile(r'"(?:[^"]|"")*"|\w+')


def mentioned(specs: Mapping[str, TableSpec], tables: Iterable[str]) -> tuple[str, ...]:
    """These tables and every table whose name occurs in their SQL, and so on; sorted. Needs no parser.

    It may name too many (a column called like a table), never too few: good for recognising change.
    """
    by_name = {name.lower(): name for name in specs}
    found: set[str] = set()
    waiting = [t for t in tables if t in specs]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for word in _WORDS.findall(specs[name].sql or ""):
            other = by_name.get(word.strip('"').replace('""', '"').lower())
            if other is not None:
                waiting.append(other)
    return tuple(sorted(found))


def ordered(
    specs: Mapping[str, TableSpec], tables: Iterable[str], reads: Callable[[TableSpec], Collection[str]]
) -> tuple[TableSpec, ...]:
    """These tables and all they read, each after what it reads. `reads` gives the tables of one view.

    Raises DataError for an undeclared table and for a cycle, naming its path.
    """
    done: dict[str, TableSpec] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in done:
            return
        spec = declared(specs, name)
        if name in path:
            circle = " → ".join((*path[path.index(name) :], name))
            raise DataError(
                f"views read each other in a circle: {circle}",
                where=spec.where,
                hint="Let one of them read a table instead.",
            )
        if spec.is_view:
            for other in sorted(reads(spec)):
                visit(other, (*path, name))
        done[name] = spec

    for table in sorted(set(tables)):
        visit(table, ())
    return tuple(done.values())


def declared(specs: Mapping[str, TableSpec], name: str) -> TableSpec:
    """The table of that name. Raises DataError with what is near it."""
    if name not in specs:
        raise DataError(
            f"there is no table {name}",
            hint=f"{did_you_mean(name, specs)} Tables are declared under `data:`.",
        )
    return specs[name]


def references(spec: TableSpec, names: Collection[str]) -> tuple[tuple[str, ...], bool]:
    """The declared tables that a view's SQL reads, sorted, and whether it gathers: makes a value out of many rows
    (a window, a grouping). `names` are all declared ones.

    Raises DataError, with the SQL line, for anything that is not one SELECT over them.
    """
    import duckdb

    sql = spec.sql or ""
    with duckdb.connect(config={"threads": 1}) as con:
        row = con.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
    tree: dict[str, Json] = json.loads(row[0]) if row else {"error": True}
    if tree["error"]:
        _refuse_unparsed(spec, tree)
    if len(tree["statements"]) != 1:
        raise view_error(spec, "the view holds more than one statement", hint="Keep one SELECT per view.")
    by_name = {name.lower(): name for name in names}
    nodes = list(_nodes(tree["statements"][0]))
    own = {str(e["key"]).lower() for n in nodes for e in (n.get("cte_map") or {}).get("map", ())}
    odd = next((name for name in own if not re.fullmatch(r"\w+", name)), None)
    if odd is not None:
        raise view_error(spec, f"WITH names something {odd!r}", hint="Use letters, digits and _ in names after WITH.")
    found: set[str] = set()
    for node in nodes:
        _refuse_node(spec, node)
        if node.get("type") != "BASE_TABLE":
            continue
        name = str(node["table_name"])
        if name.lower() in by_name:
            found.add(by_name[name.lower()])
        elif name.lower() not in own:
            raise view_error(
                spec,
                f"there is no table {name}",
                at=node.get("query_location"),
                hint=f"{did_you_mean(name, names)} A view reads tables declared under `data:`, never files.",
            )
    return tuple(sorted(found)), any(_gathers(node) for node in nodes)


def view_error(spec: TableSpec, problem: str, *, at: int | None = None, hint: str | None = None) -> DataError:
    """A DataError about a view's SQL; `at` is a byte offset into it, whose line is shown."""
    line = None
    if at is not None and 0 <= at < _NOWHERE:
        line = (spec.sql or "").encode()[:at].count(b"\n") + 1
    return DataError(f"view {spec.name}: {problem}{sql_line(spec, line)}", where=spec.where, hint=hint)


def sql_line(spec: TableSpec, line: int | None) -> str:
    """` (SQL line 2: …)` for a line of a view's SQL, counted from 1; nothing when it is unknown."""
    lines = (spec.sql or "").splitlines()
    if line is None or not 1 <= line <= len(lines):
        return ""
    return f" (SQL line {line}: {lines[line - 1].strip()})"


def _refuse_unparsed(spec: TableSpec, tree: Mapping[str, Json]) -> None:
    if tree.get("error_type") == "not implemented":
        raise view_error(
            spec,
            "the SQL is not a SELECT",
            hint="A view is one SELECT (or WITH … SELECT) over declared tables; nothing that writes, sets or pivots.",
        )
    position = str(tree.get("position", ""))
    raise view_error(
        spec,
        str(tree.get("error_message", "the SQL cannot be read")),
        at=int(position) if position.isdigit() else None,
        hint="Correct the SQL of the view; it is DuckDB's dialect.",
    )


def _gathers(node: Mapping[str, Json]) -> bool:
    if node.get("class") == "WINDOW":
        return node.get("type") != "WINDOW_ROW_NUMBER"
    return bool(node.get("group_expressions"))


def _nodes(value: Json) -> Iterator[dict[str, Json]]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _refuse_node(spec: TableSpec, node: Mapping[str, Json]) -> None:
    """Refuse what reads files or catalogs, and what is not the same tomorrow."""
    kind, at = node.get("type"), node.get("query_location")
    problem = hint = None
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            problem = f"a view may not call {name}()"
            hint = "Views read declared tables only; declare the file under `data:` and select from its name."
    elif kind == "BASE_TABLE" and (node.get("schema_name") or node.get("catalog_name")):
        problem = f"{node['schema_name']}.{node['table_name']} names a schema"
        hint = "Name tables as they are declared under `data:`, without a schema."
    elif kind == "SHOW_REF":
        problem, hint = "a view may not describe or summarise tables", "Select from the table itself."
    elif kind in {"FUNCTION", "COLUMN_REF"}:
        name = _called(node)
        if name in UNSTEADY or (name == "age" and len(node.get("arguments") or ()) == 1):  # the age as of today
            problem = f"{name} answers differently each time"
            hint = "A view must give the same rows for the same data; use a column, qualified with its table."
    elif kind == "VALUE_PARAMETER":
        problem, hint = "the SQL holds a parameter", "Write the value itself into the SQL."
    if problem is None and node.get("sample"):
        problem, hint = "a view may not sample", "Select rows by a condition, for example id % 10 = 0."
    if problem is not None:
        raise view_error(spec, problem, at=at if isinstance(at, int) else None, hint=hint)


def _called(node: Mapping[str, Json]) -> str:
    """The function a node calls; for a bare column name only those that SQL calls without brackets."""
    if node.get("type") == "FUNCTION":
        return str(node.get("function_name", "")).lower()
    names: list[str] = node.get("column_names") or []
    bare = str(names[0]).lower() if len(names) == 1 else ""
    return bare if bare.startswith(("current_", "local")) else ""
