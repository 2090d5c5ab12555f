"""Structured logs: one JSON object a line, to standard error and the state folder, or to a file of the user's.

Events, never payloads or keys.

{"time": "…Z", "level": "warning", "event": "access.damaged", "text": "…", "process": "gateway", "pid": 7, …}
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from retinue.core.errors import UsageError
from retinue.gateway.kept_file import LARGEST, KeptFile
from retinue.settings import LEVELS, Settings

EVERY = 10.0  # seconds between two lines of one kind that clients can cause
KEPT = LEVELS.index("info")
"""The state folder keeps what is at least this, whatever the terminal is told."""
_LEVEL_OF = {
    "access.damaged": "error",
    "tls.damaged": "error",
    "release.refused": "error",
    "journal.stopped": "error",
    "gateway.died": "error",
    "worker.died": "warning",
    "controller": "warning",
    "model.quarantined": "error",
    "model.load_failed": "warning",
    "request.rejected": "warning",
    "request.slow": "warning",
    "request.bug": "error",
}
"""What is said at another level than info."""


class Log:
    """Where one process says what happens. Never raises and never blocks on more than a write.

    `file`: there and nowhere else. `kept`: without a `file`, besides standard error, rotated by size.
    """

    def __init__(
        self,
        process: str,
        *,
        level: str = "warning",
        file: str = "",
        kept: Path | None = None,
        slow: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.slow_after = slow if slow > 0 else float("inf")  # seconds; the door compares before it calls
        self._process, self._clock = process, clock
        self._file = KeptFile(Path(file)) if file else None
        self._kept = KeptFile(kept, LARGEST) if kept is not None and not file else None
        self._told = LEVELS.index(level)
        self._least = min(self._told, KEPT) if self._kept is not None else self._told
        self._pid = os.getpid()
        self._said: dict[str, tuple[float, int]] = {}  # kind → (when last said, left out since)

    def say(self, event: str, text: str, **facts: Any) -> None:
        """One line. `facts` are plain values; an event's level is in the table above, else info."""
        level = _LEVEL_OF.get(event, "info")
        weight = LEVELS.index(level)
        if weight < self._least:
            return
        now = self._clock()
        line = {
            "time": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": level,
            "event": event,
            "text": text,
            "process": self._process,
            "pid": self._pid,
            **facts,
        }
        with contextlib.suppress(
            OSError, TypeError, ValueError, AttributeError
        ):  # a full disk is no reason to stop serving
            data = orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
            if self._file is not None:
                self._file.write(data, now)
                return
            if self._kept is not None:
                with contextlib.suppress(OSError):
                    self._kept.write(data, now)
            if weight >= self._told:
                os.write(sys.stderr.fileno(), data)

    def rarely(self, event: str, text: str, **facts: Any) -> None:
        """The same at most every ten seconds per event: clients cause these. `left_out` counts what was not said."""
        now = self._clock()
        last, left = self._said.get(event, (float("-inf"), 0))
        if now - last < EVERY:
            self._said[event] = (last, left + 1)
            return
        self._said[event] = (now, 0)
        self.say(event, text, **facts, **({"left_out": left} if left else {}))

    def slow(self, endpoint: str, seconds: float, status: int) -> None:
        """A request that took longer than the threshold."""
        text = f"{endpoint} took {seconds:.3f} s"
        self.rarely("request.slow", text, endpoint=endpoint, seconds=round(seconds, 6), status=status)

    def bug(self, error: BaseException) -> None:
        """An exception nobody expected: its class and where it was raised; its text may hold a client's values."""
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        place = f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}" if last is not None else "?"
        self.rarely("request.bug", f"{type(error).__name__} at {place}")

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._kept):
            if file is not None:
                file.close()


def log_of(settings: Settings, process: str) -> Log:
    """The log that settings ask for."""
    return Log(
        process,
        level=settings.log_level,
        file=settings.log_file,
        kept=kept_log(settings),
        slow=settings.log_slow,
    )


def kept_log(settings: Settings) -> Path:
    """The file that the state folder keeps, unless `[log] file` names another."""
    return Path(settings.log_file) if settings.log_file else settings.logs / "serve.log"


def check_log(settings: Settings) -> None:
    """Raises UsageError when the log's file cannot be written: later, nobody would be told."""
    if not settings.log_file:
        return
    try:
        with open(settings.log_file, "ab"):
            pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"the log file {settings.log_file} cannot be written: {why}",
            hint="Correct [log] file in retinue.toml (RETINUE_LOG_FILE), or remove it to log to standard error.",
        ) from error
