"""Where things live and which ports are used: `retinue.toml` beside the portfolio, then `RETINUE_*` over it.

[state]   directory = ".retinue"   database = "sqlite:///…"   artifacts = "file:///…"
[serve]   host = "127.0.0.1"  port = 8080  admin_port = 8081  grpc_port = 8001  gateways = 1
          anonymous = false  tls_certificate = "tls.crt"  tls_key = "tls.key"
[build]   workers = 2
[journal] enabled = true  budget = 4194304  rotate_seconds = 300.0  retain_days = 30  …
[gc]      releases = 10  days = 30
[log]     level = "warning"  file = "serve.log"  slow = 0.5
[connections.NAME]  url = "${WAREHOUSE_URL}"   (see `core/connections`)
[approvers] GROUP = ["ada", "grace"]   (who may approve, by the names of the audit trail)
[telemetry] endpoint = "http://localhost:4318"  sample = 0.01
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retinue.core.connections import Connection, read_connections
from retinue.core.errors import Location, PortfolioError, UsageError
from retinue.core.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Settings:
    """Deployment settings; sizes in bytes, times in seconds."""

    directory: Path  # .retinue
    database: str  # SQLAlchemy URL
    artifacts: str  # fsspec URL
    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int = 8081
    grpc_port: int | None = None  # None: no gRPC; 0: the system chooses
    gateways: int = 1
    workers_per_environment: int = 1  # of one gateway: processes that each host all of an environment's models
    max_body: int = 16 * 1024**2
    max_rows: int = 100_000  # of one request: they share the loop with all other requests of their gateway
    max_queue: int = 4096  # requests that may wait in one gateway
    request_timeout: float = 30.0
    memory: str = ""  # of one host, for loaded models, like "1GiB" or "40%"; empty: half of what is available
    repository_control: bool = False  # clients may warm (load) and evict (unload) models; nothing is ever deployed so
    anonymous: bool = False  # requests without a key are served even where clients are registered
    tls_certificate: str = ""  # PEM file of the certificate and its chain; empty: plain HTTP
    tls_key: str = ""  # PEM file of its private key
    build_workers: int = 0  # 0: one per core
    journal_enabled: bool = True
    journal_directory: str = ""  # within the state folder unless absolute; empty: `journal`
    journal_budget: int = 4 * 1024**2  # bytes/s of a gateway that are always kept; tensors beyond it are sampled
    journal_rotate_bytes: int = 8 * 1024**2
    journal_rotate_seconds: float = 300.0
    journal_retain_days: int = 30  # 0: for ever
    journal_retain_bytes: int = 10 * 1024**3  # of one stage; 0: without bound
    journal_fsync: bool = False  # before answers leave: survives a loss of power, costs a disk's latency
    log_level: str = "warning"  # debug, info, warning or error
    log_file: str = ""  # empty: standard error, and .retinue/logs/serve.log, which is rotated
    log_slow: float = 0.0  # seconds from which a request is logged as slow; 0: never
    gc_releases: int = 10  # newest releases of a stage that can be rolled back to
    gc_days: int = 30  # days for which what was live or built can be rolled back to; at least the journal's retention
    telemetry_endpoint: str = ""  # base URL of an OTLP/HTTP collector; empty: OTEL_EXPORTER_OTLP_ENDPOINT, else off
    connections: Mapping[str, Connection] = field(default_factory=dict)  # by name; their text shows no secrets
    approvers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # group → who may approve
    telemetry_sample: float = 0.01  # share of requests traced when the caller does not say

    @property
    def environments(self) -> Path:
        """Materialised environments, one folder per lock digest."""
        return self.directory / "environments"

    @property
    def cache(self) -> Path:
        """What can be recomputed: expansions, fingerprints, converted sources."""
        return self.directory / "cache"

    @property
    def logs(self) -> Path:
        """Training and serving logs."""
        return self.directory / "logs"

    @property
    def journals(self) -> Path:
        """The journals of all stages, and the key of hashed fields."""
        return self.directory / (self.journal_directory or "journal")

    def journal(self, portfolio: str, stage: str) -> Path:
        """Folder with the journal of one stage. Raises UsageError for a name that no folder may have."""
        check_name("portfolio", portfolio)
        check_name("stage", stage)
        return self.journals / portfolio / stage

    def releases(self, portfolio: str, stage: str) -> Path:
        """Folder with the release files of one stage. Raises UsageError for a name that no folder may have."""
        check_name("portfolio", portfolio)
        check_name("stage", stage)
        return self.directory / "releases" / portfolio / stage


def check_name(what: str, name: str) -> None:
    """Raise UsageError unless it can be the name of a folder, and of one within its parent."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}", name):
        raise UsageError(
            f"{name!r:.120} cannot be the name of a {what}",
            hint="Use at most 100 letters, digits and . _ ~ -, beginning with a letter or digit.",
        )


_KEYS: Mapping[str, Mapping[str, type]] = {
    "state": {"directory": str, "database": str, "artifacts": str},
    "serve": {
        "host": str,
        "port": int,
        "admin_port": int,
        "grpc_port": int,
        "gateways": int,
        "repository_control": bool,
        "workers_per_environment": int,
        "max_body": int,
        "max_rows": int,
        "max_queue": int,
        "request_timeout": float,
        "memory": str,
        "anonymous": bool,
        "tls_certificate": str,
        "tls_key": str,
    },
    "build": {"workers": int},
    "journal": {
        "enabled": bool,
        "directory": str,
        "budget": int,
        "rotate_bytes": int,
        "rotate_seconds": float,
        "retain_days": int,
        "retain_bytes": int,
        "fsync": bool,
    },
    "gc": {"releases": int, "days": int},
    "log": {"level": str, "file": str, "slow": float},
    "telemetry": {"endpoint": str, "sample": float},
}
_NO_END = float("inf")
_RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "admin_port": (0, 65535),
    "grpc_port": (0, 65535),
    "gateways": (1, 1024),
    "workers_per_environment": (1, 1024),
    "max_body": (1, _NO_END),
    "max_rows": (1, _NO_END),
    "max_queue": (1, _NO_END),
    "request_timeout": (0.001, _NO_END),
    "build_workers": (0, 1024),
    "gc_releases": (1, _NO_END),
    "gc_days": (0, 36_500),
    "journal_budget": (0, _NO_END),
    "journal_rotate_bytes": (1024, 1024**3),
    "journal_rotate_seconds": (0.1, _NO_END),
    "journal_retain_days": (0, _NO_END),
    "journal_retain_bytes": (0, _NO_END),
}
_IN_WORDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def load_settings(root: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings for the portfolio in folder `root`. Raises PortfolioError for unknown keys or wrong types."""
    environ = os.environ if environ is None else environ
    file = root / "retinue.toml"
    values = {**_of_file(file), **_of_environment(environ)}
    directory = (root / values.pop("directory", ".retinue")).resolve()
    for name in ("tls_certificate", "tls_key", "log_file"):
        if values.get(name):
            values[name] = str((root / values[name]).resolve())
    _check_range(values, file)
    base = Settings(
        directory=directory,
        database=values.pop("database", f"sqlite:///{directory / 'state.db'}"),
        artifacts=values.pop("artifacts", f"file://{directory / 'artifacts'}"),
    )
    return replace(base, **values)


def _name(section: str, key: str) -> str:
    return f"{section}_{key}" if section in ("build", "gc", "journal", "log", "telemetry") else key


def _of_file(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise PortfolioError(
            f"not valid TOML: {error}", where=Location(str(file)), hint="Correct retinue.toml."
        ) from error
    values: dict[str, Any] = {}
    connections = document.pop("connections", None)
    if connections is not None:
        values["connections"] = read_connections(connections, str(file))
    if "approvers" in document:
        values["approvers"] = _approvers(document.pop("approvers"), file)
    for section, body in document.items():
        if section not in _KEYS or not isinstance(body, dict):
            raise PortfolioError(
                f"unknown section [{section}]",
                where=Location(str(file)),
                hint=did_you_mean(section, [*_KEYS, "connections", "approvers"]),
            )
        for key, value in body.items():
            _check(section, key, value, file)
            values[_name(section, key)] = value
    return values


def _approvers(body: Any, file: Path) -> dict[str, tuple[str, ...]]:
    """Groups and their members. Raises PortfolioError."""
    found: dict[str, tuple[str, ...]] = {}
    for group, names in body.items() if isinstance(body, dict) else [("", None)]:
        good = isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)
        if not good or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", group):
            raise PortfolioError(
                f"[approvers] {group!r:.60} is not a group with a list of names",
                where=Location(str(file)),
                hint='Write GROUP = ["ada", "grace"]; names as in the audit trail: RETINUE_USER, or the login.',
            )
        found[group] = tuple(names or ())
    return found


def _of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section, keys in _KEYS.items():
        for key, kind in keys.items():
            variable = f"RETINUE_{_name(section, key).upper()}"
            if variable in environ:
                try:
                    values[_name(section, key)] = _parsed(environ[variable], kind)
                except ValueError as error:
                    raise PortfolioError(
                        f"{variable}={environ[variable]!r} is not {_IN_WORDS[kind]}",
                        hint="Correct or unset the variable.",
                    ) from error
    return values


LEVELS = ("debug", "info", "warning", "error")


def _check_range(values: Mapping[str, Any], file: Path) -> None:
    """Raise PortfolioError for values that no gateway could use."""
    level, sample = values.get("log_level", "warning"), values.get("telemetry_sample", 0.0)
    if level not in LEVELS:
        raise PortfolioError(
            f"level in [log] is {level!r}", where=Location(str(file)), hint=f"Levels are: {', '.join(LEVELS)}."
        )
    try:
        parse_memory(values.get("memory", ""), 0)
    except ValueError as error:
        raise PortfolioError(
            f"memory in [serve] is {values['memory']!r}",
            where=Location(str(file)),
            hint='Write a size like "1GiB" or "500MB", or a share of what is available like "40%".',
        ) from error
    for name, (least, most) in _RANGES.items():
        value = values.get(name, least)
        if not least <= value <= most:
            bound = f"between {least:g} and {most:g}" if most < _NO_END else f"at least {least:g}"
            raise PortfolioError(f"{name} is {value}", where=Location(str(file)), hint=f"It is {bound}.")
    if not 0 <= sample <= 1:
        raise PortfolioError(
            f"sample in [telemetry] is {sample}", where=Location(str(file)), hint="It is a share: 0 to 1."
        )
    if values.get("log_slow", 0.0) < 0:
        raise PortfolioError(
            f"slow in [log] is {values['log_slow']}", where=Location(str(file)), hint="It is seconds; 0 for never."
        )
    if bool(values.get("tls_certificate")) != bool(values.get("tls_key")):
        raise PortfolioError(
            "[serve] has only one of tls_certificate and tls_key",
            where=Location(str(file)),
            hint="Name both PEM files, or neither for plain HTTP.",
        )


_UNITS = {"": 1, "B": 1, **{f"{letter}{tail}": base**power for tail, base in (("B", 1000), ("iB", 1024))
                            for power, letter in enumerate("KMGT", 1)}}  # fmt: skip


def parse_memory(text: str, available: int) -> int:
    """The bytes that a `memory` setting means where `available` bytes are there. Raises ValueError.

    >>> parse_memory("1GiB", 0), parse_memory("", 1000), parse_memory("40%", 1000)
    (1073741824, 500, 400)
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(%|[KMGT]?i?B|)", text.strip() or "50%")
    if found is None or (found[2] != "%" and found[2] not in _UNITS):
        raise ValueError(text)
    size = float(found[1]) * (available / 100 if found[2] == "%" else _UNITS[found[2]])
    if found[2] == "%" and not 0 < float(found[1]) <= 100:
        raise ValueError(text)
    return int(size)


def _parsed(text: str, kind: type) -> Any:
    """A variable's text as a setting. Raises ValueError."""
    if kind is not bool:
        return kind(text)
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _check(section: str, key: str, value: Any, file: Path) -> None:
    kind = _KEYS[section].get(key)
    if kind is None:
        raise PortfolioError(
            f"unknown key {key!r} in [{section}]",
            where=Location(str(file)),
            hint=did_you_mean(key, _KEYS[section], limit=20),
        )
    if not isinstance(value, (int, float) if kind is float else kind) or (isinstance(value, bool) and kind is not bool):
        raise PortfolioError(
            f"{key} in [{section}] must be {_IN_WORDS[kind]}, not {value!r}",
            where=Location(str(file)),
            hint=f"Correct retinue.toml, or remove `{key}`.",
        )
