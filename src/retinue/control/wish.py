"""Resolves a portfolio into a wish: members, order, schemas, definitions, data facts. The front half of a plan.

The file says what is wished; the tables say which members there are and what types columns have; code and lock
say what a definition is. `core/planner` then compares the wish with what is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retinue.build.bundle import Code, close_code, collect_files
from retinue.build.environment import Lock
from retinue.core.declaration import Planned, hashed_body, planned, request_fields, table_closure
from retinue.core.errors import PortfolioError
from retinue.core.family import Expansion, by_name, expand
from retinue.core.gates import gates_digest
from retinue.core.graph import Graph, renames
from retinue.core.identity import digest, digest_bytes
from retinue.core.plan import Waiting
from retinue.core.portfolio import ModelSpec, ModelTemplate, Portfolio
from retinue.core.settings_body import endpoint_options
from retinue.core.state import Version
from retinue.core.wish import Actual, Options, Wish, WishedModel
from retinue.sources.base import Facts, Pin, Question, Tables

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
        expansion = _expand(template, tables, live)
        kept, said = _lapsed(template, expansion)
        expansions.append(replace(expansion, members=(*expansion.members, *kept)))
        waiting += said
    specs = by_name(expansions)
    renames(specs.values())
    graph = Graph.of(specs.values())
    ordered = {name: specs[name] for name in graph.order}
    return Members(ordered, graph, tuple(waiting), {name: str(spec.where) for name, spec in specs.items()})


def _expand(template: ModelTemplate, tables: Tables, live: Mapping[str, Version]) -> Expansion:
    each = template.for_each
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

    def __init__(self, portfolio: Portfolio, tables: Tables, locks: Mapping[str, Lock]) -> None:
        self.portfolio, self.tables, self.locks = portfolio, tables, locks
        self.root = Path(portfolio.root)
        self.codes: dict[str, Code] = {}
        self.files: dict[tuple[str, ...], dict[str, bytes]] = {}
        self.facts = _FactsBook(tables)

    def wish(self, members: Members, actual: Actual, stage: str, options: Options) -> Wish:
        """The resolved wish. Raises PortfolioError and DataError for what does not fit together."""
        schemas = self._schemas(members.specs)
        fresh_pin = self.tables.pin(tuple(self.portfolio.tables))
        wanted = {name: self._questions(spec, members.specs) for name, spec in members.specs.items()}
        self.facts.ask([(q, fresh_pin) for questions in wanted.values() for q in questions])
        models: dict[str, WishedModel] = {}
        bodies = {name: self._body(spec, schemas) for name, spec in members.specs.items()}
        cutoffs = self._cutoffs(members, bodies, actual, options, fresh_pin)
        for name, spec in members.specs.items():
            closure = table_closure([use.table for use in spec.data], self.portfolio.tables)
            sources = {t: fresh_pin.until.get(t) for t in closure if not self.portfolio.tables[t].is_view}
            fresh = {
                "cutoff": cutoffs[name],
                "sources": sources,
                "tables": [_table_json(q, self.facts.get(q, fresh_pin)) for q in wanted[name]],
            }
            pinned, rewritten = self._pinned(spec, wanted[name], fresh, bodies[name]["tables"], actual)
            models[name] = WishedModel(
                spec=spec,
                definition=digest(bodies[name]),
                body=bodies[name],
                bundle="",
                gates=gates_digest(spec.gates, spec.task),
                fresh=fresh,
                pinned=pinned,
                rewritten=rewritten,
            )
        return Wish(
            portfolio=self.portfolio.name,
            stage=stage,
            models=models,
            endpoints=self.portfolio.endpoints,
            tables=self.portfolio.tables,
            settings=settings_body(self.portfolio, members.specs.values()),
            waiting=members.waiting,
            notes=self.portfolio.notes,
            where=members.where,
        )

    # ── definitions ─────────────────────────────────────────────────────────────────────────────────────────

    def code(self, spec: ModelSpec) -> tuple[Code, dict[str, bytes]]:
        """A model's code closure and its listed files, read once."""
        if spec.train not in self.codes:
            self.codes[spec.train] = self._located(spec, lambda: close_code(spec.train, self.root))
        if spec.files not in self.files:
            self.files[spec.files] = self._located(spec, lambda: collect_files(spec.files, self.root))
        return self.codes[spec.train], self.files[spec.files]

    def _located(self, spec: ModelSpec, read: Any) -> Any:
        try:
            return read()
        except PortfolioError as error:
            if error.where is None:
                raise PortfolioError(error.message, hint=error.hint, where=spec.where) from error
            raise

    def _body(self, spec: ModelSpec, schemas: Mapping[str, Planned]) -> dict[str, Json]:
        code, files = self.code(spec)
        parts = {**code.trees, **{name: digest_bytes(data) for name, data in files.items()}}
        return hashed_body(
            spec,
            code=parts,
            lock=self.locks[spec.environment].digest,
            tables=self.portfolio.tables,
            cutoff=self.portfolio.cutoff,
            schemas={name: schemas[name].schema for name in (spec.name, *(need.model for need in spec.needs))},
        )

    def _schemas(self, specs: Mapping[str, ModelSpec]) -> dict[str, Planned]:
        schemas: dict[str, Planned] = {}
        problems: list[PortfolioError] = []
        for name, spec in specs.items():
            if any(need.model not in schemas for need in spec.needs):
                continue  # its upstream has a problem that is told already
            try:
                self._check_known(spec, specs)
                self._check_divided(spec, specs)
                schemas[name] = planned(spec, self.tables.columns(spec.data[0].table), schemas)
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

    def _questions(self, spec: ModelSpec, specs: Mapping[str, ModelSpec]) -> tuple[Question, ...]:
        """The rows and columns that a build of this model reads, one question per table it uses."""
        found = []
        for place, use in enumerate(spec.data):
            columns = self.tables.columns(use.table)
            used = set(columns) if place else self._used(spec, specs)
            found.append(Question(use.table, use.filters, tuple(sorted(c for c in used if c in columns))))
        return tuple(found)

    def _used(self, spec: ModelSpec, specs: Mapping[str, ModelSpec]) -> set[str]:
        table = self.portfolio.tables[spec.data[0].table]
        own = {c for c in (spec.target, table.time, table.key, spec.holdout.by) if c is not None}
        needed = {need.column for need in spec.needs}
        return own | (set(spec.features) - needed) | set(request_fields(spec, specs))

    def _pinned(
        self,
        spec: ModelSpec,
        wanted: Sequence[Question],
        fresh: Mapping[str, Json],
        tables_body: Mapping[str, Json],
        actual: Actual,
    ) -> tuple[Mapping[str, Json] | None, bool]:
        """The live snapshot's data as this definition reads it; None and True when its rows were rewritten."""
        entries = actual.release.models if actual.release else {}
        live = entries.get(spec.name) or entries.get(spec.was or spec.name)
        if live is None:
            return None, False
        body = actual.snapshots[actual.versions[live.version].snapshot].body
        data = {k: v for k, v in body.items() if k != "upstreams"} | {"cutoff": fresh["cutoff"]}
        pin = Pin.from_json({**fresh["sources"], **body["sources"]})
        old = [_question(t) for t in body["tables"]]
        redeclared = actual.definitions[actual.versions[live.version].definition].body["tables"] != tables_body
        if redeclared:
            # Rows of another view cannot be compared; the pin on its base tables and the cutoff are kept.
            return self._pinned_anew(data, pin, fresh, wanted), False
        if body["tables"] != [t for t in fresh["tables"] if _question(t) in old]:
            if any(q.table not in self.portfolio.tables for q in old):
                return None, True  # a table was renamed or removed: there is nothing to pin to
            try:
                self.facts.ask([(q, pin) for q in old])
            except Exception as error:
                if getattr(error, "fault", "") != "data":
                    raise
                return None, True
            if [_table_json(q, self.facts.get(q, pin)) for q in old] != body["tables"]:
                return None, True
        if [_question(t) for t in body["tables"]] == list(wanted):
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
        tables = [_table_json(q, self.facts.get(q, pin)) for q in wanted]
        sources = {t: pin.until.get(t) for t in fresh["sources"]}
        return {"cutoff": data["cutoff"], "sources": sources, "tables": tables}

    def _cutoffs(
        self,
        members: Members,
        bodies: Mapping[str, Mapping[str, Json]],
        actual: Actual,
        options: Options,
        pin: Pin,
    ) -> dict[str, str | None]:
        """One cutoff per component: the pinned one, unless the whole component is refreshed or has none."""
        found: dict[str, str | None] = {}
        for component in members.graph.components():
            pinned = self._pinned_cutoffs(component, bodies, actual)
            refreshed = all(name in options.refresh for name in component)
            if pinned and not refreshed:
                # After a refresh that landed in part there are several. The newest one is the one that no model
                # was trained beyond.
                cutoff = max(pinned, key=lambda moment: moment or "")
            else:
                used = sorted({members.specs[name].data[0].table for name in component})
                cutoff = self.tables.cutoff(self.portfolio.cutoff, tuple(used), pin)
            found.update(dict.fromkeys(component, cutoff))
        return found

    def _pinned_cutoffs(
        self, component: Iterable[str], bodies: Mapping[str, Mapping[str, Json]], actual: Actual
    ) -> set[str | None]:
        found: set[str | None] = set()
        for name in component:
            entry = actual.release.models.get(name) if actual.release else None
            if entry is None:
                continue
            version = actual.versions[entry.version]
            if actual.definitions[version.definition].body["holdout"]["cutoff"] == bodies[name]["holdout"]["cutoff"]:
                found.add(actual.snapshots[version.snapshot].body["cutoff"])
        return found


class _FactsBook:
    """Facts by question and pin, asked in one go per pin so that a family is scanned once."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.known: dict[tuple[Question, str], Facts] = {}

    def ask(self, wanted: Iterable[tuple[Question, Pin]]) -> None:
        """Have these answered, those that are not yet."""
        by_pin: dict[str, tuple[Pin, list[Question]]] = {}
        for question, pin in wanted:
            key = digest(pin.to_json())
            if (question, key) not in self.known:
                by_pin.setdefault(key, (pin, []))[1].append(question)
        for key, (pin, questions) in by_pin.items():
            unique = list(dict.fromkeys(questions))
            for question, facts in zip(unique, self.tables.facts(unique, pin), strict=True):
                self.known[(question, key)] = facts

    def get(self, question: Question, pin: Pin) -> Facts:
        """An answer that was asked for."""
        return self.known[(question, digest(pin.to_json()))]


def _table_json(question: Question, facts: Facts) -> dict[str, Json]:
    return {
        "table": question.table,
        "filters": [list(f) for f in question.filters],
        "columns": list(question.columns),
        **facts.to_json(),
    }


def _question(body: Mapping[str, Json]) -> Question:
    return Question(body["table"], tuple((c, v) for c, v in body["filters"]), tuple(body["columns"]))


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


def settings_body(portfolio: Portfolio, specs: Iterable[ModelSpec]) -> dict[str, Json]:
    """What is versioned on its own line: metadata, gates on record, policies, protection."""
    options = {name: found for name, spec in portfolio.endpoints.items() if (found := endpoint_options(spec))}
    return {
        **({"endpoints": options} if options else {}),
        "models": {
            spec.name: {
                "metadata": {**asdict(spec.metadata), "tags": sorted(spec.metadata.tags)},
                "gates": _plain(asdict(spec.gates)),
                "policies": {"rollout": spec.rollout, "retrain": spec.retrain, **spec.settings},
                "protect": spec.protect,
            }
            for spec in specs
        },
        "policies": {kind: dict(bodies) for kind, bodies in portfolio.policies.items()},
    }


def _plain(value: Json) -> Json:
    """Tuples as lists, all the way down: what comes back from the registry compares equal."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
