"""From a model's spec to what identifies it: the hashed body of its definition, and why two bodies differ.

Counted: code, params, features, target, task, holdout rule, data declarations (SQL and bindings, not paths),
the environment's lock, upstream schemas, `semantics`, `compile`. Not counted: name, owner, description, tags,
gates, policies, limits, order of keys, formatting, the toolchain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from retinue.core.contract import NUMERIC, DType, Field, Schema, outputs_of
from retinue.core.errors import PortfolioError
from retinue.core.forecast import NONE, column_problem
from retinue.core.identity import canonical, short
from retinue.core.plan import Why
from retinue.core.portfolio import CutoffSpec, ModelSpec, TableSpec

Json = Any

_SQL_TOKEN = re.compile(
    r"'(?:[^']|'')*'"  # a string
    r'|"(?:[^"]|"")*"'  # a quoted name
    r"|--[^\n]*"  # a comment to the end of the line
    r"|/\*.*?\*/"  # a comment between marks
    r"|[A-Za-z_0-9.]+"
    r"|\S",
    re.DOTALL,
)


def normal_sql(sql: str) -> str:
    """SQL without comments and formatting, unquoted words in lower case: what its meaning hangs on.

    >>> normal_sql("SELECT  a, -- the first\\n 'X  y' FROM t")
    "select a , 'X  y' from t"
    """
    words = []
    for token in _SQL_TOKEN.findall(sql):
        if token.startswith(("--", "/*")):
            continue
        words.append(token if token[0] in "'\"" else token.lower())
    return " ".join(words)


def table_closure(names: Iterable[str], tables: Mapping[str, TableSpec]) -> tuple[str, ...]:
    """These tables and every table their SQL may read (words that are table names), sorted."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found or name not in tables:
            continue
        found.add(name)
        sql = tables[name].sql
        if sql is not None:
            words = {w.strip('"') for w in _SQL_TOKEN.findall(sql)}
            words |= {w.split(".")[0] for w in words}
            lowered = {w.lower() for w in words}
            todo.extend(t for t in tables if t in words or t.lower() in lowered)
    return tuple(sorted(found))


def table_body(table: TableSpec) -> dict[str, Json]:
    """The part of a table's declaration that counts: not its path, so that moving a file rebuilds nothing."""
    return {
        "sql": normal_sql(table.sql) if table.sql is not None else None,
        "time": table.time,
        "key": table.key,
        "available": sorted(list(pair) for pair in table.available),
        **({"query": normal_sql(table.query)} if table.query is not None else {}),
        **({"python": [table.python, table.code]} if table.python is not None else {}),
    }


def hashed_body(
    spec: ModelSpec,
    *,
    code: Mapping[str, str],
    lock: str,
    tables: Mapping[str, TableSpec],
    cutoff: CutoffSpec,
    schemas: Mapping[str, Schema],
    artifact: Mapping[str, Json] | None = None,
) -> dict[str, Json]:
    """The body whose digest is the definition hash.

    `code` maps file → digest of its syntax tree or bytes; `schemas` holds the planned schema of the model and of
    every upstream it names. Lists only, no tuples: the body compares equal to what the registry gives back.
    """
    return {
        "train": spec.train,
        "code": dict(code),
        "params": spec.params,
        "features": list(spec.features),
        "target": spec.target,
        "task": spec.task,
        "holdout": {"cutoff": [cutoff.share, cutoff.at], "by": spec.holdout.by, "share": spec.holdout.share},
        "data": [[use.table, sorted(list(pair) for pair in use.filters)] for use in spec.data],
        "tables": {name: table_body(tables[name]) for name in table_closure([use.table for use in spec.data], tables)},
        "needs": [
            {
                "model": n.model,
                "output": n.output,
                "column": n.column,
                "inputs": sorted(list(pair) for pair in n.inputs),
                "schema": schemas[n.model].hash,
            }
            for n in sorted(spec.needs, key=lambda n: n.column)
        ],
        "schema": schemas[spec.name].hash,
        "lock": lock,
        "semantics": spec.semantics,
        "compile": spec.compile,
        **_outside(spec, artifact),
    }


def _outside(spec: ModelSpec, artifact: Mapping[str, Json] | None) -> dict[str, Json]:
    """What only some models declare; absent from the bodies of all others, so that theirs stay what they were."""
    found: dict[str, Json] = {}
    if artifact is not None:
        found["artifact"] = dict(artifact)
    if spec.classes:
        found["classes"] = list(spec.classes)
    if spec.quantiles:
        found["quantiles"] = list(spec.quantiles)
    if spec.prepare is not None:
        found["prepare"] = spec.prepare
    if spec.forecast != NONE:
        found["forecast"] = spec.forecast.body()
    return found


@dataclass(frozen=True, slots=True)
class Planned:
    """What a model will take and give once built: its schema, and the fields a request must carry."""

    schema: Schema
    request: Mapping[str, DType]


def planned(spec: ModelSpec, columns: Mapping[str, str], upstreams: Mapping[str, Planned]) -> Planned:
    """The schema a build of `spec` will have, from its table's column types and its upstreams.

    A multiclass model's probability has width 0 here: training decides. Raises PortfolioError when a feature,
    the target, or a mapped field is not there or has a type that its use does not take.
    """
    by_column = {need.column: need for need in spec.needs}
    inputs: list[Field] = []
    request: dict[str, DType] = {}
    for feature in spec.features:
        need = by_column.get(feature)
        if need is not None:
            inputs.append(Field(feature, _need_dtype(spec, need.model, need.output, upstreams[need.model].schema)))
        else:
            request[feature] = _column_dtype(spec, feature, columns)
            inputs.append(Field(feature, request[feature]))
    for need in spec.needs:
        mapping = dict(need.inputs)
        _check_mapping_names(spec, need.model, mapping, upstreams[need.model])
        for wanted, dtype in upstreams[need.model].request.items():
            field = mapping.get(wanted, wanted)
            request[field] = _check_mapped(spec, need.model, (wanted, dtype), field, columns)
    wide = spec.forecast.horizon or len(spec.quantiles)
    outputs = outputs_of(spec.task, spec.target, _label_dtype(spec, columns), wide)
    problem = column_problem(spec.forecast, spec.target, columns)
    if problem is not None:
        raise PortfolioError(
            f"model {spec.name} cannot be made of {spec.data[0].table}: {problem}",
            where=spec.where,
            hint=f"{spec.data[0].table} has: {', '.join(sorted(columns))}.",
        )
    return Planned(Schema(tuple(inputs), outputs), request)


def request_fields(spec: ModelSpec, specs: Mapping[str, ModelSpec]) -> tuple[str, ...]:
    """The columns of a model's table that its upstreams read through the mappings, all levels, sorted."""
    fields: set[str] = set()
    for need in spec.needs:
        upstream = specs[need.model]
        mapping = dict(need.inputs)
        own = {n.column for n in upstream.needs}
        wanted = [f for f in upstream.features if f not in own]
        wanted += request_fields(upstream, specs)
        fields |= {mapping.get(name, name) for name in wanted}
    return tuple(sorted(fields))


def _column_dtype(spec: ModelSpec, column: str, columns: Mapping[str, str]) -> DType:
    dtype = columns.get(column)
    if dtype is None:
        raise PortfolioError(
            f"model {spec.name}: feature {column!r} is not a column of {spec.data[0].table}",
            where=spec.where,
            hint=f"{spec.data[0].table} has: {', '.join(sorted(columns))}.",
        )
    if dtype not in ("BOOL", "INT64", "FP64", "BYTES"):
        raise PortfolioError(
            f"model {spec.name}: feature {column!r} is a {dtype}, which a request cannot carry",
            where=spec.where,
            hint="Make a number of it in a view (for example hour, or epoch seconds) and name that as the feature.",
        )
    return dtype  # type: ignore[return-value]  # narrowed by the test above


def _label_dtype(spec: ModelSpec, columns: Mapping[str, str]) -> DType:
    dtype = columns.get(spec.target)
    if dtype is None:
        raise PortfolioError(
            f"model {spec.name}: target {spec.target!r} is not a column of {spec.data[0].table}",
            where=spec.where,
            hint=f"{spec.data[0].table} has: {', '.join(sorted(columns))}.",
        )
    if spec.task in NUMERIC and dtype not in ("INT64", "FP64"):
        raise PortfolioError(
            f"model {spec.name}: {spec.task} needs a number as target, {spec.target!r} is {dtype}",
            where=spec.where,
            hint="Name a numeric column, or use `task: binary` or `multiclass`.",
        )
    return dtype if dtype in ("BOOL", "INT64", "BYTES") else "FP64"  # type: ignore[return-value]  # narrowed


def _need_dtype(spec: ModelSpec, model: str, output: str, schema: Schema) -> DType:
    field = schema.output(output)
    if field is None:
        names = ", ".join(f.name for f in schema.outputs)
        raise PortfolioError(
            f"model {spec.name} needs output {output!r} of {model}, which gives: {names}",
            where=spec.where,
            hint=f"Name one of {model}'s outputs under `needs:`, or keep the old output in {model}.",
        )
    return field.dtype


def _check_mapping_names(spec: ModelSpec, model: str, mapping: Mapping[str, str], upstream: Planned) -> None:
    for name in mapping:
        if name not in upstream.request:
            raise PortfolioError(
                f"model {spec.name} maps input {name!r} of {model}, which takes: {', '.join(sorted(upstream.request))}",
                where=spec.where,
                hint="Correct the name under `needs: … inputs:`, or keep that feature in the upstream.",
            )


def _check_mapped(
    spec: ModelSpec, model: str, wanted: tuple[str, DType], field: str, columns: Mapping[str, str]
) -> DType:
    name, takes = wanted
    dtype = columns.get(field)
    if dtype is None:
        raise PortfolioError(
            f"model {spec.name} needs {model}, whose input {name!r} is fed from {field!r}, "
            f"not a column of {spec.data[0].table}",
            where=spec.where,
            hint=f"Map it: `needs: {{{model}: {{inputs: {{{name}: <column>}}}}}}`.",
        )
    if dtype != takes and not (dtype == "INT64" and takes == "FP64"):
        raise PortfolioError(
            f"model {spec.name} feeds {field!r} ({dtype}) to input {name!r} of {model}, which takes {takes}",
            where=spec.where,
            hint="Cast the column in the view, or map another one.",
        )
    return takes if dtype != takes else _column_dtype(spec, field, columns)


def differences(old: Mapping[str, Json], new: Mapping[str, Json]) -> tuple[Why, ...]:
    """Why two hashed bodies differ, each with the smallest text that shows it."""
    found: list[Why] = []
    if (old["train"], old["code"], old.get("prepare")) != (new["train"], new["code"], new.get("prepare")):
        found.append(Why("CODE", _code_text(old, new)))
    found += _outside_differences(old, new)
    if old["params"] != new["params"]:
        found.append(Why("PARAMS", _mapping_text(old["params"], new["params"])))
    shape = ("features", "target", "task", "holdout", "semantics", "compile")
    texts = [_field_text(name, old[name], new[name]) for name in shape if old[name] != new[name]]
    if old.get("quantiles") != new.get("quantiles"):
        texts.append(_field_text("quantiles", old.get("quantiles"), new.get("quantiles")))
    if old.get("forecast") != new.get("forecast"):
        texts.append("forecast " + _mapping_text(old.get("forecast") or {}, new.get("forecast") or {}))
    if texts:
        found.append(Why("FEATURES", "; ".join(texts)))
    if old["lock"] != new["lock"]:
        found.append(Why("ENVIRONMENT", f"lock {short(old['lock'])} → {short(new['lock'])}"))
    if old["needs"] != new["needs"]:
        found.append(Why("UPSTREAM", _needs_text(old, new)))
    if (old["data"], old["tables"]) != (new["data"], new["tables"]):
        found.append(Why("DATA", _tables_text(old, new)))
    if not found and old["schema"] != new["schema"]:
        found.append(Why("DATA", "types of columns"))
    return tuple(found)


def _code_text(old: Mapping[str, Json], new: Mapping[str, Json]) -> str:
    files = sorted(f for f in {*old["code"], *new["code"]} if old["code"].get(f) != new["code"].get(f))
    texts = files[:3] + ([f"and {len(files) - 3} more"] if len(files) > 3 else [])
    if old["train"] != new["train"]:
        texts.insert(0, f"{old['train']} → {new['train']}")
    if old.get("prepare") != new.get("prepare"):
        texts.insert(0, f"prepare {old.get('prepare', 'nothing')} → {new.get('prepare', 'nothing')}")
    return ", ".join(texts)


def _outside_differences(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[Why]:
    """Differences in what only some bodies have."""
    found = []
    if old.get("artifact") != new.get("artifact"):
        found.append(Why("ARTIFACT", _artifact_text(old.get("artifact"), new.get("artifact"))))
    if old.get("classes") != new.get("classes"):
        found.append(Why("FEATURES", f"classes {_show(old.get('classes'))} → {_show(new.get('classes'))}"))
    return found


def _artifact_text(old: Json, new: Json) -> str:
    told = [f"{a['format']} {short(a['digest'])}" if a else "trained here" for a in (old, new)]
    return " → ".join(told)


def _mapping_text(old: Mapping[str, Json], new: Mapping[str, Json]) -> str:
    texts = []
    for key in sorted({*old, *new}):
        if key not in old:
            texts.append(f"+{key} {_show(new[key])}")
        elif key not in new:
            texts.append(f"-{key}")
        elif old[key] != new[key]:
            texts.append(f"{key} {_show(old[key])} → {_show(new[key])}")
    return ", ".join(texts)


def _field_text(name: str, old: Json, new: Json) -> str:
    if name == "features":
        added = [f"+{f}" for f in new if f not in old]
        gone = [f"-{f}" for f in old if f not in new]
        return ", ".join(added + gone) or "order of features"
    if name == "holdout":
        return "holdout " + _mapping_text(old, new)
    return f"{name} {_show(old)} → {_show(new)}"


def _needs_text(old: Mapping[str, Json], new: Mapping[str, Json]) -> str:
    before = {n["column"]: n for n in old["needs"]}
    after = {n["column"]: n for n in new["needs"]}
    texts = []
    for column in sorted({*before, *after}):
        a, b = before.get(column), after.get(column)
        if a is None and b is not None:
            texts.append(f"+{b['model']}")
        elif b is None and a is not None:
            texts.append(f"-{a['model']}")
        elif a is not None and b is not None and a != b:
            texts.append(_need_text(a, b))
    return ", ".join(texts)


def _need_text(old: Mapping[str, Json], new: Mapping[str, Json]) -> str:
    if old["model"] != new["model"]:
        return f"{old['model']} → {new['model']}"
    if old["output"] != new["output"]:
        return f"{new['model']}.{old['output']} → {new['output']}"
    if old["schema"] != new["schema"]:
        return f"schema of {new['model']} changed"
    return f"inputs of {new['model']} mapped differently"


def _tables_text(old: Mapping[str, Json], new: Mapping[str, Json]) -> str:
    names = sorted(t for t in {*old["tables"], *new["tables"]} if old["tables"].get(t) != new["tables"].get(t))
    return ", ".join(names) if names else "filters"


def _show(value: Json) -> str:
    return value if isinstance(value, str) else canonical(value).decode()
