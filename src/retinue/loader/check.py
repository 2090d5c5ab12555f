"""What one entry says of another: names that must exist, columns that must be listed, placeholders that must fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from retinue.core.contract import NUMERIC
from retinue.core.errors import Location, PortfolioError
from retinue.core.family import amend, could_be, expand, placeholders
from retinue.core.gate_specs import FURTHER
from retinue.core.gates import metric_names
from retinue.core.graph import cycle
from retinue.core.portfolio import EndpointSpec, ModelSpec, ModelTemplate, Need
from retinue.core.suggest import did_you_mean
from retinue.loader import check_forecast, check_outside, check_prepare
from retinue.loader.check_gates import gate_problems
from retinue.loader.problems import SHAPE, Problems
from retinue.loader.types import TEMPLATE


@dataclass(frozen=True, slots=True)
class Known:
    """All names that are declared, those of broken entries too: one mistake is told once."""

    tables: frozenset[str]
    environments: frozenset[str]
    rollout: frozenset[str]
    retrain: frozenset[str]
    models: frozenset[str]
    timeless: frozenset[str] = frozenset()  # tables that declare no `time`


class Places:
    """Where the keys of one model stand, for problems found after its shape was checked."""

    def __init__(self, name: str, at: Location, keys: Mapping[str, Location]) -> None:
        self.name = name
        self.at = at
        self.keys = keys

    def of(self, key: str) -> Location:
        """The place of a key (`needs.congestion`), else of the nearest one around it, else of the model."""
        while key:
            if key in self.keys:
                return self.keys[key]
            key = key.rpartition(".")[0]
        return self.at


def model_name(name: str, at: Location, problems: Problems) -> None:
    """Notes a model name that is not letters, digits, `._~-` and placeholders, or repeats a placeholder."""
    found = re.findall(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", name)
    if not re.fullmatch(TEMPLATE, name):
        problems.add(
            f"models: {name!r} is not a model name",
            at,
            "Use letters, digits, . _ ~ - and {placeholders}, beginning with a letter, a digit or a placeholder.",
            SHAPE,
        )
    elif len(found) != len(set(found)):
        problems.add(f"models: {name!r} repeats a placeholder", at, "Name each placeholder once.", SHAPE)


def complete(template: ModelTemplate, templates: Mapping[str, ModelTemplate]) -> ModelTemplate:
    """The template with the outputs of its needs filled in, where the upstream is known."""
    spec = replace(template.spec, needs=_outputs(template.spec.needs, templates))
    overrides = tuple(
        replace(o, values={**o.values, "needs": _outputs(o.values["needs"], templates)}) if "needs" in o.values else o
        for o in template.overrides
    )
    return replace(template, spec=spec, overrides=overrides)


def _outputs(needs: Iterable[Need], templates: Mapping[str, ModelTemplate]) -> tuple[Need, ...]:
    found = []
    for need in needs:
        upstream = _upstream(need.model, templates)
        output = need.output
        if not output and upstream is not None:
            output = upstream.spec.target if upstream.spec.task in NUMERIC else "probability"
        found.append(replace(need, output=output))
    return tuple(found)


def _upstream(name: str, templates: Mapping[str, ModelTemplate]) -> ModelTemplate | None:
    if name in templates:
        return templates[name]
    matching = [template for own, template in templates.items() if template.for_each and could_be(own, name)]
    return matching[0] if matching else None


def model(
    template: ModelTemplate, templates: Mapping[str, ModelTemplate], known: Known, places: Places, problems: Problems
) -> None:
    """Notes what does not fit in one model or family, with each of its overrides."""
    checker = _ModelChecker(template, templates, known, places, problems)
    checker.spec(template.spec, "")
    if template.for_each is not None and template.for_each.table is not None:
        checker.known("table", template.for_each.table, known.tables, "for_each.of")
    for key in template.overrides:
        where = f"override.{','.join(key.match)}"
        checker.spec(amend(template.spec, key.values), where, frozenset(key.values))
    if template.for_each is not None and template.for_each.keys:
        try:
            expand(template)
        except PortfolioError as error:
            problems.extend(error)


class _ModelChecker:
    def __init__(
        self,
        template: ModelTemplate,
        templates: Mapping[str, ModelTemplate],
        known: Known,
        places: Places,
        problems: Problems,
    ) -> None:
        self.template = template
        self.templates = templates
        self.names = known
        self.places = places
        self.problems = problems
        self.holes = frozenset(template.for_each.placeholders if template.for_each else ())

    def note(self, message: str, key: str, hint: str | None = None) -> None:
        self.problems.add(f"models.{self.places.name}.{key}: {message}", self.places.of(key), hint)

    def known(self, what: str, name: str | None, declared: frozenset[str], key: str) -> None:
        if name is not None and name not in declared:
            self.note(f"no {what} is named {name!r}", key, did_you_mean(name, declared))

    def spec(self, spec: ModelSpec, under: str, changed: frozenset[str] | None = None) -> None:
        """All checks on one spec; for an override only those that what it changed can break."""
        prefix = f"{under}." if under else ""

        def touched(*fields: str) -> bool:
            return changed is None or bool(changed & set(fields))

        for key, what, declared in (
            ("environment", "environment", self.names.environments),
            ("rollout", "rollout policy", self.names.rollout),
            ("retrain", "retrain policy", self.names.retrain),
        ):
            if touched(key):
                self.known(what, getattr(spec, key) or None, declared, f"{prefix}{key}")
        if touched("data"):
            self.data(spec, prefix)
        for need in spec.needs if touched("needs") else ():
            self.need(need, prefix)
        if touched("features", "needs", "target"):
            self.features(spec, prefix)
        if touched("gates", "task", "target", "quantiles", "forecast"):
            self.quantiles(spec, prefix)
            check_forecast.check(spec, prefix, self.names.timeless, self.note)
            self.gates(spec, prefix)
        if spec.artifact is not None and changed is None:
            check_outside.check(spec, self.note)
        check_prepare.check(spec, prefix, changed, self.note)
        if touched("was") and spec.was is not None:
            self.was(spec.was)

    def data(self, spec: ModelSpec, prefix: str) -> None:
        for use in spec.data:
            self.known("table", use.table, self.names.tables, f"{prefix}data.{use.table}")
            for column, value in use.filters:
                for hole in sorted(set(placeholders(value)) - self.holes):
                    self.note(
                        f"{{{hole}}} is no placeholder of this model",
                        f"{prefix}data.{use.table}.where.{column}",
                        did_you_mean(hole, self.holes) if self.holes else "Only families have placeholders: for_each.",
                    )
        tables = [use.table for use in spec.data]
        for name in sorted({name for name in tables if tables.count(name) > 1}):
            self.note(f"table {name!r} is listed more than once", f"{prefix}data", "Name each table once.")
        if not tables and spec.artifact is None:
            self.note("expected at least one table", f"{prefix}data", "Name the table that holds the rows.")

    def features(self, spec: ModelSpec, prefix: str) -> None:
        if spec.target in spec.features:
            self.note(
                f"the target {spec.target!r} is among the features", f"{prefix}features", "Remove it: it would leak."
            )
        columns = [need.column for need in spec.needs if need.column]
        for need in spec.needs:
            key = f"{prefix}needs.{need.model}"
            if not need.column:
                self.note("`column` is required, the name has placeholders", key, "Add column: NAME.")
            elif need.column not in spec.features and _declared(need.model, self.names.models):
                self.note(
                    f"column {need.column!r} is not among the features",
                    key,
                    f"Add {need.column} to `features`: their order is the order of the model's inputs.",
                )
            if columns.count(need.column) > 1:
                self.note(f"two needs give the column {need.column!r}", key, "Give one of them another `column`.")

    def need(self, need: Need, prefix: str) -> None:
        key = f"{prefix}needs.{need.model}"
        for hole in sorted(set(placeholders(need.model)) - self.holes):
            self.note(f"{{{hole}}} is no placeholder of this model", key, did_you_mean(hole, self.holes))
        upstream = _upstream(need.model, self.templates)
        if upstream is None:
            if not _declared(need.model, self.names.models):
                self.note(f"no model is named {need.model!r}", key, did_you_mean(need.model, self.names.models))
            return
        spec = upstream.spec
        outputs = (spec.target,) if spec.task in NUMERIC else ("label", "probability")
        if need.output not in outputs:
            hint = did_you_mean(need.output, outputs)
            self.note(f"{need.model} has no output {need.output!r}", f"{key}.output", hint)
        elif spec.task == "multiclass" and need.output == "probability":
            hint = "Write output: label; a feature is one value per row."
            self.note(f"`probability` of {need.model} has one value per class", f"{key}.output", hint)
        elif spec.task == "forecast":
            hint = f"Declare a regression of the step that you need: its target a lead of {spec.target} in a view."
            self.note(f"{need.model} is a forecast: it has one value per step", key, hint)
        elif len(spec.quantiles) > 1:
            hint = "Declare a regression model of what you need; a feature is one value per row."
            self.note(f"{need.output!r} of {need.model} has one value per quantile", f"{key}.output", hint)
        for feature, _ in need.inputs:
            if feature not in spec.features:
                hint = did_you_mean(feature, spec.features)
                self.note(f"{need.model} has no feature {feature!r}", f"{key}.inputs.{feature}", hint)

    def quantiles(self, spec: ModelSpec, prefix: str) -> None:
        levels, key = list(spec.quantiles), f"{prefix}quantiles"
        if spec.task == "quantiles" and not levels:
            self.note("`task: quantiles` needs `quantiles`", f"{prefix}task", "Add `quantiles: [0.1, 0.5, 0.9]`.")
        elif levels and spec.task != "quantiles":
            self.note(f"a {spec.task} model has no quantiles", key, "Declare `task: quantiles`, or remove them.")
        elif levels != sorted(set(levels)):
            self.note("quantiles are written in rising order, each once", key, "Write [0.1, 0.5, 0.9].")

    def gates(self, spec: ModelSpec, prefix: str) -> None:
        names = metric_names(spec.task)
        for gate in spec.gates.metrics:
            key = f"{prefix}gates.{gate.metric}"
            if gate.metric not in names:
                self.note(
                    f"no gate or metric of a {spec.task} model is named {gate.metric!r}",
                    key,
                    did_you_mean(gate.metric, (*names, "examples", "size", *FURTHER)),
                )
            if gate.on_inconclusive == "pooled" and self.template.for_each is None:
                self.note("`pooled` tests a whole family; this is a single model", key, "Write keep or pass.")
        for key, message, hint in gate_problems(spec):
            self.note(message, f"{prefix}gates.{key}", hint)
        outputs = (spec.target,) if spec.task in NUMERIC else ("label", "probability")
        for index, example in enumerate(spec.gates.examples):
            for output, _ in example.expect:
                if output not in outputs:
                    where = f"{prefix}gates.examples.{index}.expect.{output}"
                    self.note(f"the model has no output {output!r}", where, did_you_mean(output, outputs))

    def was(self, old: str) -> None:
        if set(placeholders(old)) != self.holes:
            self.note(
                f"{old!r} must hold the same placeholders as the name",
                "was",
                "An old family renames to a new family, a model to a model.",
            )
        elif old in self.templates:
            self.note(f"{old!r} is still declared", "was", "Remove `was`, or the old model.")


def _declared(name: str, models: Iterable[str]) -> bool:
    return any(could_be(model, name) for model in models)


def request_names(spec: EndpointSpec, templates: Mapping[str, ModelTemplate]) -> frozenset[str]:
    """Every field that a request to this endpoint may hold: what selects, and what its models and their upstreams read.

    Empty when a model that it selects is not known or broken: then nothing can be said of its fields.
    """
    found = set(placeholders(spec.select))
    todo = [(name, dict[str, str]()) for name in (spec.select, spec.fallback) if name is not None]
    seen: set[str] = set()
    while todo:
        name, mapping = todo.pop()
        template = _upstream(name, templates)
        if template is None:
            return frozenset()
        changed = [o.values for o in template.overrides]
        features = {f for values in ({}, *changed) for f in values.get("features", template.spec.features)}
        found |= features | {mapping.get(feature, feature) for feature in features}
        for need in (n for values in ({}, *changed) for n in values.get("needs", template.spec.needs)):
            if need.model not in seen:
                seen.add(need.model)
                todo.append((need.model, {**mapping, **dict(need.inputs)}))
    return frozenset(found)


def redaction(spec: EndpointSpec, places: Places, names: frozenset[str], problems: Problems) -> None:
    """Notes fields to drop or hash that no request holds: a slip there would keep what must not be kept."""
    for key in ("drop", "hash"):
        for field in getattr(spec.journal, key) if names else ():
            if field not in names:
                problems.add(
                    f"endpoints.{spec.name}.journal.{key}: no request to it has a field {field!r}",
                    places.of(f"journal.{key}.{field}"),
                    did_you_mean(field, names),
                )


def endpoint(spec: EndpointSpec, keys: Mapping[str, Location], known: Known, problems: Problems) -> None:
    """Notes an endpoint that selects nothing or falls back on nothing."""
    label = f"endpoints.{spec.name}"
    if not _declared(spec.select, known.models):
        problems.add(
            f"{label}.select: no model is named {spec.select!r}",
            keys.get("select", spec.where),
            did_you_mean(spec.select, known.models),
        )
    if spec.fallback is None:
        return
    at = keys.get("fallback", spec.where)
    if placeholders(spec.fallback):
        problems.add(f"{label}.fallback.model: must be one model", at, "Name a model without placeholders.")
    elif not _declared(spec.fallback, known.models):
        hint = did_you_mean(spec.fallback, known.models)
        problems.add(f"{label}.fallback.model: no model is named {spec.fallback!r}", at, hint)
    elif not placeholders(spec.select) and spec.fallback == spec.select:
        problems.add(f"{label}.fallback.model: is the selected model itself", at, "Name another model.")


def circles(templates: Mapping[str, ModelTemplate], places: Mapping[str, Places], problems: Problems) -> None:
    """Notes a circle among models that need no data to be known; families are checked when they are expanded."""
    edges = {
        name: [need.model for need in template.spec.needs if need.model in templates]
        for name, template in templates.items()
        if template.for_each is None
    }
    path = cycle(edges)
    if path:
        problems.add(
            f"models.{path[0]}.needs: models need each other in a circle: {' → '.join(path)}",
            places[path[0]].of("needs"),
            "Remove one of these `needs`; an arrow reads: needs.",
        )
