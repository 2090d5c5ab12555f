"""The numbered durable effects of an apply: every step that outlives the process, in the order they can happen.

A fault test kills the process right after each one and applies again; the final state must be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum


class Effect(IntEnum):
    """What was just made durable."""

    APPLY_RECORDED = 1
    DEFINITIONS_STORED = 2
    VERSION_REGISTERED = 3
    EVIDENCE_RECORDED = 4
    HOLDS_RECORDED = 5
    RELEASE_LANDED = 6
    RELEASE_FILE_WRITTEN = 7
    SETTINGS_WRITTEN = 8
    APPLY_CLOSED = 9


OnEffect = Callable[[Effect, str], None]
"""Called after each durable effect with what it was about; the default does nothing."""


def ignore(effect: Effect, what: str) -> None:
    """The observer that does nothing."""
