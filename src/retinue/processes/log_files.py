"""What the processes of a server logged: the last lines, and those that follow, from files that are rotated."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinue.core.errors import StateError, StateUnavailableError
from retinue.gateway.kept_file import GENERATIONS, empty_if_large, generation
from retinue.gateway.logs import kept_log
from retinue.settings import Settings

Json = Any
PROCESSES = ("gateway", "controller", "worker")
LOOK = 0.2  # seconds between two looks for new lines
_MOST = 16 * 1024**2  # bytes at the end of one file that are looked at


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `facts` is empty for what was not logged as JSON: output of workers, damaged lines."""

    file: str
    text: str
    time: str = ""
    level: str = ""
    event: str = ""
    facts: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """The same for programs: as it was logged, else its text and its file."""
        if not self.event:
            return {"file": self.file, "text": self.text}
        return {"time": self.time, "level": self.level, "event": self.event, "text": self.text, **self.facts}


def log_files(settings: Settings, process: str) -> list[Path]:
    """The files in which a process of this name is heard, the least recently written first; they may not be there."""
    if process != "worker":
        return [kept_log(settings)]
    return sorted(settings.logs.glob("worker-*.log"), key=_written)


def last_lines(settings: Settings, process: str, count: int) -> list[LogLine]:
    """The last `count` lines of a process (of each worker's file), the oldest first.

    Raises StateError when nothing was written yet, StateUnavailableError when a file cannot be read.
    """
    files = [path for path in log_files(settings, process) if any(_generations(path))]
    if not files:
        raise StateError(
            f"nothing is logged of a {process} yet",
            where=str(settings.log_file if settings.log_file and process != "worker" else settings.logs),
            hint=_STARTS[process],
        )
    return [line for path in files for line in _tail(path, process, count)]


_STARTS = {
    "gateway": "`retinue serve` writes it, where it runs; --follow waits for it.",
    "controller": "`retinue serve` writes it, where it runs; --follow waits for it.",
    "worker": "Workers print only what their models print: see `retinue logs gateway`.",
}


def follow(settings: Settings, process: str, sleep: Callable[[float], None] = time.sleep) -> Generator[LogLine]:
    """Lines that are written from this call on; ends only when its caller does."""
    found = {path: _Follower(path, at_end=True) for path in log_files(settings, process)}

    def coming() -> Generator[LogLine]:
        try:
            while True:
                for path in log_files(settings, process):
                    if path not in found:
                        found[path] = _Follower(path, at_end=False)
                    for raw in found[path].more():
                        line = _line(raw, path, process)
                        if line is not None:
                            yield line
                sleep(LOOK)
        finally:
            for follower in found.values():
                follower.close()

    return coming()


def bound_worker_logs(settings: Settings) -> None:
    """Keep what workers print from filling the disk."""
    for path in settings.logs.glob("worker-*.log"):
        empty_if_large(path)


class _Follower:
    """Whole lines of one file, across its rotations."""

    def __init__(self, path: Path, *, at_end: bool) -> None:
        self._path = path
        self._file = _opened(path)
        self._rest = b""
        if at_end and self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def more(self) -> list[bytes]:
        lines = self._read()
        if self._file is not None and not self._same():
            lines += self._read()  # what came between the last read and the move
            self.close()
        if self._file is None:
            self._file = _opened(self._path)
            lines += self._read()
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _same(self) -> bool:
        assert self._file is not None
        ours = os.fstat(self._file.fileno())
        if ours.st_size < self._file.tell():
            self._file.seek(0)  # emptied
        try:
            there = self._path.stat()
        except OSError:
            return False
        return (ours.st_ino, ours.st_dev) == (there.st_ino, there.st_dev)

    def _read(self) -> list[bytes]:
        if self._file is None:
            return []
        data: bytes = self._rest + self._file.read()
        *lines, self._rest = data.split(b"\n")
        return lines


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _generations(path: Path) -> Iterator[Path]:
    """The file and its older generations, the newest first."""
    return (older for number in range(GENERATIONS + 1) if (older := generation(path, number)).exists())


def _tail(path: Path, process: str, count: int) -> list[LogLine]:
    found: deque[LogLine] = deque()
    for older in _generations(path):
        for raw in reversed(_raw(older)):
            if len(found) == count:
                return list(found)
            line = _line(raw, path, process)
            if line is not None:
                found.appendleft(line)
    return list(found)


def _raw(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _MOST))
            lines = file.read().splitlines()
    except FileNotFoundError:  # rotated this moment
        return []
    except OSError as error:
        raise _unreadable(path, error) from error
    return lines[1:] if size > _MOST else lines


def _line(raw: bytes, path: Path, process: str) -> LogLine | None:
    """A line if it is of that process; what the supervisor says is the gateway's, but for the controller's lines."""
    text = raw.decode("utf-8", errors="replace")
    if process == "worker":
        return LogLine(path.name, text)
    try:
        body = json.loads(text)
        said = {key: str(body.pop(key)) for key in ("time", "level", "event", "text")}
    except (ValueError, KeyError, AttributeError, TypeError):
        return LogLine(path.name, text) if process == "gateway" and text.strip() else None
    if (said["event"] == "controller") != (process == "controller"):
        return None
    return LogLine(path.name, said["text"], said["time"], said["level"], said["event"], body)


def _unreadable(path: Path, error: OSError) -> StateUnavailableError:
    return StateUnavailableError(
        f"the log cannot be read: {error.strerror or error}",
        where=str(path),
        hint="Correct [log] file in retinue.toml, or its rights.",
    )
