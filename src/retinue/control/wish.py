"""Resolves a portfolio into a wish: members, order, schemas, definitions, data facts. The front half of a plan.

The file says what is wished; the tables say which members there are and what types columns have; code and lock
say what a definition is. `core/planner` then compares the wish with what is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retinue.build.bundle import NO_CODE, Code, close_code, collect_files, together
from retinue.build.environment import Lock
from retinue.build.outside_files import OutsideFiles
from retinue.control.alike import Bodies, Kinds
from retinue.control.keys import keys_by_function
from retinue.control.wish_facts import FactsBook, question_of, same_text, table_json
from retinue.core.declaration import Planned, hashed_body, planned, request_fields, table_closure
from retinue.core.errors import PortfolioError
from retinue.core.family import Expansion, by_name, expand
from retinue.core.gates import gates_digest
from retinue.core.graph import Graph, renames
from retinue.core.identity import digest_bytes
from retinue.core.outside import declared_columns
from retinue.core.plan import Waiting
from retinue.core.portfolio import ModelSpec, ModelTemplate, Portfolio
from retinue.core.settings_body import settings_body
from retinue.core.state import Version
from retinue.core.wish import Actual, Options, Wish, WishedModel
from retinue.sources.base import Pin, Question, Tables

Json = Any


@dataclass(frozen=True, slots=True)
class Members:
    """The models of a portfolio by name, upstreams first, with those that wait for rows or have lapsed."""

    specs: Mapping[str, ModelSpec]
    graph: Graph
    waiting: tuple[Waiting, ...]
    where: Mapping[str, str]


def find_members(portfolio: Portfolio, tables: Tables, live: Mapping[str, Version]) -> Members:
    """Expand every family over its data. `live` are the stage's versions by model name: their members may lapse.

    Raises PortfolioError for cycles, unknown upstreams, double names, and for lapsed members under `lapse: fail`.
    """
    expansions: list[Expansion] = []
    waiting: list[Waiting] = []
    for template in portfolio.models.values():
        expansion = _expand(template, tables, live, Path(portfolio.root))
        kept, said = _lapsed(template, expansion)
        expansions.append(replace(expansion, members=(*expansion.members, *kept)))
        waiting += said
    specs = by_name(expansions)
    renames(specs.values())
    graph = Graph.of(specs.values())
    ordered = {name: specs[name] for name in graph.order}
    return Members(ordered, graph, tuple(waiting), {name: str(spec.where) for name, spec in specs.items()})


def _expand(template: ModelTemplate, tables: Tables, live: Mapping[str, Version], root: Path) -> Expansion:
    each = template.for_each
    if each is not None and each.python is not None:
        return expand(template, keys_by_function(template, tables, root))
    if each is None or each.table is None:
        return expand(template)
    keys = [(k.values, k.rows) for k in tables.keys(each.table, each.columns)]
    family = template.spec.family
    alive = [
        tuple(value for _, value in version.manifest["key"])
        for version in live.values()
        if version.manifest["family"] == family and len(version.manifest["key"]) == len(each.placeholders)
    ]
    return expand(template, keys, alive)


def _lapsed(template: ModelTemplate, expansion: Expansion) -> tuple[list[ModelSpec], list[Waiting]]:
    each = template.for_each
    said = [Waiting(w.name, w.rows, w.min_rows) for w in expansion.waiting]
    if each is None or not expansion.lapsed:
        return [], said
    names = ", ".join(item.spec.name for item in expansion.lapsed[:5])
    if each.lapse == "fail":
        raise PortfolioError(
            f"{names} fell below min_rows ({each.min_rows:,}), and the family says `lapse: fail`",
            where=template.spec.where,
            hint="Look whether rows are missing from the data, or say `lapse: keep` or `remove`.",
        )
    if each.lapse == "remove":
        return [], said
    said += [Waiting(item.spec.name, item.rows, each.min_rows, lapsed=True) for item in expansion.lapsed]
    return [item.spec for item in expansion.lapsed], said


class Wisher:
    """Turns members into a `Wish`. Code closures and files are read once per training function, not per member."""

    def __init__(self, portfolio: Portfolio, tables: Tables, locks: Mapping[str, Lock], outside: OutsideFiles) -> None:
        self.portfolio, self.tables, self.locks, self.outside = portfolio, tables, locks, outside
        self.root = Path(portfolio.root)
        self.codes: dict[tuple[str, str | None], Code] = {}
        self.files: dict[tuple[str, ...], dict[str, bytes]] = {}
        self.facts = FactsBook(tables)
        self.kinds = Kinds({})
        self.bodies: dict[str, tuple[dict[str, Json], str]] = {}

    def resolve(self, members: Members) -> dict[str, tuple[dict[str, Json], str]]:
        """Each model's hashed body and the hash of its definition. Raises PortfolioError for what does not fit."""
        self.kinds = Kinds(members.specs)
        schemas = self._schemas(members.specs)
        bodies = Bodies(self.kinds, schemas, lambda spec: self._body(spec, schemas))
        self.bodies = {name: bodies.of(spec) for name, spec in members.specs.items()}
        return self.bodies

    def wish(self, members: Members, actual: Actual, stage: str, options: Options) -> Wish:
        """The resolved wish. Raises PortfolioError and DataError for what does not fit together."""
        if not self.bodies:
            self.resolve(members)
        fresh_pin = self.tables.pin(tuple(self.portfolio.tables))
        wanted = self._wanted(members.specs)
        self.facts.ask([(q, fresh_pin) for questions in wanted.values() for q in questions])
        cutoffs = self._cutoffs(members, actual, options, fresh_pin)
        gates = {kind: gates_digest(kind.first.gates, kind.first.task) for kind in self.kinds.all}
        sources = {kind: self._sources(kind.first, fresh_pin) for kind in self.kinds.all}
        models: dict[str, WishedModel] = {}
        for name, spec in members.specs.items():
            kind, (body, definition) = self.kinds.of[name], self.bodies[name]
            fresh = {
                "cutoff": cutoffs[name],
                "sources": sources[kind],
                "tables": [table_json(q, self.facts.get(q, fresh_pin)) for q in wanted[name]],
            }
            pinned, rewritten = self._pinned(spec, wanted[name], fresh, self.bodies[name], actual)
            models[name] = WishedModel(spec, definition, body, "", gates[kind], fresh, pinned, rewritten)
        return Wish(
            portfolio=self.portfolio.name,
            stage=stage,
            models=models,
            endpoints=self.portfolio.endpoints,
            tables=self.portfolio.tables,
            settings=self._settings(members.specs, actual),
            waiting=members.waiting,
            notes=(*self.portfolio.notes, *self.tables.notes()),
            where=members.where,
        )

    def _sources(self, spec: ModelSpec, pin: Pin) -> dict[str, str | None]:
        closure = table_closure([use.table for use in spec.data], self.portfolio.tables)
        return pin.json_of([t for t in closure if not self.portfolio.tables[t].is_view])

    def _settings(self, specs: Mapping[str, ModelSpec], actual: Actual) -> Mapping[str, Json]:
        """What is to be on record: the very value that is, if nothing of it changes."""
        parts = {k: settings_body(self.portfolio, [k.first])["models"][k.first.name] for k in self.kinds.all}
        body = settings_body(self.portfolio, ())
        body["models"] = {name: parts[self.kinds.of[name]] for name in specs}
        if actual.settings is not None and same_text(body, parts.values(), actual.settings.body):
            return actual.settings.body
        return body

    # ── definitions ─────────────────────────────────────────────────────────────────────────────────────────

    def code(self, spec: ModelSpec) -> tuple[Code, dict[str, bytes]]:
        """A model's code closure and its listed files, read once."""
        entries = (spec.train, spec.prepare)
        if entries not in self.codes:
            self.codes[entries] = (
                NO_CODE if spec.artifact is not None else self._located(spec, lambda: self._close(spec))
            )
        if spec.files not in self.files:
            self.files[spec.files] = self._located(spec, lambda: collect_files(spec.files, self.root))
        return self.codes[entries], self.files[spec.files]

    def _close(self, spec: ModelSpec) -> Code:
        code = close_code(spec.train, self.root)
        return code if spec.prepare is None else together(code, close_code(spec.prepare, self.root, "prepare"))

    def _located(self, spec: ModelSpec, read: Any) -> Any:
        try:
            return read()
        except PortfolioError as error:
            if error.where is None:
                raise PortfolioError(error.message, hint=error.hint, where=spec.where) from error
            raise

    def _body(self, spec: ModelSpec, schemas: Mapping[str, Planned]) -> dict[str, Json]:
        code, files = self.code(spec)
        found = self.outside.of(spec)
        parts = {**code.trees, **{name: digest_bytes(data) for name, data in files.items()}}
        return hashed_body(
            spec,
            code=parts,
            lock=self.locks[spec.environment].digest if spec.environment else "",
            tables=self.portfolio.tables,
            cutoff=self.portfolio.cutoff,
            schemas={name: schemas[name].schema for name in (spec.name, *(need.model for need in spec.needs))},
            artifact={"digest": found.digest, "format": found.format} if found is not None else None,
        )

    def _schemas(self, specs: Mapping[str, ModelSpec]) -> dict[str, Planned]:
        """Schemas, checked once for each kind; only where one does not fit is every member looked at, to tell it."""
        try:
            firsts = {kind.first.name: kind.first for kind in self.kinds.all}
            found = self._checked(firsts, specs, {})
        except (PortfolioError, KeyError):
            return self._checked(specs, specs, {})
        return {name: found[kind.first.name] for name, kind in self.kinds.of.items()}

    def _checked(
        self, wanted: Mapping[str, ModelSpec], specs: Mapping[str, ModelSpec], schemas: dict[str, Planned]
    ) -> dict[str, Planned]:
        problems: list[PortfolioError] = []
        for name, spec in wanted.items():
            stand_ins = {need.model: self.kinds.of[need.model].first.name for need in spec.needs}
            known = {model: schemas.get(model) or schemas.get(first) for model, first in stand_ins.items()}
            if any(found is None for found in known.values()):
                continue  # its upstream has a problem that is told already
            try:
                if not spec.data:
                    schemas[name] = planned(spec, declared_columns(spec), {})
                    continue
                self._check_known(spec, specs)
                self._check_divided(spec, specs)
                upstreams = {model: found for model, found in known.items() if found is not None}
                schemas[name] = planned(spec, self.tables.columns(spec.data[0].table), upstreams)
            except PortfolioError as error:
                problems.append(error)
        if problems:
            first = problems[0]
            raise PortfolioError(first.message, hint=first.hint, where=first.where, problems=_collapse(problems))
        return schemas

    def _check_known(self, spec: ModelSpec, specs: Mapping[str, ModelSpec]) -> None:
        """Refuse what no request could carry; a column of that name that an upstream answers is another thing."""
        table = self.portfolio.tables[spec.data[0].table]
        answered = {need.column for need in spec.needs}
        asked = (set(spec.features) - answered) | set(request_fields(spec, specs))
        for column, delay in table.available:
            if column in asked:
                raise PortfolioError(
                    f"model {spec.name}: feature {column!r} is known only {delay:g} s after {table.time} "
                    f"in {table.name}: no request could carry it",
                    where=spec.where,
                    hint=f"Remove {column} from the features, or correct `available` of {table.name}.",
                )

    def _check_divided(self, spec: ModelSpec, specs: Mapping[str, ModelSpec]) -> None:
        """Refuse an upstream that would be trained on rows that this model holds out by a key."""
        table = self.portfolio.tables[spec.data[0].table]
        for need in spec.needs if table.time is None else ():
            upstream = specs[need.model]
            if not upstream.data:
                continue  # made elsewhere, of rows that nobody knows here
            theirs = self.portfolio.tables[upstream.data[0].table]
            same = (spec.holdout.by or table.key) == (upstream.holdout.by or theirs.key)
            if theirs.time is None and same and upstream.holdout.share >= spec.holdout.share:
                continue
            raise PortfolioError(
                f"model {spec.name} holds rows out by another rule than {need.model}, which would be trained on some",
                where=spec.where,
                hint="Give both tables `time`, or neither; without, the same `holdout: {by: …, share: …}` to both.",
            )

    # ── data ────────────────────────────────────────────────────────────────────────────────────────────────

    def _wanted(self, specs: Mapping[str, ModelSpec]) -> dict[str, tuple[Question, ...]]:
        """The rows and columns that a build of each model reads, one question per table it uses."""
        columns = {kind: self._columns(kind.first, specs) for kind in self.kinds.all}
        return {
            name: tuple(
                Question(use.table, use.filters, names)
                for use, names in zip(spec.data, columns[self.kinds.of[name]], strict=True)
            )
            for name, spec in specs.items()
        }

    def _columns(self, spec: ModelSpec, specs: Mapping[str, ModelSpec]) -> tuple[tuple[str, ...], ...]:
        found = []
        for place, use in enumerate(spec.data):
            columns = self.tables.columns(use.table)
            used = set(columns) if place else self._used(spec, specs)
            found.append(tuple(sorted(c for c in used if c in columns)))
        return tuple(found)

    def _used(self, spec: ModelSpec, specs: Mapping[str, ModelSpec]) -> set[str]:
        table = self.portfolio.tables[spec.data[0].table]
        own = {c for c in (spec.target, table.time, table.key, spec.holdout.by) if c is not None}
        needed = {need.column for need in spec.needs}
        return own | set(spec.forecast.series) | (set(spec.features) - needed) | set(request_fields(spec, specs))

    def _pinned(
        self,
        spec: ModelSpec,
        wanted: Sequence[Question],
        fresh: Mapping[str, Json],
        own: tuple[Mapping[str, Json], str],
        actual: Actual,
    ) -> tuple[Mapping[str, Json] | None, bool]:
        """The live snapshot's data as this definition reads it; None and True when its rows were rewritten."""
        entries = actual.release.models if actual.release else {}
        live = entries.get(spec.name) or entries.get(spec.was or spec.name)
        if live is None:
            return None, False
        version = actual.versions[live.version]
        body = actual.snapshots[version.snapshot].body
        same = version.definition == own[1]
        if same and body["tables"] == fresh["tables"] and body["sources"] == fresh["sources"]:
            return fresh, False  # nothing moved, and both are cut where the pinned one was
        data = {k: v for k, v in body.items() if k != "upstreams"} | {"cutoff": fresh["cutoff"]}
        pin = Pin.from_json({**fresh["sources"], **body["sources"]})
        old = [question_of(t) for t in body["tables"]]
        redeclared = not same and actual.definitions[version.definition].body["tables"] != own[0]["tables"]
        if redeclared:
            # Rows of another view cannot be compared; the pin on its base tables and the cutoff are kept.
            return self._pinned_anew(data, pin, fresh, wanted), False
        if body["tables"] != [t for t in fresh["tables"] if question_of(t) in old]:
            if any(q.table not in self.portfolio.tables for q in old):
                return None, True  # a table was renamed or removed: there is nothing to pin to
            try:
                self.facts.ask([(q, pin) for q in old])
            except Exception as error:
                if getattr(error, "fault", "") != "data":
                    raise
                return None, True
            if [table_json(q, self.facts.get(q, pin)) for q in old] != body["tables"]:
                return None, True
        if [question_of(t) for t in body["tables"]] == list(wanted):
            return data, False
        return self._pinned_anew(data, pin, fresh, wanted), False

    def _pinned_anew(
        self,
        data: Mapping[str, Json],
        pin: Pin,
        fresh: Mapping[str, Json],
        wanted: Sequence[Question],
    ) -> Mapping[str, Json]:
        """Other columns or tables of the same moment: the pin is kept, the facts are new."""
        self.facts.ask([(q, pin) for q in wanted])
        tables = [table_json(q, self.facts.get(q, pin)) for q in wanted]
        sources = pin.json_of([t for t in fresh["sources"] if t in self.portfolio.tables])
        return {"cutoff": data["cutoff"], "sources": sources, "tables": tables}

    def _cutoffs(
        self,
        members: Members,
        actual: Actual,
        options: Options,
        pin: Pin,
    ) -> dict[str, str | None]:
        """One cutoff per component: the pinned one, unless the whole component is refreshed or has none."""
        found: dict[str, str | None] = {}
        asked: dict[tuple[str, ...], str | None] = {}
        for component in members.graph.components():
            pinned = self._pinned_cutoffs(component, actual)
            refreshed = all(name in options.refresh for name in component)
            if pinned and not refreshed:
                # After a refresh that landed in part there are several. The newest one is the one that no model
                # was trained beyond.
                cutoff = max(pinned, key=lambda moment: moment or "")
            else:
                used = tuple(sorted({members.specs[n].data[0].table for n in component if members.specs[n].data}))
                if used not in asked:
                    asked[used] = self.tables.cutoff(self.portfolio.cutoff, used, pin)
                cutoff = asked[used]
            found.update(dict.fromkeys(component, cutoff))
        return found

    def _pinned_cutoffs(self, component: Iterable[str], actual: Actual) -> set[str | None]:
        found: set[str | None] = set()
        for name in component:
            entry = actual.release.models.get(name) if actual.release else None
            if entry is None:
                continue
            version = actual.versions[entry.version]
            body, definition = self.bodies[name]
            old = body if version.definition == definition else actual.definitions[version.definition].body
            if old["holdout"]["cutoff"] == body["holdout"]["cutoff"]:
                found.add(actual.snapshots[version.snapshot].body["cutoff"])
        return found


def _collapse(problems: Sequence[PortfolioError]) -> tuple[PortfolioError, ...]:
    """One problem per place in the file: 26 members of a template with the same fault are one fault."""
    found: dict[str | None, tuple[PortfolioError, int]] = {}
    for problem in problems:
        first, count = found.get(problem.where, (problem, 0))
        found[problem.where] = (first, count + 1)
    return tuple(
        first
        if count == 1
        else PortfolioError(f"{first.message} (and {count - 1} more of its family)", hint=first.hint, where=first.where)
        for first, count in found.values()
    )
