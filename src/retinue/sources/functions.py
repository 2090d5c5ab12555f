"""Tables and keys that a user's Python function gives. It runs in a process of its own, in a named environment."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from retinue.core.errors import DataError
from retinue.core.portfolio import TableSpec
from retinue.sources.away import Call
from retinue.sources.base import Json
from retinue.sources.cache import write_whole


class FunctionOrigin:
    """A table from a function; without `version` its answer stands until its code changes or a refresh is asked for."""

    def __init__(self, spec: TableSpec, call: Call) -> None:
        self.spec, self.call = spec, call

    def identity(self) -> Json:
        """The function with its code and environment."""
        return ["python", self.spec.python, self.spec.code, self.spec.environment]

    def version(self) -> str | None:
        """What the `version` function answers, as text."""
        if self.spec.version is None:
            return None
        return self._made("version", self.spec.version)

    def _made(self, what: str, function: str) -> str:
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            target = Path(name, "answer.json")
            self.call(function, self.spec.environment or "", what, target)
            return str(json.loads(target.read_bytes()))

    def fetch(self, folder: Path, version: str | None) -> None:
        """Run the function; what it gives becomes `0.parquet`."""
        try:
            self.call(self.spec.python or "", self.spec.environment or "", "table", folder / "0.parquet")
        except DataError as error:
            raise DataError(
                f"table {self.spec.name}: {error.message}", where=error.where or self.spec.where, hint=error.hint
            ) from error


def keys_of(call: Call, function: str, environment: str, kept: Path, *, anew: bool) -> list[list[str]]:
    """The keys that a function gives, from `kept` where it stands there. Raises DataError for what are no keys."""
    if not anew:
        with contextlib.suppress(OSError, ValueError):
            found: list[list[str]] = json.loads(kept.read_bytes())
            return found
    kept.parent.mkdir(parents=True, exist_ok=True)
    target = kept.with_suffix(f".{id(kept)}.new")
    try:
        call(function, environment, "keys", target)
        keys = json.loads(target.read_bytes())
    finally:
        target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        write_whole(kept, json.dumps(keys).encode())
    return [list(key) for key in keys]
