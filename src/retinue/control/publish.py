"""Compiles a stage's release to the file that gateways read, and points them at it. Safe to repeat."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from retinue.core.errors import StateError
from retinue.core.settings_body import options_digest, served_cache, served_journal, served_model
from retinue.core.state import (
    MEMORY_BYTES,
    Entry,
    Release,
    ReleaseImage,
    ServedEndpoint,
    ServedModel,
    ServedNeed,
    Version,
)
from retinue.store.accessfile import NAME as ACCESS
from retinue.store.accessfile import names_clients, write_access
from retinue.store.base import RegistryReader
from retinue.store.releasefile import point, write_release

Json = Any


NO_SETTINGS: dict[str, Json] = {"models": {}, "policies": {}}


def compile_release(
    release: Release, registry: RegistryReader, settings: Mapping[str, Json] = NO_SETTINGS
) -> ReleaseImage:
    """What a gateway needs to know of a release, from the manifests of its versions and the settings on record."""
    versions = registry.versions({entry.version for entry in release.models.values()})
    memory = _memory(registry, {entry.version for entry in release.models.values()})
    models = {
        name: _served(name, entry, versions[entry.version], memory.get(entry.version, 0), settings)
        for name, entry in release.models.items()
    }
    endpoints = {
        name: ServedEndpoint(
            name,
            body["select"],
            body["fallback"],
            tuple(body["fallback_when"]),
            served_cache(settings, name),
            served_journal(settings, name),
        )
        for name, body in release.endpoints.items()
    }
    options = options_digest(settings)
    return ReleaseImage(release.portfolio, release.stage, release.number, models, endpoints, options)


def recorded_settings(registry: RegistryReader, portfolio: str) -> Mapping[str, Json]:
    """The body of the newest settings revision."""
    found = registry.settings(portfolio)
    return found.body if found is not None else NO_SETTINGS


def _memory(registry: RegistryReader, versions: Collection[str]) -> dict[str, int]:
    """Bytes that versions take when loaded, of those for which it was measured when they were built."""
    found: dict[str, int] = {}
    for version, rows in registry.evidence(versions).items():
        for result in (result for row in rows for result in row.results):
            if result["gate"] == MEMORY_BYTES and result.get("estimate"):
                found.setdefault(version, int(result["estimate"]))
    return found


def _served(name: str, entry: Entry, version: Version, memory: int, settings: Mapping[str, Json]) -> ServedModel:
    body = version.manifest
    return ServedModel(
        name=name,
        version=entry.version,
        artifact=body["artifact"]["digest"],
        format=body["artifact"]["format"],
        signature=body["artifact"]["signature"],
        environment=body["environment"],
        needs=tuple(ServedNeed(n["model"], n["output"], n["column"], dict(n["inputs"])) for n in body["needs"]),
        family=body["family"],
        memory=memory,
        **served_model(settings, name),
    )


def publish(
    registry: RegistryReader, folder: Path, portfolio: str, stage: str, wished: Mapping[str, Json] | None = None
) -> Path | None:
    """Write the current release's file into `folder` and point gateways at it; None when there is no release.

    It is compiled with the settings on record, or with `wished` ones that are about to be recorded: what an endpoint
    keeps out of its journal must hold for its first request.
    """
    release, path = registry.current(portfolio, stage), None
    settings = recorded_settings(registry, portfolio)
    while release is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = write_release(folder, compile_release(release, registry, wished or settings))
        point(folder, release.number)
        # Another apply may have landed and pointed at a newer one meanwhile: that must not be undone.
        published = (release.number, options_digest(settings))
        release, settings = registry.current(portfolio, stage), recorded_settings(registry, portfolio)
        if release is not None and (release.number, options_digest(settings)) == published:
            break
        wished = None
    return path


def publish_access(registry: RegistryReader, folder: Path, portfolio: str) -> bool:
    """Let the rights file in `folder` say what is recorded; returns whether anything had to be written.

    Raises StateError when nothing is recorded and the file names clients: revoked ones stay recorded, so that is a lost
    database, and gateways would let everybody in.
    """
    clients, written = registry.clients(portfolio), False
    if not clients and names_clients(folder):
        raise StateError(
            "the database knows no client, but the rights file names some: the database was lost or is another one",
            where=str(folder / ACCESS),
            hint="Restore the database; or remove that file, if whoever reaches the server may call every endpoint.",
        )
    while True:
        written = write_access(folder, portfolio, clients) or written
        # Somebody else may have recorded and published meanwhile: what was revoked must not come back.
        newest = registry.clients(portfolio)
        if newest == clients:
            return written
        clients = newest
