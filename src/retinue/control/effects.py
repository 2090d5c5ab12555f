"""The numbered durable effects of apply, restore and gc: every step that outlives the process, in their order.

A fault test kills the process right after each one and runs it again; the final state must be the same.
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


class RestoreEffect(IntEnum):
    """What a restore just made durable. Rows come before what gateways read, and pointers come last."""

    ARTIFACT_STORED = 1
    FILE_WRITTEN = 2
    ROWS_LOADED = 3
    RELEASE_FILE_WRITTEN = 4


class GcEffect(IntEnum):
    """What a gc just made durable."""

    ARTIFACT_REMOVED = 1
    ENVIRONMENT_REMOVED = 2
    RELEASE_FILE_REMOVED = 3
    LOG_REMOVED = 4
    CACHE_REMOVED = 5


OnStep = Callable[[IntEnum, str], None]
"""The same for restore and gc."""
OnEffect = Callable[[Effect, str], None]
"""Called after each durable effect with what it was about; the default does nothing."""


def ignore(effect: IntEnum, what: str) -> None:
    """The observer that does nothing."""
