"""The artifacts of models that come from outside: found, looked at, and named by the SHA-256 of their bytes.

Digests are kept by (size, modification time, inode), so that a plan over unchanged artifacts reads none of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retinue.core.errors import PortfolioError
from retinue.core.outside import PICKLE_HINT, PICKLE_WHY, PUBLISHED, Artifact, looks_pickled
from retinue.core.portfolio import ModelSpec
from retinue.core.publication import Publication
from retinue.core.suggest import did_you_mean
from retinue.sources.cache import AnswerCache
from retinue.store.base import Artifacts

CHUNK = 1 << 20


class OutsideFiles:
    """Finds the artifact of each model that has one."""

    def __init__(
        self, root: Path, cache: Path, published: Callable[[], Mapping[str, Publication]] = lambda: {}
    ) -> None:
        """`published` is asked once, and only if a model is of `artifact: published`."""
        self.root = root
        self._cache = AnswerCache(cache)
        self._ask = published
        self._published: Mapping[str, Publication] | None = None

    def of(self, spec: ModelSpec) -> Artifact | None:
        """The artifact of a model as it is now, None for a model that is trained here.

        Raises PortfolioError when it is missing, empty or a pickle.
        """
        if spec.artifact is None:
            return None
        if spec.artifact == PUBLISHED:
            found = self._handed_over(spec)
            return Artifact(found.digest, found.format)
        if spec.artifact.startswith("s3://"):
            return Artifact(self._remote_digest(spec), spec.format or "")
        return Artifact(self._digest(spec, self.path(spec)), spec.format or "")

    def store(self, spec: ModelSpec, artifacts: Artifacts) -> None:
        """Put the artifact's bytes where builds find them."""
        if spec.artifact is None:
            return
        if spec.artifact == PUBLISHED:
            artifacts.local(self._handed_over(spec).digest)  # says what is wrong if the bytes are gone
        elif spec.artifact.startswith("s3://"):
            artifacts.put(_download(spec))
        else:
            artifacts.put_file(self.path(spec))

    def fetched(self, spec: ModelSpec, folder: Path) -> Path:
        """A copy of an artifact behind s3:// in a folder. Raises PortfolioError."""
        path = folder / str(spec.artifact).rpartition("/")[2]
        path.write_bytes(_download(spec))
        return path

    def _handed_over(self, spec: ModelSpec) -> Publication:
        if self._published is None:
            self._published = self._ask()
        found = self._published.get(spec.name) or self._published.get(spec.was or "")
        if found is None:
            raise PortfolioError(
                f"nothing was published for {spec.name} yet",
                where=spec.where,
                hint=f"`retinue publish {spec.name} --artifact PATH`, then plan again.",
            )
        return found

    def path(self, spec: ModelSpec) -> Path:
        """The local file of a model's artifact. Raises PortfolioError when there is none."""
        path = self.root / str(spec.artifact)
        if path.is_file():
            return path
        near = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        what = "is a folder" if path.is_dir() else "does not exist"
        raise PortfolioError(
            f"the artifact {spec.artifact} of {spec.name} {what}",
            where=spec.where,
            hint=did_you_mean(path.name, near) or "Give one file, relative to the portfolio.",
        )

    def _digest(self, spec: ModelSpec, path: Path) -> str:
        stat = path.stat()
        key = [os.fspath(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._cache.get("outside", key)
        if isinstance(known, str):
            return known
        try:
            found = digest_of(path)
        except OSError as error:
            raise PortfolioError(
                f"the artifact {spec.artifact} of {spec.name} cannot be read: {error.strerror}", where=spec.where
            ) from error
        except PortfolioError as error:
            raise PortfolioError(error.message, hint=error.hint, where=spec.where) from error
        self._cache.put("outside", key, found)
        return found

    def _remote_digest(self, spec: ModelSpec) -> str:
        fs = _filesystem(spec)
        try:
            key = [spec.artifact, fs.ukey(spec.artifact)]
            known = self._cache.get("outside", key)
            if isinstance(known, str):
                return known
        except (OSError, ValueError) as error:
            raise _unreachable(spec, error) from error
        data = _download(spec)
        _refuse(str(spec.artifact), data[:16])
        found = hashlib.sha256(data).hexdigest()
        self._cache.put("outside", key, found)
        return found


def digest_of(path: Path) -> str:
    """The SHA-256 of a file that may be a model. Raises PortfolioError for an empty one and for a pickle."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        part = file.read(CHUNK)
        _refuse(path.name, part[:16])
        while part:
            sha.update(part)
            part = file.read(CHUNK)
    return sha.hexdigest()


def _refuse(name: str, head: bytes) -> None:
    if not head:
        raise PortfolioError(f"the artifact {name} is empty", hint="Save the model again.")
    if looks_pickled(head):
        raise PortfolioError(f"the artifact {name} is refused: {PICKLE_WHY}", hint=PICKLE_HINT)


def _filesystem(spec: ModelSpec) -> Any:
    try:
        import fsspec

        return fsspec.filesystem("s3", use_listings_cache=False)
    except ImportError as error:
        raise PortfolioError(
            f"the artifact {spec.artifact} of {spec.name} needs a package to be read: {error}",
            where=spec.where,
            hint="pip install 'retinue[s3]'.",
        ) from error


def _download(spec: ModelSpec) -> bytes:
    fs = _filesystem(spec)
    try:
        return bytes(fs.cat_file(spec.artifact))
    except OSError as error:
        raise _unreachable(spec, error) from error


def _unreachable(spec: ModelSpec, error: Exception) -> PortfolioError:
    return PortfolioError(
        f"the artifact {spec.artifact} of {spec.name} cannot be read: {type(error).__name__}: {error}",
        where=spec.where,
        hint="Check the path and the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL).",
    )
