"""Compiles a stage's release to the file that gateways read, and points them at it. Safe to repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retinue.core.state import Entry, Release, ReleaseImage, ServedEndpoint, ServedModel, ServedNeed, Version
from retinue.store.accessfile import write_access
from retinue.store.base import RegistryReader
from retinue.store.releasefile import point, write_release

Json = Any


def compile_release(release: Release, registry: RegistryReader) -> ReleaseImage:
    """What a gateway needs to know of a release, from the manifests of its versions."""
    versions = registry.versions({entry.version for entry in release.models.values()})
    models = {name: _served(name, entry, versions[entry.version]) for name, entry in release.models.items()}
    endpoints = {
        name: ServedEndpoint(name, body["select"], body["fallback"], tuple(body["fallback_when"]))
        for name, body in release.endpoints.items()
    }
    return ReleaseImage(release.portfolio, release.stage, release.number, models, endpoints)


def _served(name: str, entry: Entry, version: Version) -> ServedModel:
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
    )


def publish(registry: RegistryReader, folder: Path, portfolio: str, stage: str) -> Path | None:
    """Write the current release's file into `folder` and point gateways at it; None when there is no release."""
    release, path = registry.current(portfolio, stage), None
    while release is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = write_release(folder, compile_release(release, registry))
        point(folder, release.number)
        # Another apply may have landed and pointed at a newer one meanwhile: that must not be undone.
        published, release = release.number, registry.current(portfolio, stage)
        if release is not None and release.number == published:
            break
    return path


def publish_access(registry: RegistryReader, folder: Path, portfolio: str) -> bool:
    """Let the rights file in `folder` say what is recorded; returns whether anything had to be written."""
    clients, written = registry.clients(portfolio), False
    while True:
        written = write_access(folder, portfolio, clients) or written
        # Somebody else may have recorded and published meanwhile: what was revoked must not come back.
        newest = registry.clients(portfolio)
        if newest == clients:
            return written
        clients = newest
