"""Tables that dbt makes, found in the artifacts that it leaves: `manifest.json`, `run_results.json`, `sources.json`.

dbt itself is not needed. The relation is read through the connection; failed runs, failed tests and stale sources are
told as data checks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retinue.core.checks import CheckResult
from retinue.core.connections import Connection
from retinue.core.errors import DataError
from retinue.core.identity import digest
from retinue.core.portfolio import TableSpec
from retinue.core.suggest import did_you_mean
from retinue.sources.base import Json
from retinue.sources.database import DatabaseOrigin

SCHEMAS = tuple(f"/v{number}.json" for number in range(9, 21))
"""Manifests of dbt 1.5 and later; what is read of them has stood still since."""
_RELATIONS = ("model", "seed", "snapshot", "source")


class Manifest:
    """One dbt project's artifacts. Raises DataError for files that are missing, torn or of another program."""

    def __init__(self, connection: Connection, root: Path, spec: TableSpec) -> None:
        self.spec = spec
        self.path = root / connection.get("manifest", os.environ)
        self.body = self._read(self.path, needed=True)
        beside = self.path.parent
        self.results = self._read(self._other(connection, "run_results", beside / "run_results.json", root))
        self.freshness = self._read(self._other(connection, "sources", beside / "sources.json", root))
        schema = str(self._metadata(self.body).get("dbt_schema_version", ""))
        if "/manifest/" not in schema or not schema.endswith(SCHEMAS):
            raise DataError(
                f"table {spec.name}: {self.path} is no dbt manifest that is known: dbt_schema_version is {schema!r}",
                where=spec.where,
                hint="Name target/manifest.json of dbt 1.5 or later under `manifest` of the connection.",
            )

    def node(self) -> tuple[str, Mapping[str, Json]]:
        """Unique id and node of the table's model, by its name, `package.name` or unique id."""
        wanted = self.spec.dbt or ""
        nodes: dict[str, Json] = {**self.body.get("nodes", {}), **self.body.get("sources", {})}
        made = {i: n for i, n in nodes.items() if n.get("resource_type") in _RELATIONS}
        if wanted in made:
            return wanted, made[wanted]
        named = {i: n for i, n in made.items() if wanted in (n.get("name"), f"{n.get('package_name')}.{n.get('name')}",
                                                             f"{n.get('source_name')}.{n.get('name')}")}  # fmt: skip
        if len(named) == 1:
            return next(iter(named.items()))
        if named:
            raise DataError(
                f"table {self.spec.name}: dbt has several {wanted}: {', '.join(sorted(named))}",
                where=self.spec.where,
                hint="Write one of these ids under `dbt`.",
            )
        raise DataError(
            f"table {self.spec.name}: dbt's manifest has no model {wanted!r}",
            where=self.spec.where,
            hint=did_you_mean(wanted, [str(n.get("name")) for n in made.values()]),
        )

    def relation(self) -> str:
        """The quoted relation as dbt wrote it."""
        id_, node = self.node()
        relation = node.get("relation_name")
        if not relation:
            raise DataError(
                f"table {self.spec.name}: {id_} makes no relation (it is ephemeral or disabled)",
                where=self.spec.where,
                hint="Materialise it as a table or view.",
            )
        return str(relation)

    def stamp(self) -> str:
        """Which runs of dbt these artifacts are of."""
        parts = [self._metadata(body) for body in (self.body, self.results)]
        return "dbt:" + digest([[m.get("invocation_id"), m.get("generated_at")] for m in parts])[:32]

    def checks(self) -> Iterator[CheckResult]:
        """The run of the model, each of its tests, and the freshness of each source under it."""
        id_, node = self.node()
        statuses = {str(r.get("unique_id")): r for r in self.results.get("results", ())}
        parents: Mapping[str, Json] = self.body.get("parent_map", {})
        if id_ in statuses:
            yield self._result("run", str(node.get("name")), statuses[id_])
        for test, result in sorted(statuses.items()):
            if test.startswith(("test.", "unit_test.")) and id_ in self._parents(test, parents):
                name = self.body.get("nodes", {}).get(test, {}).get("name") or test
                yield self._result("test", str(name), result)
        above = _ancestors(id_, parents)
        for result in self.freshness.get("results", ()):
            if str(result.get("unique_id")) in above | {id_}:
                yield self._result("freshness", str(result["unique_id"]).rpartition("source.")[2], result)

    def _parents(self, test: str, parents: Mapping[str, Json]) -> set[str]:
        node = self.body.get("nodes", {}).get(test, {})
        return {*parents.get(test, ()), *node.get("depends_on", {}).get("nodes", ())}

    def _result(self, what: str, name: str, result: Mapping[str, Json]) -> CheckResult:
        status = str(result.get("status"))
        failures = result.get("failures")
        text = (
            "" if status in ("pass", "success") else f"{status}: {str(result.get('message') or '')[:200]}".strip(": ")
        )
        return CheckResult(
            table=self.spec.name,
            check=f"dbt {what}({name})",
            passed=status in ("pass", "success", "warn", "no-op"),
            estimate=float(failures) if failures is not None else None,
            threshold=0.0 if failures is not None else None,
            rows=int(failures or 0),
            text=text,
        )

    @staticmethod
    def _metadata(body: Mapping[str, Json]) -> Mapping[str, Json]:
        found = body.get("metadata")
        return found if isinstance(found, dict) else {}

    @staticmethod
    def _other(connection: Connection, key: str, default: Path, root: Path) -> Path:
        return root / connection.get(key, os.environ) if connection.has(key) else default

    def _read(self, path: Path, *, needed: bool = False) -> dict[str, Any]:
        try:
            body = json.loads(path.read_bytes())
            if isinstance(body, dict):
                return body
        except FileNotFoundError:
            if not needed:
                return {}
            raise DataError(
                f"table {self.spec.name}: there is no dbt manifest {path}",
                where=self.spec.where,
                hint="Run `dbt build` (or `dbt parse`), or correct `manifest` of the connection in retinue.toml.",
            ) from None
        except (OSError, ValueError) as error:
            raise DataError(
                f"table {self.spec.name}: {path} cannot be read: {error}",
                where=self.spec.where,
                hint="The file may be torn: run dbt again.",
            ) from None
        raise DataError(f"table {self.spec.name}: {path} holds no JSON object", where=self.spec.where)


class DbtOrigin(DatabaseOrigin):
    """A dbt relation. Without a `version` query, each run of dbt counts as a new version."""

    def __init__(self, spec: TableSpec, connection: Connection, root: Path) -> None:
        self.manifest = Manifest(connection, root, spec)
        super().__init__(spec, connection, root, f"SELECT * FROM {self.manifest.relation()}")  # noqa: S608 - as dbt quoted it

    def version(self) -> str | None:
        """The `version` query's answer, else which run of dbt this is of."""
        return super().version() if self.spec.version is not None else self.manifest.stamp()


def _ancestors(id_: str, parents: Mapping[str, Json]) -> set[str]:
    found: set[str] = set()
    todo = [id_]
    while todo:
        for parent in parents.get(todo.pop(), ()):
            if parent not in found:
                found.add(parent)
                todo.append(parent)
    return found
