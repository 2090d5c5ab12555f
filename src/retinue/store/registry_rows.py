"""Between the values of core/state.py and the rows of `tables`: packing, unpacking, nothing else."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from retinue.core import access
from retinue.core.errors import StateError, StateUnavailableError
from retinue.core.identity import canonical, digest_bytes
from retinue.core.publication import Publication
from retinue.core.state import (
    ApplyRecord,
    AuditRow,
    Definition,
    Entry,
    Evidence,
    HistoryRow,
    Hold,
    Json,
    Release,
    SettingsRevision,
    Snapshot,
    Version,
)

T = TypeVar("T")
Row = Mapping[str, Any]
CHUNK = 5_000  # bound parameters in one IN list; SQLite allows 32,766, PostgreSQL 65,535


def chunks(values: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The values in lists of at most `size`, without repeats, in a stable order."""
    iterator = iter(dict.fromkeys(values))
    while chunk := list(islice(iterator, size)):
        yield chunk


def pack(value: Json) -> str:
    """Canonical JSON text. Raises StateError for what JSON cannot hold (NaN, infinities, objects)."""
    try:
        return canonical(value).decode()
    except (TypeError, ValueError) as error:
        raise StateError(
            f"cannot be recorded as JSON: {error}", hint="Record plain values; write missing numbers as null."
        ) from error


def unpack(text: str) -> Any:
    """The value of JSON text."""
    return json.loads(text)


def pack_map(models: Mapping[str, Entry], endpoints: Mapping[str, Mapping[str, Json]]) -> tuple[str, bytes]:
    """(digest, compressed bytes) of a release's content."""
    document = {
        "models": {name: [entry.version, entry.protect] for name, entry in models.items()},
        "endpoints": dict(endpoints),
    }
    data = pack(document).encode()
    return digest_bytes(data), zlib.compress(data)


def unpack_map(body: bytes) -> tuple[dict[str, Entry], dict[str, Mapping[str, Json]]]:
    """The models and endpoints of a release. Raises StateUnavailableError for damaged bytes."""
    try:
        document = json.loads(zlib.decompress(body))
    except (zlib.error, ValueError) as error:
        raise StateUnavailableError(
            f"a stored release is damaged: {error}",
            hint="Restore the state database from a backup; the gateways keep serving the last release.",
        ) from error
    models = {name: Entry(version, protect) for name, (version, protect) in document["models"].items()}
    return models, document["endpoints"]


def release_of(row: Row) -> Release:
    """From a row of `releases` with its map's `body`; without it, the models and endpoints are left out."""
    models, endpoints = unpack_map(row["body"]) if "body" in row else ({}, {})
    return Release(
        portfolio=row["portfolio"],
        stage=row["stage"],
        number=row["number"],
        models=models,
        endpoints=endpoints,
        groups=tuple(tuple(group) for group in unpack(row["groups"])),
        parent=row["parent"],
        cause=row["cause"],
        why=row["why"],
        who=row["who"],
        plan=row["plan"],
        created=row["created"],
    )


def release_row(release: Release, map_digest: str) -> dict[str, Any]:
    """A row of `releases`."""
    return {
        "portfolio": release.portfolio,
        "stage": release.stage,
        "number": release.number,
        "map": map_digest,
        "groups": pack(release.groups),
        "parent": release.parent,
        "cause": release.cause,
        "why": release.why,
        "who": release.who,
        "plan": release.plan,
        "created": release.created,
    }


def definition_of(row: Row) -> Definition:
    """From a row of `definitions`."""
    return Definition(row["hash"], row["model"], unpack(row["body"]), row["bundle"])


def definition_row(value: Definition) -> dict[str, Any]:
    """A row of `definitions`."""
    return {"hash": value.hash, "model": value.model, "body": pack(value.body), "bundle": value.bundle}


def snapshot_of(row: Row) -> Snapshot:
    """From a row of `snapshots`."""
    return Snapshot(row["hash"], unpack(row["body"]))


def snapshot_row(value: Snapshot) -> dict[str, Any]:
    """A row of `snapshots`."""
    return {"hash": value.hash, "body": pack(value.body)}


def version_of(row: Row) -> Version:
    """From a row of `versions`."""
    return Version(
        id=row["id"],
        portfolio=row["portfolio"],
        model=row["model"],
        definition=row["definition"],
        snapshot=row["snapshot"],
        manifest=unpack(row["manifest"]),
        created=row["created"],
        sibling=row["sibling"],
    )


def version_row(value: Version) -> dict[str, Any]:
    """A row of `versions`."""
    return {
        "id": value.id,
        "portfolio": value.portfolio,
        "model": value.model,
        "definition": value.definition,
        "snapshot": value.snapshot,
        "manifest": pack(value.manifest),
        "created": value.created,
        "sibling": value.sibling,
    }


def evidence_of(row: Row) -> Evidence:
    """From a row of `evidence`."""
    return Evidence(
        version=row["version"],
        upstreams=unpack(row["upstreams"]),
        gates=row["gates"],
        verdict=row["verdict"],
        results=tuple(unpack(row["results"])),
        champion=row["champion"],
        created=row["created"],
    )


def evidence_row(value: Evidence) -> dict[str, Any]:
    """A row of `evidence`."""
    return {
        "version": value.version,
        "upstreams": pack(value.upstreams),
        "gates": value.gates,
        "verdict": value.verdict,
        "results": pack(value.results),
        "champion": value.champion,
        "created": value.created,
    }


_HOLD = ("portfolio", "stage", "model", "definition", "snapshot", "version", "cause", "detail", "gates", "created")
_HISTORY = ("release", "model", "old", "new", "cause", "why", "who", "created")
_HOLD_ALL = (*_HOLD, "release", "ended", "ended_why")


def hold_of(row: Row) -> Hold:
    """From a row of `holds`."""
    return Hold(id=row["seq"], **{name: row[name] for name in _HOLD_ALL})


def hold_row(value: Hold) -> dict[str, Any]:
    """A row of `holds`; the id is the database's to give."""
    return {name: getattr(value, name) for name in _HOLD_ALL}


def history_of(row: Row) -> HistoryRow:
    """From a row of `changes` joined with its release."""
    return HistoryRow(**{name: row[name] for name in _HISTORY})


def audit_of(row: Row) -> AuditRow:
    """From a row of `audit`."""
    return AuditRow(row["created"], row["who"], row["act"], row["what"], row["why"], row["plan"])


def audit_row(portfolio: str, value: AuditRow) -> dict[str, Any]:
    """A row of `audit`."""
    return {
        "portfolio": portfolio,
        "created": value.created,
        "who": value.who,
        "act": value.act,
        "what": value.what,
        "why": value.why,
        "plan": value.plan,
    }


def apply_of(row: Row) -> ApplyRecord:
    """From a row of `applies`."""
    return ApplyRecord(
        id=row["id"],
        portfolio=row["portfolio"],
        stage=row["stage"],
        plan=unpack(row["plan"]),
        who=row["who"],
        status=row["status"],
        created=row["created"],
        ended=row["ended"],
        summary=unpack(row["summary"]),
    )


def apply_row(value: ApplyRecord) -> dict[str, Any]:
    """A row of `applies`."""
    return {
        "id": value.id,
        "portfolio": value.portfolio,
        "stage": value.stage,
        "plan": pack(value.plan),
        "who": value.who,
        "status": value.status,
        "created": value.created,
        "ended": value.ended,
        "summary": pack(value.summary),
    }


def settings_of(row: Row) -> SettingsRevision:
    """From a row of `settings`."""
    return SettingsRevision(row["revision"], unpack(row["body"]), row["created"])


def publication_of(row: Row) -> Publication:
    """From a row of `publications`."""
    names = ("why", "who", "created")
    told = (row[name] for name in names)
    return Publication(row["model"], row["digest"], row["format"], row["size"], unpack(row["claimed"]), *told)


def publication_row(portfolio: str, value: Publication) -> dict[str, Any]:
    """A row of `publications`."""
    names = ("model", "digest", "format", "size", "why", "who", "created")
    return {"portfolio": portfolio, "claimed": pack(value.claimed), **{name: getattr(value, name) for name in names}}


def client_of(row: Row) -> access.ClientRecord:
    """From a row of `clients`."""
    return access.from_json(unpack(row["body"]))


def client_body(value: access.ClientRecord) -> str:
    """The `body` of a row of `clients`: equal records have equal text."""
    return pack(access.to_json(value))


def first_by(rows: Sequence[T], key: str) -> dict[str, T]:
    """The first of the values for each value of the attribute `key`."""
    found: dict[str, T] = {}
    for row in rows:
        found.setdefault(getattr(row, key), row)
    return found
