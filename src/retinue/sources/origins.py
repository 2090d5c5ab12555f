"""Where a table's rows come from when they are not in local files: asked cheaply for a version, read once for each.

What was read is kept as files in the cache under (what was asked, version). A snapshot that was pinned to a version
reads that version's files as long as the cache has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from retinue.core.checks import CheckResult
from retinue.core.connections import Connection, connection_of
from retinue.core.errors import DataError, StateUnavailableError
from retinue.core.identity import digest
from retinue.core.portfolio import TableSpec
from retinue.sources.away import AwayError, Call
from retinue.sources.base import Json
from retinue.sources.cache import write_whole
from retinue.sources.database import DatabaseOrigin
from retinue.sources.dbt import DbtOrigin, Manifest
from retinue.sources.functions import FunctionOrigin, keys_of
from retinue.sources.remote import RemoteOrigin

STORED = 1
"""Raised when files are written in another way: older ones are then never found."""


class Origin(Protocol):
    """One source behind a table."""

    def identity(self) -> Json:
        """What is asked, as JSON without secrets: another identity never shares files."""

    def version(self) -> str | None:
        """What the source calls its present content; None where only reading all of it tells.

        Raises AwayError when it cannot be asked, DataError when it refuses.
        """

    def fetch(self, folder: Path, version: str | None) -> None:
        """Write the rows into `folder` as one file or several. Raises as `version` does."""


class Origins:
    """The origins of one portfolio, each asked at most once in the life of this object. Thread-safe."""

    def __init__(
        self, root: Path, cache: Path, connections: Mapping[str, Connection], call: Call | None, *, anew: bool = False
    ) -> None:
        """`anew` asks functions without a `version` again, as `--refresh-data` wishes."""
        self._root, self._folder, self._connections, self._call = root, cache / "sources", connections, call
        self._anew = anew
        self._guard = threading.RLock()
        self._versions: dict[str, str] = {}
        self.notes: list[str] = []

    def version(self, spec: TableSpec) -> str:
        """The version of a table's source now; the last one that was seen when it is away. Raises DataError."""
        with self._guard:
            if spec.name not in self._versions:
                self._versions[spec.name] = self._asked(spec)
            return self._versions[spec.name]

    def files(self, spec: TableSpec, version: str | None) -> tuple[Path, ...]:
        """The files of a version (None: of now). Raises DataError when they are gone and the source has moved on."""
        with self._guard:
            origin = self._origin(spec)
            now = None if version is not None and self._there(origin, version) else self.version(spec)
            if version is not None and now not in (None, version):
                if spec.time is None:
                    raise DataError(
                        f"table {spec.name}: the source has moved on: this was pinned to version {version!r}, which is "
                        f"no longer kept; it is now at {now!r}",
                        where=spec.where,
                        hint="Build on today's data: `retinue apply --refresh-data`.",
                    )
                version = now  # rows up to the pinned moment; a plan has compared their content
            wanted = version or now or ""
            if not self._there(origin, wanted):
                self._store(spec, origin, wanted)
            folder = self._place(origin, wanted)
            return tuple(sorted(path for path in folder.rglob("*") if path.is_file()))

    def kept(self, spec: TableSpec, version: str) -> bool:
        """Whether that version's files are in the cache."""
        return self._there(self._origin(spec), version)

    def keys(self, function: str, environment: str, code: str) -> list[list[str]]:
        """The keys that a function gives, remembered by its code. Raises DataError."""
        assert self._call is not None
        return keys_of(self._call, function, environment, self._folder / f"keys-{digest([function, code])[:40]}.json",
                       anew=self._anew)  # fmt: skip

    def dbt_checks(self, spec: TableSpec) -> list[CheckResult]:
        """What dbt's last runs say of a table. Raises DataError."""
        assert spec.connection is not None, "the loader asks for one"
        connection = connection_of(self._connections, spec.connection, spec.where, spec.name)
        return list(Manifest(connection, self._root, spec).checks())

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, spec: TableSpec) -> str:
        origin = self._origin(spec)
        known = self._folder / "known" / f"{digest([STORED, origin.identity()])[:40]}.json"
        last = _last(known)
        try:
            found = origin.version()
            if found is None:
                if spec.python is not None and last is not None and not self._anew:
                    return last
                found = self._content(spec, origin)
        except AwayError as error:
            if last is None:
                raise
            self.notes.append(
                f"table {spec.name}: its source cannot be reached, taken as it was seen last: {error.message}"
            )
            return last
        with contextlib.suppress(OSError):
            write_whole(known, json.dumps(found).encode())
        return found

    def _content(self, spec: TableSpec, origin: Origin) -> str:
        """The version of a source that names none: what all of it is."""
        with self._scratch(spec) as folder:
            origin.fetch(folder, None)
            sums = [[p.name, hashlib.sha256(p.read_bytes()).hexdigest()] for p in sorted(folder.iterdir())]
            version = f"content:{digest(sums)[:32]}"
            self._keep(folder, origin, version)
        return version

    def _store(self, spec: TableSpec, origin: Origin, version: str) -> None:
        with self._scratch(spec) as folder:
            try:
                origin.fetch(folder, version)
            except AwayError as error:
                raise DataError(
                    f"{error.message}; version {version!r} is not in the cache either",
                    where=error.where or spec.where,
                    hint=error.hint,
                ) from error
            self._keep(folder, origin, version)

    @contextlib.contextmanager
    def _scratch(self, spec: TableSpec) -> Iterator[Path]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".part-") as name:
                inner = Path(name, "rows")
                inner.mkdir()
                yield inner
        except OSError as error:
            raise StateUnavailableError(
                f"table {spec.name}: its rows could not be kept in {self._folder}: {error.strerror or error}",
                where=spec.where,
                hint="Free disk space or correct the permissions of the state folder, then run the command again.",
            ) from error

    def _keep(self, folder: Path, origin: Origin, version: str) -> None:
        target = self._place(origin, version)
        try:
            os.rename(folder, target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(folder)  # another process was faster

    def _there(self, origin: Origin, version: str) -> bool:
        folder = self._place(origin, version)
        return folder.is_dir() and any(folder.iterdir())

    def _place(self, origin: Origin, version: str) -> Path:
        return self._folder / f"rows-{digest([STORED, origin.identity(), version])[:40]}"

    def _origin(self, spec: TableSpec) -> Origin:
        connection = None
        if spec.connection is not None:
            connection = connection_of(self._connections, spec.connection, spec.where, spec.name)
        if spec.dbt is not None:
            assert connection is not None, "the loader asks for one"
            return DbtOrigin(spec, connection, self._root)
        if spec.query is not None:
            assert connection is not None, "the loader asks for one"
            return DatabaseOrigin(spec, connection, self._root)
        if spec.python is not None:
            assert self._call is not None, "who plans can run functions"
            return FunctionOrigin(spec, self._call)
        return RemoteOrigin(spec, connection)


def is_local(spec: TableSpec) -> bool:
    """Whether a table is read straight from local files."""
    return spec.path is not None and "://" not in spec.path


def _last(known: Path) -> str | None:
    try:
        found = json.loads(known.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None
