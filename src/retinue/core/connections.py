"""Named connections of `retinue.toml`: where data comes from, and the secrets that open it.

A portfolio names a connection; its URL and keys stay in the settings. Values may hold `${NAME}`, which is taken from
the environment when the connection is used. No text that this module makes holds a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from retinue.core.errors import DataError, Location, PortfolioError
from retinue.core.suggest import did_you_mean

KEYS: Mapping[str, str] = {
    "url": "database URL as SQLAlchemy reads it, for example postgresql+psycopg://user:secret@host/name",
    "endpoint": "address of an S3-speaking server; AWS itself without",
    "region": "its region",
    "key": "access key",
    "secret": "secret key",
    "token": "session token",
    "anonymous": '"true": read without keys',
    "manifest": "dbt's target/manifest.json, relative to the portfolio",
    "run_results": "dbt's run_results.json; default: beside the manifest",
    "sources": "dbt's sources.json; default: beside the manifest",
}
"""What a connection may say."""

_SECRET = frozenset({"secret", "token"})
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PASSWORD = re.compile(r"://[^/@\s]*?:([^/@\s]+)@")


@dataclass(frozen=True, slots=True, repr=False)
class Connection:
    """One connection as written; `environ` fills `${NAME}`. Its text never shows a value."""

    name: str
    values: Mapping[str, str] = field(default_factory=dict)
    where: str = "retinue.toml"

    def __repr__(self) -> str:
        return f"Connection({self.name!r}, {sorted(self.values)})"

    def has(self, key: str) -> bool:
        """Whether the connection says anything about `key`."""
        return key in self.values

    def get(self, key: str, environ: Mapping[str, str]) -> str:
        """A value with its variables filled in. Raises DataError for one that is not set, and for a missing key."""
        if key not in self.values:
            raise DataError(
                f"connection {self.name} has no `{key}`",
                where=self.where,
                hint=f'Add {key} = "…" to [connections.{self.name}] in retinue.toml: {KEYS[key]}.',
            )
        missing = [name for name in _VARIABLE.findall(self.values[key]) if not environ.get(name)]
        if missing:
            raise DataError(
                f"connection {self.name}: the environment variable {missing[0]} is not set",
                where=self.where,
                hint=f"Set {missing[0]}; `{key}` of [connections.{self.name}] is made of it.",
            )
        return _VARIABLE.sub(lambda found: environ[found[1]], self.values[key])

    def scrub(self, text: str, environ: Mapping[str, str]) -> str:
        """`text` without what must stay secret, however it was quoted."""
        hidden: set[str] = set()
        for key, value in self.values.items():
            hidden |= {environ[name] for name in _VARIABLE.findall(value) if environ.get(name)}
            full = _VARIABLE.sub(lambda found: environ.get(found[1], ""), value)
            hidden |= set(_PASSWORD.findall(full)) | ({full} if key in _SECRET else set())
        for secret in sorted(
            {form for s in hidden for form in (s, unquote(s)) if len(form) > 2}, key=len, reverse=True
        ):
            text = text.replace(secret, "***")
        return text


def read_connections(body: Any, file: str) -> dict[str, Connection]:
    """The connections of `[connections.NAME]` tables. Raises PortfolioError; never shows a value."""
    if not isinstance(body, dict):
        raise PortfolioError("[connections] must hold tables", where=Location(file), hint="Write [connections.NAME].")
    found: dict[str, Connection] = {}
    for name, values in body.items():
        if not isinstance(values, dict):
            raise PortfolioError(
                f"[connections] {name} must be a table", where=Location(file), hint=f"Write [connections.{name}]."
            )
        for key, value in values.items():
            if key not in KEYS:
                raise PortfolioError(
                    f"unknown key {key!r} in [connections.{name}]",
                    where=Location(file),
                    hint=did_you_mean(key, KEYS, limit=20),
                )
            if not isinstance(value, str) or not value:
                raise PortfolioError(
                    f"{key} in [connections.{name}] must be text in quotes",
                    where=Location(file),
                    hint='Secrets are named, for example url = "${WAREHOUSE_URL}".',
                )
        found[name] = Connection(name, dict(values), file)
    return found


def connection_of(connections: Mapping[str, Connection], name: str, where: Location, table: str) -> Connection:
    """The connection of that name. Raises DataError with what is near it."""
    if name not in connections:
        raise DataError(
            f"table {table}: retinue.toml has no connection {name!r}",
            where=where,
            hint=f"{did_you_mean(name, connections)} Add [connections.{name}] to retinue.toml beside the portfolio.",
        )
    return connections[name]
