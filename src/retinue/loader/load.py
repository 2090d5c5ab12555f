"""The loader's main path: read, refuse what is not carried out, check shapes, convert, check what belongs together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from retinue.core.errors import Location, PortfolioError
from retinue.core.portfolio import CutoffSpec, ModelTemplate, Portfolio
from retinue.loader import check, convert, convert_data, schema, schema_data
from retinue.loader.explain import validate
from retinue.loader.include import read_all
from retinue.loader.later import refuse
from retinue.loader.notes import notes
from retinue.loader.prepare import finite, nulls_in_overrides, prepare_model, prepare_override
from retinue.loader.problems import SHAPE, Problems
from retinue.loader.read import Entry, Node
from retinue.loader.schema_outside import OutsideModel
from retinue.loader.test_files import test_files, with_digests
from retinue.loader.types import NAME

ShapeT = TypeVar("ShapeT", bound=BaseModel)
ValueT = TypeVar("ValueT")


def load(path: Path) -> Portfolio:
    """The portfolio that a file (with its included files) declares; relative paths start from the file's folder.

    Reads nothing but these files. Raises PortfolioError whose `problems` are all that was found.
    """
    return _Loader(path).load()


def load_with_files(path: Path) -> tuple[Portfolio, tuple[Path, ...]]:
    """The same with the files that it was read from, the main one first."""
    loader = _Loader(path)
    found = loader.load()
    return found, (path.absolute(), *sorted(loader.included), *test_files(found.models.values(), path.parent))


class _Loader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems = Problems()
        self.included: set[Path] = set()
        self.root = read_all(path, self.problems, self.included)
        finite(self.root, self.problems)
        self.root, self.refused = refuse(self.root, self.problems)

    def load(self) -> Portfolio:
        top = Location(self.path.name, 1, 1)
        main = validate(schema.Main, _outline(self.root), "", top, self.problems)
        cutoff = self.cutoff(main.cutoff) if main else CutoffSpec()
        tables = self.section("data", schema_data.Table, convert_data.table)
        environments = self.section("environments", schema.Environment, convert.environment)
        policies = self.policies()
        defaults = self.defaults()
        shapes = self.models(defaults)
        known = check.Known(
            tables=frozenset(self.names("data")),
            environments=frozenset(self.names("environments")),
            rollout=frozenset(self.names("policies", "rollout")),
            retrain=frozenset(self.names("policies", "retrain")),
            models=frozenset(self.names("models")),
            timeless=frozenset(name for name, table in tables.items() if table.time is None),
        )
        models = self.templates(shapes, known)
        endpoints = self.section("endpoints", schema.Endpoint, convert.endpoint)
        for name, spec in endpoints.items():
            node = self.entry("endpoints", name).node
            check.endpoint(spec, {k: entry.at for k, entry in (node.entries or {}).items()}, known, self.problems)
            places = check.Places(name, spec.where, dict(_places(node)))
            check.redaction(spec, places, check.request_names(spec, models), self.problems)
        self.problems.check()
        assert main is not None
        found = Portfolio(
            name=main.portfolio,
            root=str(self.path.parent),
            file=str(self.path),
            cutoff=cutoff,
            tables=tables,
            environments=environments,
            policies=policies,
            models=models,
            endpoints=endpoints,
        )
        return replace(found, notes=notes(found))

    def entry(self, *path: str) -> Entry:
        node = self.root
        for name in path[:-1]:
            node = node.get(name) or node
        assert node.entries is not None
        return node.entries[path[-1]]

    def names(self, *path: str) -> Iterator[str]:
        node: Node | None = self.root
        for name in path:
            node = node.get(name) if node is not None else None
        if node is not None:
            yield from node.entries or {}

    def section(
        self, name: str, cls: type[ShapeT], make: Callable[[str, ShapeT, Location], ValueT]
    ) -> dict[str, ValueT]:
        """The entries of one section that are well shaped, by name."""
        found: dict[str, ValueT] = {}
        for key in self.names(name):
            entry = self.entry(name, key)
            self.entry_name(name, entry)
            shape = self.shape(cls, entry.node, (name, key), entry.at)
            if shape is not None:
                found[key] = make(key, shape, entry.at)
        return dict(sorted(found.items()))

    def entry_name(self, section: str, entry: Entry) -> None:
        if not _NAME.fullmatch(entry.key):
            self.problems.add(
                f"{section}: {entry.key!r} is not a name",
                entry.at,
                "Use letters, digits and . _ ~ -, beginning with a letter or digit.",
                SHAPE,
            )

    def shape(self, cls: type[ShapeT], node: Node, path: tuple[str, ...], at: Location) -> ShapeT | None:
        """A checked shape; what is missing beside something refused is not told."""
        whole = path[:2] not in self.refused
        return validate(cls, node, ".".join(path), at, self.problems, whole=whole)

    def cutoff(self, text: str) -> CutoffSpec:
        try:
            return convert.cutoff(text)
        except ValueError:
            at = self.entry("cutoff").node.at
            hint = 'Write "last 20%", or a date without zone: 2013-04-01 or "2013-04-01 06:00".'
            self.problems.add(f"cutoff: expected a share or a date, found {text!r}", at, hint, SHAPE)
            return CutoffSpec()

    def policies(self) -> dict[str, dict[str, Any]]:
        if "policies" not in (self.root.entries or {}):
            return {"rollout": {}, "retrain": {}}
        entry = self.entry("policies")
        shape = self.shape(schema.Policies, entry.node, ("policies",), entry.at)
        if shape is None:
            return {}
        return {
            kind: {name: convert.policy(body) for name, body in sorted(getattr(shape, kind).items())}
            for kind in ("rollout", "retrain")
        }

    def defaults(self) -> Node | None:
        if "defaults" not in (self.root.entries or {}):
            return None
        entry = self.entry("defaults")
        self.shape(schema.ModelFields, prepare_override(entry.node), ("defaults",), entry.at)
        return entry.node

    def models(self, defaults: Node | None) -> dict[str, tuple[schema.Model | OutsideModel, Node, Location]]:
        found: dict[str, tuple[schema.Model | OutsideModel, Node, Location]] = {}
        for name in self.names("models"):
            entry = self.entry("models", name)
            check.model_name(name, entry.at, self.problems)
            for key in nulls_in_overrides(entry.node):
                self.problems.add(
                    f"models.{name}.override: `{key.key}` has no value",
                    key.at,
                    "Write a value; a null takes away defaults of a whole model only.",
                    SHAPE,
                )
            node = prepare_model(entry.node, defaults)
            shape: schema.Model | OutsideModel | None
            if node.get("artifact") is not None:
                shape = self.shape(OutsideModel, node, ("models", name), entry.at)
            else:
                shape = self.shape(schema.Model, node, ("models", name), entry.at)
            if shape is not None and self.one_table(node, name):
                found[name] = (shape, node, entry.at)
        return found

    def one_table(self, node: Node, name: str) -> bool:
        """A mapping of several tables would give the order of keys a meaning: the first holds the rows."""
        data = node.get("data")
        several = (
            [item for item in (data, *(data.items or ())) if item.entries and len(item.entries) > 1] if data else []
        )
        for item in several:
            self.problems.add(
                f"models.{name}.data: a mapping names one table, this one {len(item.entries or {})}",
                item.at,
                "Write a list, the table with the rows that are predicted first: [{flights: {where: …}}, weather].",
            )
        return not several

    def templates(
        self, shapes: Mapping[str, tuple[schema.Model | OutsideModel, Node, Location]], known: check.Known
    ) -> dict[str, ModelTemplate]:
        drafts: dict[str, ModelTemplate] = {}
        places: dict[str, check.Places] = {}
        for name, (shape, node, at) in sorted(shapes.items()):
            override = node.get("override")
            inside = {key: entry.at for key, entry in (override.entries or {}).items()} if override else {}
            places[name] = check.Places(name, at, dict(_places(node)))
            if isinstance(shape.for_each, schema_data.Listed) and shape.for_each.csv is not None:
                self.included.add((self.path.parent / shape.for_each.csv).absolute())
            try:
                drafts[name] = convert.template(name, shape, at, inside, self.path.parent)
            except PortfolioError as error:
                self.problems.extend(error)
        root = self.path.parent
        drafts = {n: with_digests(draft, root, places[n], self.problems) for n, draft in drafts.items()}
        found = {name: check.complete(draft, drafts) for name, draft in drafts.items()}
        for name, template in found.items():
            check.model(template, found, known, places[name], self.problems)
        check.circles(found, places, self.problems)
        return found


_NAME = re.compile(NAME)


def _outline(root: Node) -> Node:
    """The root with its sections as they are; a section left empty counts as absent."""
    kept = {k: e for k, e in (root.entries or {}).items() if not _is_empty(e.node)}
    return Node(root.at, entries=kept)


def _places(node: Node, prefix: str = "") -> Iterator[tuple[str, Location]]:
    for key, entry in (node.entries or {}).items():
        yield f"{prefix}{key}", entry.at
        yield from _places(entry.node, f"{prefix}{key}.")
    for index, item in enumerate(node.items or ()):
        label = item.text if isinstance(item.value, str) else str(index)
        yield f"{prefix}{label}", item.at
        yield from _places(item, f"{prefix}{index}.")


def _is_empty(node: Node) -> bool:
    return node.entries is None and node.items is None and node.value is None
