"""Every error Retinue raises on purpose: the class says whose fault it is, the text says what to do next.

    RetinueError
    ├── UsageError            the command line was wrong                    (exit 64)
    ├── PortfolioError        the portfolio file is wrong, with file:line:column
    ├── DataError             a table, view or column is not as declared
    ├── EnvironmentFailure    packages do not resolve or cannot be installed
    ├── TrainingError         the user's training code raised, hung or returned nonsense
    ├── StateError            the recorded state refuses
    │   ├── ConflictError         something in the affected set moved meanwhile
    │   ├── LeaseHeldError        another apply is at work on the same models
    │   ├── StateUnavailableError the database is locked, lost or the disk is full
    │   └── CorruptArtifactError  stored bytes are not what was stored
    ├── RequestError          a client's request was wrong
    │   ├── UnauthenticatedError  no key, or one that opens nothing
    │   ├── ForbiddenError        the key is known, and not allowed this
    │   ├── UnknownModelError     no such model, endpoint or version
    │   └── TooLargeError         over a limit
    ├── UnavailableError      right request, wrong moment: not ready, overloaded, worker gone
    ├── DeadlineError         not answered in the time that the client or the server allows
    └── InferenceError        the model itself failed on this input

HTTP status codes live in the gateway and exit codes in the command line; nothing here knows either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a text file; line and column count from 1, 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        parts = [self.file]
        if self.line:
            parts.append(str(self.line))
            if self.column:
                parts.append(str(self.column))
        return ":".join(parts)


class RetinueError(Exception):
    """Base of all. `message` says what is wrong, `hint` the next step, `where` the place (if any)."""

    fault: ClassVar[str] = "retinue"
    remedy: ClassVar[str] = "This is a bug in Retinue: please report it with the command and this text."

    def __init__(self, message: str, *, hint: str | None = None, where: Location | str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.remedy
        self.where = str(where) if where is not None else None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class UsageError(RetinueError):
    """The command line was wrong."""

    fault = "caller"
    remedy = "See `retinue --help`."


class PortfolioError(RetinueError):
    """The portfolio file is wrong. `problems` holds every problem found, the first is the message."""

    fault = "portfolio"
    remedy = "Correct the portfolio file, then run `retinue validate`."

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        where: Location | str | None = None,
        problems: tuple[PortfolioError, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint, where=where)
        self.problems = problems or (self,)


class DataError(RetinueError):
    """A table, view or column is not as declared."""

    fault = "data"
    remedy = "Correct the data or its declaration under `data:`, then run `retinue plan` again."


class EnvironmentFailure(RetinueError):
    """An environment's packages do not resolve or cannot be installed."""

    fault = "environment"
    remedy = "Correct the requirements file of the environment, then run `retinue env lock`."


class TrainingError(RetinueError):
    """The user's training code raised, hung, used too much memory or returned nonsense."""

    fault = "training code"
    remedy = "Correct the training function, then run `retinue apply` again; nothing else was stopped."


class StateError(RetinueError):
    """The recorded state refuses what was asked."""

    fault = "state"
    remedy = "Look at `retinue status` and run `retinue plan` again."


class ConflictError(StateError):
    """Something in the affected set moved since the plan was made."""

    remedy = "Run `retinue plan` again: the plan was made against an older release."


class LeaseHeldError(StateError):
    """Another apply is at work on some of the same models."""

    remedy = "Wait until the other apply has ended; `retinue status` names it."


class StateUnavailableError(StateError):
    """The database or the disk does not take what must be recorded."""

    remedy = "Free the database or the disk, then run the same command again: it continues where it was."


class CorruptArtifactError(StateError):
    """Stored bytes do not have the digest under which they were stored, or are gone."""

    remedy = "Run `retinue rebuild MODEL`, or restore the artifact store from a backup."


class RequestError(RetinueError):
    """A client's request was wrong."""

    fault = "client"
    remedy = "Compare the request with the model's metadata: GET /v2/models/NAME."


class UnauthenticatedError(RequestError):
    """The request has no API key, or one that is unknown, ended or revoked."""

    remedy = (
        "Send a live key as `Authorization: Bearer KEY`, for `retinue predict` in RETINUE_KEY; "
        "`retinue clients add NAME` makes one."
    )


class ForbiddenError(RequestError):
    """The client is known, and may not call this endpoint."""

    remedy = "Ask for the right, or call an endpoint that the key is for; `retinue clients list` shows who may what."


class UnknownModelError(RequestError):
    """No model, endpoint or version of that name is in the release."""

    remedy = "GET /v2/models lists what this release serves."


class TooLargeError(RequestError):
    """The request is over a limit."""

    remedy = "Send fewer rows in one request, or raise the limit in retinue.toml."


class UnavailableError(RetinueError):
    """Right request, wrong moment: not ready, overloaded, or the worker died."""

    fault = "server"
    remedy = "Try again shortly; `retinue status` shows what is not ready."


class DeadlineError(RetinueError):
    """The answer was not ready in time; parts of it may have been computed."""

    fault = "operator"
    remedy = "Allow more time (`timeout`, [serve] request_timeout), or send fewer rows."


class InferenceError(RetinueError):
    """The model failed on this input."""

    fault = "model"
    remedy = "The model's own error is in the message; `retinue show MODEL` tells what it was built from."
