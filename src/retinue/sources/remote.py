"""Files behind a URL (`s3://…` and whatever fsspec speaks), recognised by the store's own ETag or version."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from retinue.core.connections import Connection
from retinue.core.errors import DataError
from retinue.core.identity import digest
from retinue.core.portfolio import TableSpec
from retinue.sources.away import AwayError
from retinue.sources.base import Json

_NAMES = ("ETag", "etag", "VersionId", "generation", "md5Hash", "content_md5", "md5")
_EXTRAS = {"s3": "retinue[s3]"}


class RemoteOrigin:
    """One URL, maybe a pattern. What is listed once is fetched as listed."""

    def __init__(self, spec: TableSpec, connection: Connection | None) -> None:
        self.spec, self.connection = spec, connection
        self.url = spec.path or ""
        self.scheme = self.url.partition("://")[0].lower()

    def identity(self) -> Json:
        """The URL and the connection's name."""
        return ["url", self.url, self.connection.name if self.connection else None]

    def version(self) -> str | None:
        """The ETags (or what the store has instead) of the files that the URL names."""
        found = self._listed(self._open())
        if len(found) == 1:
            return next(iter(found.values()))
        return f"{len(found)} files {digest(found)[:32]}"

    def fetch(self, folder: Path, version: str | None) -> None:
        """Copy the files, each under a number and its own name."""
        system = self._open()
        listed = self._listed(system)
        present = next(iter(listed.values())) if len(listed) == 1 else f"{len(listed)} files {digest(listed)[:32]}"
        if version is not None and present != version:
            raise DataError(
                f"table {self.spec.name}: {self.url} changed while it was read",
                where=self.spec.where,
                hint="Run the same command again.",
            )
        for number, path in enumerate(sorted(listed)):
            try:
                system.get_file(path, str(folder / f"{number:06d}-{PurePosixPath(path).name}"))
            except Exception as error:  # noqa: BLE001  each store raises its own
                raise self._told(error) from None

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _listed(self, system: Any) -> dict[str, str]:
        """File → what its content is recognised by."""
        try:
            if any(sign in self.url for sign in "*?["):
                infos = list(system.glob(self.url, detail=True).values())
            else:
                infos = [system.info(self.url)]
        except Exception as error:  # noqa: BLE001  each store raises its own
            raise self._told(error) from None
        files = [info for info in infos if info.get("type") == "file"]
        if not files:
            raise DataError(
                f"table {self.spec.name}: nothing matches {self.url}",
                where=self.spec.where,
                hint="Check bucket, prefix and pattern; a folder needs one, for example …/*.parquet.",
            )
        return {str(info["name"]): _mark(info) for info in files}

    def _open(self) -> Any:
        import fsspec

        try:
            system = fsspec.filesystem(self.scheme, **self._options())
            if hasattr(system, "retries"):
                system.retries = 2  # s3fs waits longer each time
            return system
        except (ImportError, ValueError):
            raise DataError(
                f"table {self.spec.name}: what reads {self.scheme}:// is not installed",
                where=self.spec.where,
                hint=f"Install {_EXTRAS.get(self.scheme, 'the fsspec package for it')} beside Retinue.",
            ) from None

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if self.scheme not in ("s3", "s3a"):
            return options
        own = self.connection
        options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}
        if own is None:
            return options
        for key in ("key", "secret", "token"):
            if own.has(key):
                options[key] = own.get(key, os.environ)
        if own.has("endpoint"):
            options["endpoint_url"] = own.get("endpoint", os.environ)
        if own.has("region"):
            options["client_kwargs"] = {"region_name": own.get("region", os.environ)}
        if own.has("anonymous"):
            options["anon"] = own.get("anonymous", os.environ).lower() in ("true", "1", "yes")
        return options

    def _told(self, error: Exception) -> DataError:
        text = " ".join(str(error).split()) or type(error).__name__
        if self.connection is not None:
            text = self.connection.scrub(text, os.environ)
        if isinstance(error, FileNotFoundError):
            return DataError(
                f"table {self.spec.name}: there is no {self.url}",
                where=self.spec.where,
                hint="Check bucket and name, and the connection's endpoint.",
            )
        if isinstance(error, PermissionError):
            return DataError(
                f"table {self.spec.name}: {self.url} may not be read: {text}",
                where=self.spec.where,
                hint="Check `key` and `secret` of the connection in retinue.toml and the rights they have.",
            )
        return AwayError(
            f"table {self.spec.name}: {self.url} cannot be reached: {text}",
            where=self.spec.where,
            hint="Check the network and the connection's `endpoint`.",
        )


def _mark(info: dict[str, Any]) -> str:
    for name in _NAMES:
        if info.get(name):
            return str(info[name]).strip('"')
    return f"{info.get('size')}-{info.get('LastModified') or info.get('mtime') or info.get('created')}"
