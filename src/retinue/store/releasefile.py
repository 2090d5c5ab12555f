"""The release file: one release compiled for serving, in one immutable, checked file that is read in place.

    "RETREL" | format u16 | SHA-256 of the rest (32 bytes) | length of index u64 | index JSON | records

The index maps each model to (offset, length) of its JSON record, which is read and parsed when asked for: a gateway
pays memory for names, not for records. Reading by position, not by mapping: a mapped file that somebody cuts short
kills the process that reads it, and its pages count as the process's memory. A folder
holds `<number>.release` files and `current`, one line with the number and the digest of the file it points at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from retinue.core.errors import CorruptArtifactError, StateUnavailableError
from retinue.core.identity import canonical
from retinue.core.state import ReleaseImage, ServedCache, ServedEndpoint, ServedJournal, ServedModel, ServedNeed

_HEAD = struct.Struct("<6sH32sQ")
_MAGIC = b"RETREL"
FORMAT = 2
_CHUNK = 1024**2


class Pointer(NamedTuple):
    """What `current` says: the release's number and the digest of its file."""

    number: int
    digest: str


def write_release(folder: Path, image: ReleaseImage) -> Path:
    """Write `folder/<number>.release`, replacing one of other content in one step.

    The same image always gives the same bytes. Raises StateUnavailableError when the disk does not take it.
    """
    records: list[bytes] = []
    index: dict[str, tuple[int, int]] = {}
    offset = 0
    for name in sorted(image.models):
        record = canonical(asdict(image.models[name]))
        index[name] = (offset, len(record))
        records.append(record)
        offset += len(record)
    head = canonical(
        {
            "portfolio": image.portfolio,
            "stage": image.stage,
            "number": image.number,
            "options": image.options,
            "models": index,
            "pinned": [name for name in sorted(image.models) if image.models[name].pinned],
            "endpoints": {name: asdict(endpoint) for name, endpoint in image.endpoints.items()},
        }
    )
    body = struct.pack("<Q", len(head)) + head + b"".join(records)
    path = folder / f"{image.number}.release"
    replace_file(path, _MAGIC + struct.pack("<H", FORMAT) + hashlib.sha256(body).digest() + body)
    return path


def point(folder: Path, number: int) -> None:
    """Let `folder/current` name that release, in one step. Raises CorruptArtifactError when its file is unsound."""
    with ReleaseFile(folder / f"{number}.release") as file:
        digest = file.digest
    replace_file(folder / "current", f"{number} {digest}\n".encode())


def pointer(folder: Path) -> Pointer | None:
    """What `current` says, None when there is none. Raises CorruptArtifactError when it is unreadable."""
    path = folder / "current"
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never answer
            raise CorruptArtifactError("the release pointer is no file", where=str(path), hint="Remove it, then apply.")
        with path.open(encoding="ascii") as file:
            text = file.read(200)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptArtifactError(f"the release pointer is unreadable: {error}", where=str(path)) from error
    words = text.split()
    if len(words) != 2 or not re.fullmatch(r"[0-9]{1,18}", words[0]):
        raise CorruptArtifactError(f"the release pointer says {text[:80]!r}", where=str(path), hint=_REWRITE)
    return Pointer(int(words[0]), words[1])


def current(folder: Path) -> int | None:
    """The number of the release that is pointed at, None when there is none."""
    found = pointer(folder)
    return found.number if found else None


def is_whole(folder: Path, number: int, options: str = "") -> bool:
    """Whether gateways are pointed at release `number`, compiled with these options, its file there, undamaged."""
    try:
        there = pointer(folder)
        if there is None or there.number != number:
            return False
        with ReleaseFile(folder / f"{number}.release") as file:
            return file.digest == there.digest and file.options == options
    except CorruptArtifactError:
        return False


class ReleaseFile:
    """An opened release file; the whole file is verified once, records are read and parsed when asked for.

    Raises CorruptArtifactError for a file that is missing, cut, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _open(path)
        try:
            head = self._verify()
            self.portfolio: str = head["portfolio"]
            self.stage: str = head["stage"]
            self.number: int = head["number"]
            self.options: str = head["options"]
            self.pinned: tuple[str, ...] = tuple(head["pinned"])
            self._index: dict[str, tuple[int, int]] = head["models"]
            self.endpoints: dict[str, ServedEndpoint] = {
                name: _endpoint(body) for name, body in head["endpoints"].items()
            }
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise _unsound(path, f"its index does not parse: {error}") from error
        except OSError as error:
            self.close()
            raise _unreadable(path, error) from error
        except CorruptArtifactError:
            self.close()
            raise

    def __enter__(self) -> ReleaseFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; models that were parsed stay usable."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models, sorted."""
        return tuple(self._index)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def model(self, name: str) -> ServedModel | None:
        """That model, or None; parsed anew at each call. Raises CorruptArtifactError when the record is gone."""
        if name not in self._index:
            return None
        offset, length = self._index[name]
        try:
            return _model(orjson.loads(os.pread(self._descriptor, length, self._records + offset)))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _unsound(self.path, f"the record of {name!r} cannot be read: {error}") from error

    def artifacts(self) -> set[str]:
        """The digests of all artifacts it names."""
        return {served.artifact for name in self._index if (served := self.model(name)) is not None}

    def _verify(self) -> dict[str, Any]:
        start = os.pread(self._descriptor, _HEAD.size, 0)
        if len(start) < _HEAD.size:
            raise _unsound(self.path, "it is cut off" if start else "it is empty")
        magic, version, digest, length = _HEAD.unpack(start)
        if magic != _MAGIC:
            raise _unsound(self.path, "it is no release file")
        if version != FORMAT:
            raise CorruptArtifactError(
                f"release file of format {version}; this Retinue reads {FORMAT}", where=str(self.path), hint=_REWRITE
            )
        actual, position = hashlib.sha256(), _HEAD.size - 8
        while chunk := os.pread(self._descriptor, _CHUNK, position):
            actual.update(chunk)
            position += len(chunk)
        if actual.digest() != digest:
            raise _unsound(self.path, "its bytes have another digest")
        self.digest: str = digest.hex()
        self._records = _HEAD.size + length
        head: dict[str, Any] = json.loads(os.pread(self._descriptor, length, _HEAD.size))
        return head


_REWRITE = "Run `retinue apply` (or `retinue rollback`): it writes the release file anew."


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would never answer
    except FileNotFoundError as error:
        raise _unsound(path, "it is gone") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unsound(path, "it is no file")
    return descriptor


def _unreadable(path: Path, error: OSError) -> StateUnavailableError:
    return StateUnavailableError(f"cannot read the release file: {error}", where=str(path))


def _unsound(path: Path, why: str) -> CorruptArtifactError:
    return CorruptArtifactError(f"the release file is unusable: {why}", where=str(path), hint=_REWRITE)


def _model(record: dict[str, Any]) -> ServedModel:
    needs = tuple(ServedNeed(**need) for need in record.pop("needs"))
    return ServedModel(**record, needs=needs)


def _endpoint(body: dict[str, Any]) -> ServedEndpoint:
    cache, journal = body.pop("cache"), body.pop("journal")
    kept = ServedJournal(**{**journal, "drop": tuple(journal["drop"]), "hash": tuple(journal["hash"])})
    body["fallback_when"] = tuple(body["fallback_when"])
    return ServedEndpoint(**body, cache=ServedCache(**cache) if cache else None, journal=kept)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file in one durable step. Raises StateUnavailableError when the disk does not take it."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise StateUnavailableError(f"cannot write {path.name}: {error}", where=str(path.parent)) from error
