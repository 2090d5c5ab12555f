"""From checked shapes to the frozen values of `core/portfolio`; the order of keys never matters."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from retinue.core.errors import Location, PortfolioError
from retinue.core.family import amend, placeholders
from retinue.core.outside import known_format
from retinue.core.portfolio import (
    CutoffSpec,
    DataUse,
    EndpointSpec,
    EnvironmentSpec,
    ExampleGate,
    ForEach,
    MetricGate,
    ModelSpec,
    ModelTemplate,
    Need,
    Override,
)
from retinue.core.state import ServedCache, ServedJournal
from retinue.loader import schema, units
from retinue.loader.convert_data import listed
from retinue.loader.convert_gates import further_gates
from retinue.loader.schema_data import Listed
from retinue.loader.schema_outside import OutsideModel
from retinue.loader.shape import Shape

_SAME = ("train", "prepare", "environment", "target", "task",
         "semantics", "compile", "protect", "approval", "rollout", "retrain")  # fmt: skip
_METADATA = ("owner", "description", "tags")
_SETTINGS = ("monitor", "resources", "serve")
_BODIES = ("limits", "holdout", *_SETTINGS)


def environment(name: str, shape: schema.Environment, where: Location) -> EnvironmentSpec:
    """An environment."""
    return EnvironmentSpec(name, where, shape.requirements, shape.python)


def endpoint(name: str, shape: schema.Endpoint, where: Location) -> EndpointSpec:
    """An endpoint."""
    cache = ServedCache(shape.cache.for_, shape.cache.answers) if shape.cache is not None else None
    kept = shape.journal
    journal = ServedJournal(kept.tensors, tuple(sorted(kept.drop)), tuple(sorted(kept.hash))) if kept else None
    spec = EndpointSpec(name, where, shape.select, cache=cache, journal=journal or ServedJournal())
    if shape.fallback is None:
        return spec
    return replace(spec, fallback=shape.fallback.model, fallback_when=tuple(sorted(set(shape.fallback.when))))


def cutoff(text: str) -> CutoffSpec:
    """`last 20%`, or a date. Raises ValueError."""
    found = re.fullmatch(r"last (\S+)", text)
    if found:
        share = units.percent(found[1])
        if not 0 < share < 1:
            raise ValueError(text)
        return CutoffSpec(share=share)
    return CutoffSpec(share=None, at=units.moment(text))


def policy(shape: Shape) -> dict[str, Any]:
    """A policy's body as JSON: durations in seconds, shares of one."""
    body = shape.model_dump(exclude_none=True)
    if "when" in body:
        body["when"] = sorted(set(body["when"]))
    return body


def template(
    name: str, shape: schema.Model | OutsideModel, where: Location, key_places: Mapping[str, Location], root: Path
) -> ModelTemplate:
    """A model or family. `key_places` says where each override stands. Raises PortfolioError for bad keys."""
    order = placeholders(name)
    each = _for_each(name, shape, where, root)
    base = ModelSpec(
        name=name,
        where=where,
        train=shape.train or "",
        environment=shape.environment or "",
        data=(),
        features=(),
        target=shape.target or "",
        task=shape.task,
        family=name if each is not None else None,
        was=shape.was,
    )
    if isinstance(shape, OutsideModel):
        base = replace(base, **_outside(shape))
    overrides = tuple(
        Override(_pattern(key, order, key_places[key]), changes(values, in_family=True), key_places[key])
        for key, values in shape.override.items()
    )
    exclude: tuple[tuple[str, ...], ...] = ()
    only: tuple[tuple[str, ...], ...] = ()
    if isinstance(shape.for_each, schema.Distinct | Listed):
        exclude = tuple(sorted({_pattern(key, order, where) for key in shape.for_each.exclude}))
        only = tuple(sorted({_pattern(key, order, where) for key in shape.for_each.only}))
    return ModelTemplate(
        spec=amend(base, changes(shape, in_family=each is not None)),
        for_each=each,
        overrides=tuple(sorted(overrides, key=lambda o: (-o.match.count("*"), o.match))),  # the more exact one wins
        exclude=exclude,
        only=only,
    )


def _outside(shape: OutsideModel) -> dict[str, Any]:
    typed = shape.features if isinstance(shape.features, dict) else {}
    return {
        "artifact": shape.artifact,
        "format": known_format(shape.artifact, shape.format),
        "types": tuple(typed.items()),
        "classes": tuple(shape.classes or ()),
    }


def changes(shape: schema.ModelFields, *, in_family: bool) -> dict[str, Any]:
    """The fields of a ModelSpec that a shape sets, as `core.family.amend` takes them."""
    found = _given(shape, _SAME)
    found |= {key: tuple(value) for key, value in _given(shape, ("features", "files", "quantiles")).items()}
    ahead = _given(shape, ("horizon", "season", "every"))
    if shape.series is not None:
        ahead["series"] = tuple(shape.series)
    if shape.backtest is not None:
        ahead["folds"] = shape.backtest.folds
    if ahead:
        found["forecast"] = ahead
    if shape.params is not None:
        found["params"] = shape.params
    if shape.data is not None:
        found["data"] = data_uses(shape.data)
    if shape.needs is not None:
        found["needs"] = _needs(shape.needs)
    if shape.gates is not None:
        found["gates"] = _gates(shape.gates, in_family=in_family)
    bodies = {key: value.model_dump(exclude_none=True) for key, value in _given(shape, _BODIES).items()}
    found |= {key: body for key, body in bodies.items() if key not in _SETTINGS}
    metadata = {k: tuple(v) if k == "tags" else v for k, v in _given(shape, _METADATA).items()}
    settings = {key: body for key, body in bodies.items() if key in _SETTINGS}
    found |= {key: value for key, value in (("metadata", metadata), ("settings", settings)) if value}
    return found


def _given(shape: schema.ModelFields, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: getattr(shape, key) for key in keys if getattr(shape, key) is not None}


def data_uses(value: Any) -> tuple[DataUse, ...]:
    """The tables a model reads, the one with the rows first."""
    if isinstance(value, str):
        return (DataUse(value),)
    if isinstance(value, dict):
        return tuple(_use(name, use) for name, use in value.items())
    return tuple(use for item in value for use in data_uses(item))


def _use(name: str, shape: schema.DataUseShape | None) -> DataUse:
    return DataUse(name, tuple(sorted(shape.where.items())) if shape else ())


def _needs(value: Any) -> tuple[Need, ...]:
    """Needs by the upstream's name; an output that is not given is "" until the upstream is known."""
    if isinstance(value, list):
        value = dict.fromkeys(value)
    found = []
    for model, given in sorted(value.items()):
        shape = given or schema.NeedShape()
        column = shape.column or ("" if placeholders(model) else model)
        found.append(Need(model, shape.output or "", column, tuple(sorted(shape.inputs.items()))))
    return tuple(found)


def _gates(shape: schema.Gates, *, in_family: bool) -> dict[str, Any]:
    extra: dict[str, schema.Metric | None] = shape.__pydantic_extra__
    found: dict[str, Any] = {
        "metrics": tuple(
            _metric(name, metric, in_family=in_family) for name, metric in sorted(extra.items()) if metric is not None
        )
    }
    if shape.examples is not None:
        found["examples"] = tuple(
            ExampleGate(tuple(sorted(example.input.items())), tuple(sorted(example.expect.items())))
            for example in shape.examples
        )
    if shape.size is not None:
        found["size"] = shape.size
    return found | further_gates(shape)


def _metric(name: str, shape: schema.Metric, *, in_family: bool) -> MetricGate:
    margin, relative = shape.margin if shape.margin is not None else (0.02, True)
    return MetricGate(
        metric=name,
        minimum=shape.min,
        maximum=shape.max,
        vs_champion=shape.vs_champion is not None,
        margin=margin,
        margin_relative=relative,
        on_inconclusive=shape.on_inconclusive or ("pooled" if in_family else "keep"),
    )


def _for_each(name: str, shape: schema.Model | OutsideModel, where: Location, root: Path) -> ForEach | None:
    """How members are found, placeholders in the order of the name. Raises PortfolioError."""
    order, value = placeholders(name), shape.for_each
    if value is None:
        if order:
            raise PortfolioError(
                f"models.{name}: `for_each` is missing for {_braced(order)}",
                where=where,
                hint="Say where the values come from: for_each: {distinct: [column], of: TABLE}.",
            )
        return None
    if isinstance(value, schema.Distinct):
        columns = value.distinct if isinstance(value.distinct, dict) else {c: c for c in value.distinct}
        _same_names(name, order, set(columns), where)
        return ForEach(order, (), value.of, tuple(columns[p] for p in order), value.min_rows, value.lapse)
    if isinstance(value, Listed):
        found, columns = listed(name, order, value, root, where)
        _same_names(name, order, set(columns), where)
        return found
    if isinstance(value, dict):
        _same_names(name, order, set(value), where)
        return ForEach(order, tuple(_key(order, row) for row in itertools.product(*(value[p] for p in order))))
    if value and isinstance(value[0], str):
        if len(order) != 1:
            raise PortfolioError(
                f"models.{name}: a list of values fits a name with one placeholder, this one has {len(order)}",
                where=where,
                hint="Write {placeholder: [values], …}, or a list of {placeholder: value, …}.",
            )
        return ForEach(order, tuple(_key(order, (item,)) for item in value))
    rows: list[dict[str, str]] = [row for row in value if isinstance(row, dict)]
    for row in rows:
        _same_names(name, order, set(row), where)
    return ForEach(order, tuple(_key(order, [row[p] for p in order]) for row in rows))


def _key(order: tuple[str, ...], values: Any) -> tuple[tuple[str, str], ...]:
    return tuple(zip(order, values, strict=True))


def _same_names(name: str, order: tuple[str, ...], given: set[str], where: Location) -> None:
    if given == set(order) and order:
        return
    unused, unknown = sorted(given - set(order)), sorted(set(order) - given)
    told = [f"{_braced(unused)} of `for_each` is not in the name"] if unused else []
    told += [f"{_braced(unknown)} of the name is not in `for_each`"] if unknown else []
    raise PortfolioError(
        f"models.{name}: {'; '.join(told) or 'the name has no placeholder'}",
        where=where,
        hint="Every placeholder stands in the name and in `for_each`, so that each member has a name of its own.",
    )


def _braced(names: Any) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def _pattern(text: str, order: tuple[str, ...], where: Location) -> tuple[str, ...]:
    """Key values from "JFK,B6"; a value that holds a comma is quoted as in csv. Raises PortfolioError."""
    values = next(csv.reader([text], skipinitialspace=True), [])
    if len(values) != len(order) or not order:
        wanted = ",".join(order) or "nothing: this is a single model"
        raise PortfolioError(
            f"key {text!r} has {len(values)} values, expected {len(order)} ({wanted})",
            where=where,
            hint='Write one value per placeholder, in the order of the name; * stands for any: "JFK,*".',
        )
    return tuple(value.strip() for value in values)
