"""A portfolio file as it was loaded last, kept by the digests of what it is made of: YAML is read when it changed.

Kept is what the loader made of these very bytes with this very code: any other byte of the file, of an included file
or of the loader makes it anew. What is garbled is passed over. Only values of `retinue.core` are ever made from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import retinue
from retinue.core.identity import digest
from retinue.core.portfolio import Portfolio
from retinue.sources.cache import write_whole

FORMAT = 1
_ROOT = Path(retinue.__file__).parent
_CODE = ("core", "loader")


Load = Callable[[Path], tuple[Portfolio, Sequence[Path]]]
"""Loads a portfolio file; gives the files it was loaded from beside it."""


def load_kept(path: Path, cache: Path, load: Load) -> tuple[Portfolio, str]:
    """As `load`, which is asked only when something changed. Raises PortfolioError.

    Beside it what it is known by: a digest over the code that loaded it and over every file it was loaded from.
    """
    kept = cache / "portfolios" / f"{digest([FORMAT, str(path), str(path.absolute())])[:40]}.bin"
    code = code_stamp(_CODE)
    found = _read(kept, code)
    if found is not None:
        return found
    before = _digest(path)
    portfolio, files = load(path)
    names = [str(file) for file in files]
    sums = [(name, _digest(Path(name))) for name in names]
    body = (code, sums, portfolio)
    if before is not None and before == _digest(path):
        data = pickle.dumps(body, protocol=5)
        with contextlib.suppress(OSError):  # a disk that refuses it costs the next plan time, never its answer
            write_whole(kept, hashlib.sha256(data).digest() + data)
    return portfolio, digest([code, sums])


def _read(kept: Path, code: str) -> tuple[Portfolio, str] | None:
    try:
        data = kept.read_bytes()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        by, files, portfolio = _Values(io.BytesIO(data[32:])).load()
        same = by == code and all(sha is not None and _digest(Path(name)) == sha for name, sha in files)
    except Exception:  # noqa: BLE001 - bytes that somebody else wrote can raise anything; then it is loaded anew
        return None
    return (portfolio, digest([code, files])) if same and isinstance(portfolio, Portfolio) else None


class _Values(pickle.Unpickler):
    """Makes frozen values of `retinue.core` and nothing else: no function is called, no other class is found."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("retinue.core.") and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and is_dataclass(found):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no value of a portfolio")


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def code_stamp(rooms: tuple[str, ...]) -> str:
    """What the code of these rooms is recognised by: sizes and times of its files, installed or edited."""
    stamps = []
    for room in rooms:
        with os.scandir(_ROOT / room) as entries:
            stamps += [
                (room, entry.name, stat.st_size, stat.st_mtime_ns)
                for entry in entries
                if entry.name.endswith(".py")
                for stat in [entry.stat()]
            ]
    return digest([str(_ROOT), sorted(stamps)])
