"""One archive with all that is recorded: rows, artifacts, release files, locks; and back into any database.

    retinue-backup.json    first: format, schema, when, by whom
    rows.jsonl             every row of the registry (`store.registry_dump`)
    artifacts/<digest>     every artifact that a row names
    state/…                release files, rights files, locks; with `journal` also the journal
    digests.json           last: SHA-256 and size of every member before it; an archive without it was cut off

Writing and reading stream: memory does not grow with the archive. An archive is verified whole before anything is
written, and the rows come last, in one transaction: a restore that was killed is repeated.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from retinue.control.effects import OnStep, RestoreEffect, ignore
from retinue.control.pins import bytes_in
from retinue.core.errors import CorruptArtifactError, StateError, StateUnavailableError
from retinue.core.identity import canonical
from retinue.settings import Settings
from retinue.store.base import Artifacts, RegistryReader
from retinue.store.registry_dump import Dump
from retinue.store.releasefile import replace_file
from retinue.store.tables import REVISION

Json = Any
FORMAT = 1
HEAD, ROWS, DIGESTS = "retinue-backup.json", "rows.jsonl", "digests.json"
_CHUNK = 1024**2
_SCRATCH = ".restoring-"  # then the process
_SPOOL = 16 * 1024**2
_MEMBER = re.compile(r"rows\.jsonl|retinue-backup\.json|digests\.json|artifacts/[0-9a-f]{64}|state/(?!.*\.\.)[^\0]+")


@dataclass(frozen=True, slots=True)
class BackupDone:
    """What was written or read. `missing`: artifacts that rows of no current release name and that are gone."""

    file: str
    bytes: int
    rows: int
    artifacts: int
    files: int
    missing: tuple[str, ...] = ()


class _Writer:
    """An archive that is being written, and the digests of what is in it."""

    def __init__(self, sink: IO[bytes]) -> None:
        self.archive = tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed below
        self.digests: dict[str, tuple[str, int]] = {}

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        counted = _Hashing(source, size)
        self.archive.addfile(member, counted)
        self.digests[name] = (counted.hash.hexdigest(), size)

    def add_bytes(self, name: str, data: bytes) -> None:
        self.add(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, path: Path) -> None:
        with path.open("rb") as source:
            self.add(name, source, os.fstat(source.fileno()).st_size)

    def close(self) -> None:
        self.add_bytes(DIGESTS, canonical({name: list(value) for name, value in self.digests.items()}))
        self.archive.close()


class _Hashing(io.RawIOBase):
    """A source that is hashed as it is read, never beyond `size` bytes (an open file may grow meanwhile)."""

    def __init__(self, source: IO[bytes], size: int) -> None:
        self.source, self.left, self.hash = source, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.source.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        self.hash.update(data)
        return data


def write_backup(
    dump: Dump, artifacts: Artifacts, settings: Settings, file: Path, *, journal: bool, made: Mapping[str, Json]
) -> BackupDone:
    """Write the archive beside `file` and move it there. `made`: who and when, for its head.

    Raises CorruptArtifactError when an artifact of a current release is gone or damaged, StateUnavailableError when
    the disk does not take it.
    """
    temporary: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        with os.fdopen(handle, "wb") as sink:
            done = _write(_Writer(sink), (dump, artifacts, settings), journal, made)
            sink.flush()
            os.fsync(sink.fileno())
            size = sink.tell()
        os.replace(temporary, file)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise StateUnavailableError(f"the backup cannot be written: {error}", where=str(file)) from error
        raise
    return BackupDone(str(file), size, *done)


def _write(
    writer: _Writer, of: tuple[Dump, Artifacts, Settings], journal: bool, made: Mapping[str, Json]
) -> tuple[int, int, int, tuple[str, ...]]:
    dump, artifacts, settings = of
    head = {"format": FORMAT, "schema": REVISION, "journal": journal, **made}
    writer.add_bytes(HEAD, canonical(head))
    count, wanted, also = 0, set(), set()
    with tempfile.SpooledTemporaryFile(_SPOOL) as spool:
        for line in dump.lines():
            spool.write(line)
            count += 1
            parsed = json.loads(line)
            wanted |= _named(parsed)
            also |= _mentioned(parsed)
        size = spool.tell()
        spool.seek(0)
        writer.add(ROWS, spool, size)
    needed = _needed(dump)
    stored, missing = 0, []
    for digest in sorted(wanted | also):
        if not artifacts.has(digest):
            if digest in needed:
                artifacts.get(digest)  # says what is wrong
            missing += [digest] if digest in wanted else []
            continue
        writer.add_file(f"artifacts/{digest}", artifacts.local(digest))
        stored += 1
    files = 0
    for path in _state_files(settings, journal):
        with suppress(FileNotFoundError):  # replaced or compacted this very moment
            writer.add_file(f"state/{path.relative_to(settings.directory).as_posix()}", path)
            files += 1
    writer.close()
    return count, stored, files, tuple(missing)


def _named(line: list[Json]) -> set[str]:
    """Digests of the artifacts that a row names."""
    table, row = line
    if table == "definitions":
        return {row["bundle"]} if len(row["bundle"]) == 64 else set()
    if table != "versions":
        return set()
    return _artifacts_of(json.loads(row["manifest"]))


def _mentioned(line: list[Json]) -> set[str]:
    """Every digest in a definition, manifest or publication: some are artifacts, most are hashes."""
    table, row = line
    if table == "publications":
        return {row["digest"]}
    column = {"definitions": "body", "versions": "manifest"}.get(table)
    return bytes_in(json.loads(row[column])) if column else set()


def _artifacts_of(manifest: Mapping[str, Json]) -> set[str]:
    found = set()
    for part in ("artifact", "native"):
        found |= {manifest[part]["digest"]} if isinstance(manifest.get(part), dict) else set()
    return found | set((manifest.get("files") or {}).values())


def _needed(dump: Dump) -> set[str]:
    """Artifacts of the current releases: a backup without them is none."""
    registry: RegistryReader = dump.registry
    found: set[str] = set()
    for portfolio, stages in dump.portfolios().items():
        for stage in stages:
            release = registry.current(portfolio, stage)
            if release is not None:
                versions = registry.versions({entry.version for entry in release.models.values()})
                for version in versions.values():
                    found |= _artifacts_of(version.manifest)
    return found


def _state_files(settings: Settings, journal: bool) -> Iterator[Path]:
    """Release files, rights files and locks; with `journal`, the journal and the key of its hashed fields."""
    for folder in ("releases", "locks", *((settings.journals.name,) if journal else ())):
        for path in sorted((settings.directory / folder).rglob("*")):
            parts = path.relative_to(settings.directory).parts
            if path.is_file() and not path.is_symlink() and "serving" not in parts and not path.name.startswith("."):
                yield path


# ── restore ─────────────────────────────────────────────────────────────────────────────────────────────────────


def read_head(file: Path) -> Mapping[str, Json]:
    """Verify the whole archive; its head. Raises CorruptArtifactError if it is torn or changed, StateError if newer."""
    with _reading(file):
        return _verified(file)[0]


def _verified(file: Path) -> tuple[Mapping[str, Json], Mapping[str, list[Json]]]:
    """Its head, and [SHA-256, size] of each member."""
    seen: dict[str, list[Json]] = {}
    head: Mapping[str, Json] = {}
    told: Mapping[str, Json] | None = None
    for name, source, size in _members(file):
        if told is not None:
            raise _unsound(file, f"{name} stands behind its end")
        if name == DIGESTS:
            told = _parsed(file, source.read())
            continue
        if name == HEAD:
            data = source.read()
            head = _parsed(file, data)
            _check_head(file, head)
            seen[name] = [hashlib.sha256(data).hexdigest(), size]
            continue
        if not head:
            raise _unsound(file, "it does not begin as a backup does")
        actual = hashlib.sha256()
        while chunk := source.read(_CHUNK):
            actual.update(chunk)
        seen[name] = [actual.hexdigest(), size]
    if told is None:
        raise _unsound(file, "it was cut off")
    different = [name for name in sorted({*seen, *told}) if seen.get(name) != told.get(name)]
    if different or ROWS not in seen:
        raise _unsound(file, f"{(different or [ROWS])[0]} is not what was written")
    return head, seen


def restore_state(
    dump: Dump,
    artifacts: Artifacts,
    settings: Settings,
    file: Path,
    *,
    force: bool,
    on_effect: OnStep = ignore,
) -> BackupDone:
    """Read a backup into an empty state; with `force`, in place of what is there. Safe to repeat after a kill.

    Raises CorruptArtifactError for an archive that cannot be used (nothing was written), StateError when the
    database or the release files are not empty, unless they are what a killed restore of this archive left.
    """
    with _reading(file):
        digests = _verified(file)[1]
    _clear_scratch(settings.directory)
    loaded = not force and _is_half_done(dump, settings, file, digests[ROWS][0])
    stored = files = count = 0
    with tempfile.TemporaryDirectory(dir=settings.directory, prefix=f"{_SCRATCH}{os.getpid()}-") as scratch:
        spooled = Path(scratch, ROWS)
        later: list[tuple[Path, str]] = []
        for name, source, _ in _members(file):
            if name.startswith("artifacts/"):
                part = Path(scratch, "artifact")
                _copy(source, part)
                if artifacts.put_file(part) != name.partition("/")[2]:
                    raise _unsound(file, f"{name} has another digest")
                stored += 1
                on_effect(RestoreEffect.ARTIFACT_STORED, name)
            elif name == ROWS:
                _copy(source, spooled)
            elif name.startswith("state/"):
                target = settings.directory / name.partition("/")[2]
                if "/releases/" in f"/{name}":
                    part = Path(scratch, str(len(later)))
                    _copy(source, part)
                    later.append((part, str(target)))
                elif not loaded:  # else they were written, and may be newer by now
                    replace_file(target, source.read())
                    on_effect(RestoreEffect.FILE_WRITTEN, name)
                files += 1
        with spooled.open("rb") as lines:
            count = sum(1 for _ in lines) if loaded else dump.load(lines, replace=force)
        on_effect(RestoreEffect.ROWS_LOADED, ROWS)
        # Only now: what gateways are pointed at must be recorded. A pointer comes after the file that it names.
        for part, target_name in sorted(later, key=lambda item: item[1].endswith("/current")):
            replace_file(Path(target_name), part.read_bytes())
            on_effect(RestoreEffect.RELEASE_FILE_WRITTEN, target_name)
    return BackupDone(str(file), file.stat().st_size, count, stored, files)


def _is_half_done(dump: Dump, settings: Settings, file: Path, rows: str) -> bool:
    """Whether a killed restore of this archive came as far as the rows; False for an empty state.

    Raises StateError for any other state.
    """
    served = any((settings.directory / "releases").rglob("current"))
    if dump.is_empty() and not served:
        return False
    pointers = [
        name for name, _, _ in _members(file) if name.startswith("state/releases/") and name.endswith("/current")
    ]
    missing = [name for name in pointers if not (settings.directory / name.partition("/")[2]).exists()]
    if missing:
        there = hashlib.sha256()
        for line in dump.lines():
            there.update(line)
        if there.hexdigest() == rows:
            return True
    raise StateError(
        f"there is a state already: {dump.registry.name}, {settings.directory}",
        hint=f"Restore into an empty one, or replace it: `retinue restore {file} --force`.",
    )


def _clear_scratch(folder: Path) -> None:
    """Remove what killed restores left."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_SCRATCH}*"):
        pid = left.name.removeprefix(_SCRATCH).partition("-")[0]
        if not (pid.isdigit() and Path("/proc", pid).exists()):
            shutil.rmtree(left, ignore_errors=True)


def _members(file: Path) -> Iterator[tuple[str, IO[bytes], int]]:
    with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as archive:
        for member in archive:
            source = archive.extractfile(member) if member.isreg() else None
            if source is None or not _MEMBER.fullmatch(member.name):
                raise _unsound(file, f"it holds {member.name!r:.100}, which no backup does")
            yield member.name, source, member.size
            archive.members = []  # type: ignore[attr-defined]  # it would remember every member


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """What goes wrong with reading an archive, in words."""
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise _unsound(file, f"it cannot be read: {error}") from error
    except OSError as error:
        raise StateError(
            f"the backup cannot be read: {error.strerror or error}",
            where=str(file),
            hint="Name a file of `retinue backup`.",
        ) from error


def _parsed(file: Path, data: bytes) -> Mapping[str, Json]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise _unsound(file, f"its head does not parse: {error}") from error
    if not isinstance(found, dict):
        raise _unsound(file, "its head is no object")
    return found


def _check_head(file: Path, head: Mapping[str, Json]) -> None:
    made, schema = head.get("format"), str(head.get("schema", ""))
    if not isinstance(made, int) or not schema.isdigit():
        raise _unsound(file, "its head names no format")
    if made > FORMAT or int(schema) > int(REVISION):
        raise StateError(
            f"the backup was written by a newer Retinue (format {made}, schema {schema})",
            where=str(file),
            hint="Upgrade Retinue, then restore.",
        )
    if schema != REVISION:
        raise StateError(
            f"the backup has schema {schema}, this Retinue {REVISION}",
            where=str(file),
            hint="Restore it with the Retinue that wrote it, then run `retinue db upgrade` with this one.",
        )


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            sink.write(chunk)


def _unsound(file: Path, why: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"the backup cannot be used: {why}", where=str(file), hint="Nothing was changed. Use another backup."
    )
