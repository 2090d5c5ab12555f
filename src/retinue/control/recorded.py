"""What is recorded of live versions and never changes, remembered beside the database: a plan reads it without parsing.

A version's id is the digest of its manifest and a snapshot's hash that of its body, so a remembered row can be old
but never wrong. A file that is garbled, or of another Retinue, is passed over and written anew.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.metadata import version as installed
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from retinue.core.identity import digest
from retinue.core.state import Snapshot, Version
from retinue.sources.cache import write_whole
from retinue.store.base import RegistryReader

Json = Any
FORMAT = 1
CHUNK = 500  # manifests held at once while their few needed fields are taken
KEPT = ("family", "key", "needs")
"""What a plan asks of a manifest."""


class _File(msgspec.Struct, array_like=True):
    versions: dict[str, tuple[str, str, str, str, int, Json, Json, Json]]
    snapshots: dict[str, Json]


class Recorded:
    """Heads of versions (whose manifests hold `KEPT` alone) and bodies of snapshots, a file per stage."""

    def __init__(self, folder: Path, portfolio: str, stage: str) -> None:
        self.path = folder / "recorded" / f"{digest([FORMAT, _release(), portfolio, stage])[:40]}.bin"
        self._kept = _File({}, {})
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            data = self.path.read_bytes()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                self._kept = msgspec.msgpack.decode(data[32:], type=_File)

    def heads(self, registry: RegistryReader, ids: Collection[str]) -> tuple[dict[str, Version], dict[str, Snapshot]]:
        """The versions of these ids and their snapshots; what is not remembered is read and remembered."""
        kept = self._kept
        missing = [id_ for id_ in ids if id_ not in kept.versions]
        for chunk in _chunks(missing):
            for found in registry.versions(chunk).values():
                kept.versions[found.id] = (
                    found.portfolio,
                    found.model,
                    found.definition,
                    found.snapshot,
                    found.sibling,
                    found.manifest["family"],
                    found.manifest["key"],
                    found.manifest["needs"],
                )
        versions = {id_: _head(id_, kept.versions[id_]) for id_ in ids if id_ in kept.versions}
        wanted = {v.snapshot for v in versions.values()}
        unread = [hash_ for hash_ in wanted if hash_ not in kept.snapshots]
        for chunk in _chunks(unread):
            kept.snapshots.update((hash_, row.body) for hash_, row in registry.snapshots(chunk).items())
        if missing or unread or len(kept.versions) > 2 * len(versions) + CHUNK:
            self._write({i: kept.versions[i] for i in versions}, wanted)
        return versions, {h: Snapshot(h, kept.snapshots[h]) for h in wanted if h in kept.snapshots}

    def _write(self, versions: dict[str, Any], snapshots: Iterable[str]) -> None:
        found = _File(versions, {h: self._kept.snapshots[h] for h in snapshots if h in self._kept.snapshots})
        payload = msgspec.msgpack.encode(found)
        with contextlib.suppress(OSError):  # a disk that refuses it costs the next plan time, never its answer
            write_whole(self.path, hashlib.sha256(payload).digest() + payload)


def _head(id_: str, row: tuple[str, str, str, str, int, Json, Json, Json]) -> Version:
    portfolio, model, definition, snapshot, sibling, *kept = row
    manifest: Mapping[str, Json] = dict(zip(KEPT, kept, strict=True))
    return Version(id_, portfolio, model, definition, snapshot, manifest, "", sibling)


def _release() -> str:
    return installed("retinue")


def _chunks(values: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
