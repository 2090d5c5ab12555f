"""Which error is which gRPC status, and what a client is told of it."""

from __future__ import annotations

from retinue.core.errors import (
    DeadlineError,
    ForbiddenError,
    InferenceError,
    RequestError,
    RetinueError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = range(6)
PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 7, 8, 12, 13, 14, 16

_CODES: tuple[tuple[type[RetinueError], int], ...] = (
    (UnauthenticatedError, UNAUTHENTICATED),
    (ForbiddenError, PERMISSION_DENIED),
    (UnknownModelError, NOT_FOUND),
    (RequestError, INVALID_ARGUMENT),
    (UnavailableError, UNAVAILABLE),
    (DeadlineError, DEADLINE_EXCEEDED),
    (InferenceError, INTERNAL),
)


def code_of(error: RetinueError) -> int:
    """The gRPC status of an error."""
    return next((number for kind, number in _CODES if isinstance(error, kind)), INTERNAL)


def text_of(error: RetinueError) -> str:
    """What a client is told of an error."""
    return error.message if error.hint == error.remedy else f"{error.message}. {error.hint}"
