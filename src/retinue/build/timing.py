"""Latency as it is served: calls with one row in a process of the model's own, while nothing else is built.

The new version and its champion are asked by turns in short blocks: what slows the machine for a moment slows both,
and the ratio of the blocks' medians has an honest interval.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import retinue_worker
from retinue.build.trainer import bootstrap

Array = NDArray[Any]
Json = Any

BLOCKS, CALLS = 40, 50
SECONDS = 8.0  # of one measurement; a slow model is asked fewer times
PATIENCE = 120.0
ROWS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Clocked:
    """What is timed: an artifact, the interpreter that serves it, and rows to ask it with."""

    path: Path
    format: str
    signature: Mapping[str, Json]
    python: Path
    columns: Mapping[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """Seconds per call [n]; medians per block [b] of both, where a champion was asked too. `why`: not measured."""

    seconds: Array
    blocks: Array
    rival: Array | None = None
    why: str = ""


class Quiet:
    """Builds share the machine; who measures has it alone. Within `busy`, `alone` gives its own share up meanwhile."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._busy, self._waiting, self._alone = 0, 0, False

    @contextmanager
    def busy(self) -> Iterator[None]:
        """One of many at work; waits while somebody measures or wants to."""
        with self._condition:
            self._condition.wait_for(lambda: not self._alone and not self._waiting)
            self._busy += 1
        try:
            yield
        finally:
            with self._condition:
                self._busy -= 1
                self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is at work; to be called within `busy`."""
        with self._condition:
            self._busy -= 1
            self._waiting += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._alone and not self._busy)
            self._alone = True
            self._waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._alone = False
                self._busy += 1
                self._condition.notify_all()


def measure(subject: Clocked, rival: Clocked | None, folder: Path) -> Timed:
    """Ask both by turns; what fails to load or answer is told in `why`, never raised."""
    nothing = np.empty(0)
    processes: list[_Stopwatch] = []
    try:
        for clocked in (subject, rival):
            if clocked is not None:
                processes.append(_Stopwatch(clocked, folder))
        blocks: list[list[Array]] = [[] for _ in processes]
        calls, ends = CALLS, time.monotonic() + SECONDS
        while len(blocks[0]) < BLOCKS and (time.monotonic() < ends or len(blocks[0]) < 2):
            order = range(len(processes)) if len(blocks[0]) % 2 == 0 else range(len(processes) - 1, -1, -1)
            for place in order:
                blocks[place].append(processes[place].time(calls))
            if len(blocks[0]) == 1 and blocks[0][0].sum() > SECONDS / BLOCKS:
                calls = max(5, int(CALLS * SECONDS / BLOCKS / float(blocks[0][0].sum())))
    except (OSError, ValueError) as error:
        return Timed(nothing, nothing, why=f"not measured: {error}")
    finally:
        for process in processes:
            process.end()
    medians = [np.array([np.median(block) for block in found]) for found in blocks]
    return Timed(np.concatenate(blocks[0]), medians[0], medians[1] if len(medians) > 1 else None)


class _Stopwatch:
    """One process that has one model loaded."""

    def __init__(self, clocked: Clocked, folder: Path) -> None:
        interpreter = Path(sys.executable) if clocked.format == "onnx" else clocked.python
        with open(folder / "stopwatch.log", "ab") as log:
            self._process = subprocess.Popen(
                [str(interpreter), "-s", "-c", bootstrap("stopwatch"), str(Path(retinue_worker.__file__).parent)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**{key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ},
                     "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is the platform's to handle
                bufsize=0,
            )  # fmt: skip
        self._left = b""
        try:
            self._heard()
            body = {"path": str(clocked.path), "format": clocked.format, "signature": dict(clocked.signature)}
            self._asked({"load": "model", **body, "rows": _rows(clocked.columns)})
        except BaseException:
            self.end()
            raise

    def time(self, calls: int) -> Array:
        """Seconds of so many calls. Raises OSError and ValueError when it does not answer."""
        return np.array(self._asked({"time": "model", "calls": calls})["nanoseconds"]) / 1e9

    def end(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.kill()
        self._process.wait()

    def _asked(self, question: Mapping[str, Json]) -> dict[str, Json]:
        assert self._process.stdin is not None
        data = memoryview(json.dumps(question).encode() + b"\n")
        while data:
            data = data[self._process.stdin.write(data) or 0 :]
        answer = self._heard()
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def _heard(self) -> dict[str, Json]:
        assert self._process.stdout is not None
        while b"\n" not in self._left:
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
            part = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                raise OSError("the process that serves the model does not answer")
            self._left += part
        line, self._left = self._left.split(b"\n", 1)
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError(line[:200])
        return found


def _rows(columns: Mapping[str, Array]) -> list[dict[str, Json]]:
    n = min(ROWS, len(next(iter(columns.values()))))
    kinds = {name: "O" if values.dtype == object else values.dtype.str for name, values in columns.items()}
    return [{name: [kinds[name], values[row : row + 1].tolist()[0]] for name, values in columns.items()}
            for row in range(n)]  # fmt: skip
