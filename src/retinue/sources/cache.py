"""Answers kept as small JSON files, so that a question about unchanged files costs neither DuckDB nor Arrow.

A file is only a memory: it may be torn, missing or unwritable at any time, and is then computed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from retinue.core.identity import digest
from retinue.sources.base import Json

FORMAT = 2
"""Raised when the meaning of a kept answer changes: older files are then simply never found."""


class AnswerCache:
    """JSON values by kind and key, under one folder and in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "answers"
        self._memory: dict[str, Json] = {}

    def get(self, kind: str, key: Json) -> Json | None:
        """The value kept for that key, or None when there is none that can be read."""
        name = self._name(kind, key)
        if name in self._memory:
            return self._memory[name]
        try:
            body = json.loads((self._folder / name).read_bytes())
            if body["sum"] != digest(body["value"]):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self._memory[name] = body["value"]
        return body["value"]

    def put(self, kind: str, key: Json, value: Json) -> None:
        """Keep a JSON value. A disk that refuses it costs the next caller time, never the answer."""
        name = self._name(kind, key)
        self._memory[name] = value
        with contextlib.suppress(OSError):
            write_whole(self._folder / name, json.dumps({"sum": digest(value), "value": value}).encode())

    @staticmethod
    def _name(kind: str, key: Json) -> str:
        return f"{kind}-{digest([FORMAT, key])[:40]}.json"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
