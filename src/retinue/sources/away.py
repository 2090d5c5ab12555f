"""What every kind of source shares: the error of one that cannot be asked, and how a user's function is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retinue.core.errors import DataError


class AwayError(DataError):
    """The source cannot be asked now."""


Call = Callable[[str, str, str, Path], None]
"""(function, environment, what: "table", "version" or "keys", target file): runs a function, leaves its answer."""
