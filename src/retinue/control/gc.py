"""Garbage: what no gateway, rollback, hold or retained record needs any more; found first, removed when told.

Rows stay: history only grows. A version whose bytes went is built again when the file wishes it back. Everything that
is younger than the grace period stays, whoever made it; a lease keeps appliers out meanwhile, and gc out of theirs.
Removing is a list of single removals: one that was killed is repeated.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from retinue.build.environment import list_environments, prune
from retinue.control.effects import GcEffect, OnStep, ignore
from retinue.control.pins import Keep, bytes_in, bytes_of, kept_releases, pinned_versions
from retinue.core.errors import StateError
from retinue.core.state import Version
from retinue.settings import Settings
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.base import Registry
from retinue.store.registry_dump import Dump
from retinue.store.releasefile import ReleaseFile, pointer

GRACE = 24 * 3600.0
"""Seconds for which everything stays: an apply may have stored it and not named it yet."""
DAY = 86_400.0
_EFFECTS = {
    "artifact": GcEffect.ARTIFACT_REMOVED,
    "environment": GcEffect.ENVIRONMENT_REMOVED,
    "release file": GcEffect.RELEASE_FILE_REMOVED,
    "log": GcEffect.LOG_REMOVED,
    "cache": GcEffect.CACHE_REMOVED,
}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can go. `kind`: artifact, environment, release file, log, cache."""

    kind: str
    name: str
    bytes: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What would go, and how much of what there is stays."""

    items: tuple[Item, ...]
    kept_versions: int
    kept_artifacts: int

    @property
    def bytes(self) -> int:
        """Of all items together."""
        return sum(item.bytes for item in self.items)


@dataclass(frozen=True, slots=True)
class Collector:
    """One gc. `used` are digests of locks that the portfolio's file declares; ages in seconds."""

    dump: Dump
    registry: Registry
    artifacts: FsspecArtifacts
    settings: Settings
    keep: Keep
    used: frozenset[str] = frozenset()
    grace: float = GRACE
    cache_age: float = 30 * DAY

    def find(self) -> Garbage:
        """What may go now. Raises StateError when the database knows less than the release files: it was lost."""
        versions, portfolios = self.dump.all_versions(), self.dump.portfolios()
        served = self._served()
        self._check_whole(versions)
        pinned = pinned_versions(self.registry, portfolios, versions, self.keep)
        kept = [version for version in versions if version.id in pinned]
        definitions = self.registry.definitions({version.definition for version in kept})
        needed = served | self.dump.published() | {d.bundle for d in definitions.values()}
        for definition in definitions.values():
            needed |= bytes_in(definition.body)
        for version in kept:
            needed |= bytes_of(version)
        oldest = time.time() - self.grace
        items = [
            *(Item("artifact", *found) for found in self.artifacts.stored(needed, oldest)),
            *self._environments(kept),
            *self._release_files(portfolios),
            *self._logs(pinned, oldest),
            *self._caches(needed),
        ]
        return Garbage(tuple(items), len(kept), len(needed))

    def environments(self) -> set[str]:
        """Digests of the environments that must stay: the file's, and those of versions that gc keeps."""
        versions = self.dump.all_versions()
        pinned = pinned_versions(self.registry, self.dump.portfolios(), versions, self.keep)
        return self._used([version for version in versions if version.id in pinned])

    def remove(self, garbage: Garbage, on_effect: OnStep = ignore) -> int:
        """Remove these; returns the bytes that went. What is gone already counts for nothing."""
        gone = 0
        for item in garbage.items:
            if self._remove(item):
                gone += item.bytes
                on_effect(_EFFECTS[item.kind], item.name)
        return gone

    def _remove(self, item: Item) -> bool:
        if item.kind == "artifact":
            return self.artifacts.remove(item.name)
        if item.kind == "environment":
            every = {stored.digest for stored in list_environments(self.settings.environments)}
            return bool(prune(self.settings.environments, every - {item.name}, self.grace))
        path = Path(item.path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            return not path.exists()
        with contextlib.suppress(OSError):
            path.unlink()
            return True
        return False

    # ── what is needed ──────────────────────────────────────────────────────────────────────────────────────

    def _folders(self) -> Iterator[Path]:
        return self.settings.directory.glob("releases/*/*/")

    def _served(self) -> set[str]:
        """Artifacts of every release file that gateways of this host read, or would read when they start."""
        found: set[str] = set()
        for folder in self._folders():
            there = pointer(folder)
            paths = [folder / f"{there.number}.release"] if there is not None else []
            paths += [path for path in (folder / "serving").glob("*.release") if _runs(path)]
            for path in paths:
                with ReleaseFile(path) as file:  # one that cannot be read may name anything: raises
                    found |= set(file.artifacts())
        return found

    def _check_whole(self, versions: Collection[Version]) -> None:
        known = {(version.portfolio, version.id) for version in versions}
        for folder in self._folders():
            there = pointer(folder)
            if there is None:
                continue
            with ReleaseFile(folder / f"{there.number}.release") as file:
                served = [found for name in file.models if (found := file.model(name)) is not None]
                unknown = [model for model in served if (file.portfolio, model.version) not in known]
            if unknown:
                raise StateError(
                    f"the database does not know what {folder} serves: it was lost or is another one",
                    hint="Restore the database (`retinue restore FILE`), or correct [state] database.",
                )

    # ── what may go ─────────────────────────────────────────────────────────────────────────────────────────

    def _used(self, kept: Collection[Version]) -> set[str]:
        return {*self.used, *(str(version.manifest.get("environment")) for version in kept)}

    def _environments(self, kept: Collection[Version]) -> Iterator[Item]:
        used = self._used(kept)
        oldest = time.time() - self.grace
        for stored in list_environments(self.settings.environments):
            if stored.digest not in used and stored.used < oldest:
                yield Item("environment", stored.digest, stored.own)

    def _release_files(self, portfolios: Collection[str]) -> Iterator[Item]:
        oldest = time.time() - self.grace
        for folder in self._folders():
            portfolio, stage = folder.parts[-2:]
            there = pointer(folder)
            releases = self.registry.releases(portfolio, stage, 1_000_000) if portfolio in portfolios else []
            kept = {release.number for release in kept_releases(releases, self.keep)}
            newest = max((release.number for release in releases), default=0)
            for path in folder.glob("*.release"):
                number = int(path.stem) if path.stem.isdigit() else newest
                free = number < newest and number not in kept and (there is None or there.number != number)
                if free and path.stat().st_mtime < oldest:
                    yield Item("release file", f"{portfolio}/{stage} {number}", path.stat().st_size, str(path))
            for path in (folder / "serving").glob("*.release"):
                if not _runs(path):
                    yield Item("release file", f"{portfolio}/{stage} of a dead server", 0, str(path))

    def _logs(self, pinned: Collection[str], oldest: float) -> Iterator[Item]:
        for path in (self.settings.logs / "training").glob("*.log"):
            found = path.stat()
            if path.stem not in pinned and found.st_mtime < oldest:
                yield Item("log", path.stem[:12], found.st_size, str(path))

    def _caches(self, needed: Collection[str]) -> Iterator[Item]:
        oldest = time.time() - self.cache_age
        for base, _, names in os.walk(self.settings.cache):
            for name in names:
                path = Path(base, name)
                with contextlib.suppress(OSError):
                    found = path.stat()
                    if name not in needed and max(found.st_mtime, found.st_atime, found.st_ctime) < oldest:
                        yield Item("cache", str(path.relative_to(self.settings.cache)), found.st_size, str(path))


def _runs(path: Path) -> bool:
    """Whether the supervisor that holds this file (`PID-….release`) still runs."""
    pid = path.name.partition("-")[0]
    return not pid.isdigit() or Path("/proc", pid).exists()
