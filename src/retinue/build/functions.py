"""Runs a user's table function: its code alone, in a process of its own, in a named environment."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from retinue.build.bundle import close_code
from retinue.build.environment import lock, materialise
from retinue.build.trainer import _clean_environment, _worker_folder, bootstrap
from retinue.core.errors import DataError, PortfolioError
from retinue.core.portfolio import EnvironmentSpec, TableSpec
from retinue.core.suggest import did_you_mean
from retinue.settings import Settings

TIMEOUT = 3600.0
"""Seconds that a function may run."""


class Functions:
    """Calls functions of one project; its environments are installed when the first of their functions is called."""

    def __init__(
        self, environments: Mapping[str, EnvironmentSpec], root: Path, settings: Settings, installed: Path | None = None
    ) -> None:
        """`installed` holds the materialised environments."""
        self._environments, self._root, self._settings = environments, root, settings
        self._installed = installed or settings.environments

    def __call__(self, function: str, environment: str, what: str, target: Path) -> None:
        """Write what `function` gives into `target`. Raises DataError with the user's own message."""
        if not environment and len(self._environments) == 1:
            environment = next(iter(self._environments))
        if environment not in self._environments:
            raise DataError(
                f"{function}: there is no environment {environment!r}",
                hint=did_you_mean(environment, self._environments),
            )
        code = close_code(function, self._root)
        locked = lock(self._environments[environment], self._root, memory=self._settings.directory / "locks")
        python = materialise(locked, self._installed).python.absolute()
        error_file = target.with_name(target.name + ".error")
        with tempfile.TemporaryDirectory() as folder:
            for name, data in code.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            command = [
                str(python),
                "-s",
                "-c",
                bootstrap("tables"),
                _worker_folder(),
                what,
                function,
                str(target.absolute()),
            ]
            try:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    env={**_clean_environment(), "RETINUE_PROJECT": str(self._root)},
                    capture_output=True,
                    timeout=float(os.environ.get("RETINUE_FUNCTION_TIMEOUT", TIMEOUT)),
                    check=False,
                    stdin=subprocess.DEVNULL,
                )
            except subprocess.TimeoutExpired as error:
                raise DataError(f"{function} ran longer than {error.timeout:g} s and was stopped") from None
        if done.returncode == 0 and target.is_file():
            return
        said = done.stderr.decode(errors="replace").strip().splitlines()
        message = f"died (exit status {done.returncode})" + (f": {said[-1]}" if said else "")
        if error_file.is_file():
            message = json.loads(error_file.read_bytes())["message"]
            error_file.unlink()
        raise DataError(f"{function} {message}", hint="Correct the function; nothing was changed.")


def with_code(tables: Mapping[str, TableSpec], root: Path) -> Mapping[str, TableSpec]:
    """The tables with the digest of their function's code, so that an edit of it is another definition.

    Raises PortfolioError at the table for a function that is not there.
    """
    if not any(spec.python is not None and spec.code is None for spec in tables.values()):
        return tables
    return {name: _coded(spec, root) for name, spec in tables.items()}


def _coded(spec: TableSpec, root: Path) -> TableSpec:
    if spec.python is None or spec.code is not None:
        return spec
    try:
        return replace(spec, code=close_code(spec.python, root).digest)
    except PortfolioError as error:
        raise PortfolioError(
            f"table {spec.name}: {error.message}", hint=error.hint, where=error.where or spec.where
        ) from error
