"""Bytes by their SHA-256, on any fsspec file system: written atomically, verified at every read.

Layout: `<root>/<first two digits>/<digest>`. On a local root a reader gets the stored file itself; from a remote
one it is fetched into `cache` once and verified there at every use. What is kept in `cache` (`keep`) is read there
first, so that what is served does not need the store: hard links where the file system has them, else copies.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retinue.core.errors import CorruptArtifactError, RetinueError, StateUnavailableError
from retinue.core.identity import short

_CHUNK = 1024**2
_SMALL = 64 * 1024  # a larger buffer would be mapped and unmapped anew for each file


class FsspecArtifacts:
    """An artifact store at an fsspec URL (`file:///…`, `s3://…`, `memory://…`); `cache` holds fetched copies."""

    def __init__(self, url: str, cache: Path) -> None:
        import fsspec

        self._url = url
        self._cache = cache
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        protocol = self._files.protocol
        self._local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def put(self, data: bytes) -> str:
        """Store bytes, return their digest; storing them again is free. Raises StateUnavailableError."""
        digest = hashlib.sha256(data).hexdigest()
        if not self._sound(digest, len(data)):
            self._write(digest, lambda sink: sink.write(data))
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes, return their digest. Raises StateUnavailableError."""
        digest = _digest_file(path)

        def copy(sink: Any) -> None:
            with path.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    sink.write(chunk)

        if not self._sound(digest, path.stat().st_size):
            self._write(digest, copy)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes, verified. Raises CorruptArtifactError when they are gone or differ."""
        with self._reading(digest):
            data = self._files.cat_file(self._path(digest))
        if hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(digest, self._path(digest))
        return bytes(data)

    def local(self, digest: str) -> Path:
        """A verified local file with these bytes (fetched if the store is remote). Raises CorruptArtifactError."""
        self._path(digest)  # refuses what is no digest
        kept = self._kept(digest)
        with contextlib.suppress(OSError):
            if _digest_file(kept) == digest:
                return kept
        if self._local:
            path = Path(self._path(digest))
            with self._reading(digest):
                actual = _digest_file(path)
            if actual != digest:
                raise _damaged(digest, str(path))
            return path
        data = self.get(digest)
        _write_local(kept, lambda sink: sink.write(data))
        return kept

    def keep(self, digests: Iterable[str]) -> dict[str, str]:
        """Have local copies of these, so that they can be read when the store is gone.

        Returns digest → why, for those that could not be had.
        """
        missing = [digest for digest in digests if not self._kept(digest).exists()]
        if self._local:
            found = [self._keep(digest) for digest in missing]
        else:
            with ThreadPoolExecutor(8) as threads:  # a remote store's time is waiting
                found = list(threads.map(self._keep, missing))
        return {digest: why for digest, why in zip(missing, found, strict=True) if why is not None}

    def prune(self, digests: Collection[str], age: float) -> int:
        """Remove local copies of all but these, unless they came within the last `age` seconds; how many went."""
        gone = 0
        oldest = time.time() - age
        for path in self._cache.glob("??/*"):
            with contextlib.suppress(OSError):
                if path.name not in digests and path.stat().st_ctime < oldest:
                    path.unlink()
                    gone += 1
        return gone

    def stored(self, keep: Collection[str], oldest: float) -> Iterator[tuple[str, int, str]]:
        """(digest, bytes, place) of all that is stored, but for what to `keep` and what came after `oldest`.

        `oldest` is a UNIX time. Raises StateUnavailableError when the store does not answer.
        """
        try:
            found = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unavailable(self._url, error) from error
        for path, about in sorted(found.items()):
            name = str(path).rpartition("/")[2]
            came = about.get("mtime", about.get("LastModified", about.get("created", 0)))
            came = came.timestamp() if hasattr(came, "timestamp") else float(came)
            whole = len(name) == 64 or name.startswith(".new-")
            if whole and name not in keep and came < oldest:
                yield name, int(about.get("size") or 0), str(path)

    def remove(self, digest: str) -> bool:
        """Remove what is stored under that name, and its local copy; whether anything was there."""
        if "/" in digest or not (digest.startswith(".new-") or len(digest) == 64):
            raise CorruptArtifactError(f"{digest!r} is not a SHA-256 digest")
        gone = False
        with contextlib.suppress(OSError):
            self._kept(digest).unlink()
        paths = [self._path(digest)] if len(digest) == 64 else self._files.glob(f"{self._root}/??/{digest}")
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(path)
                gone = True
        return gone

    def _kept(self, digest: str) -> Path:
        return self._cache / digest[:2] / digest

    def _keep(self, digest: str) -> str | None:
        kept = self._kept(digest)
        try:
            if self._local:
                kept.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    try:
                        os.link(self._path(digest), kept)
                    except FileNotFoundError:
                        raise
                    except OSError:  # another file system
                        data = self.get(digest)
                        _write_local(kept, lambda sink: sink.write(data))
            else:
                self.local(digest)
        except FileNotFoundError:
            return f"artifact {short(digest)} is gone from {self._url}"
        except (RetinueError, OSError) as error:
            return str(error)
        return None

    def has(self, digest: str) -> bool:
        """Whether something is stored under that digest (not verified)."""
        try:
            return bool(self._files.exists(self._path(digest)))
        except OSError as error:
            raise _unavailable(self._url, error) from error

    def _path(self, digest: str) -> str:
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise CorruptArtifactError(f"{digest!r} is not a SHA-256 digest")
        return f"{self._root}/{digest[:2]}/{digest}"

    def _sound(self, digest: str, size: int) -> bool:
        """Whether it is stored already; a local file is read again, so that storing repairs a damaged one."""
        if not self.has(digest):
            return False
        if self._local:
            return _digest_file(Path(self._path(digest))) == digest
        return bool(self._files.size(self._path(digest)) == size)

    def _write(self, digest: str, fill: Any) -> None:
        path = self._path(digest)
        if self._local:
            _write_local(Path(path), fill)
            return
        try:  # object stores show an object only when it is whole
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._files.open(path, "wb") as sink:
                fill(sink)
        except OSError as error:
            raise _unavailable(self._url, error) from error

    @contextlib.contextmanager
    def _reading(self, digest: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise CorruptArtifactError(f"artifact {short(digest)} is gone from {self._url} ({digest})") from error
        except OSError as error:
            raise _unavailable(self._url, error) from error


def _write_local(path: Path, fill: Any) -> None:
    """Temporary file beside it, fsync, rename, fsync of the folder: whole or not at all, also after a power cut."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(handle, "wb") as sink:
            fill(sink)
            sink.flush()
            os.fsync(sink.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise _unavailable(str(path.parent), error) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest_file(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        digest = hashlib.sha256()
        while chunk := file.read(_SMALL):
            digest.update(chunk)
    return digest.hexdigest()


def _damaged(digest: str, where: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"artifact {short(digest)} is damaged: the bytes have another digest ({digest})", where=where
    )


def _unavailable(where: str, error: OSError) -> StateUnavailableError:
    return StateUnavailableError(f"the artifact store does not answer or is full: {error}", where=where)
