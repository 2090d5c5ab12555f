"""Measures what versions take in memory when they serve: one weighing process per environment, for one apply."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import retinue_worker
from retinue.build.trainer import bootstrap
from retinue.core.identity import digest

Json = Any
ALIKE = 0.02
"""How far the sizes of two artifacts may lie apart for what one of them takes in memory to stand for the other."""
PATIENCE = 120.0  # seconds for one answer; without one the version stays unmeasured


class Weighers:
    """Weighing processes by interpreter, started when first needed. Thread-safe; nothing here ever fails a build."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._locks: dict[Path, threading.Lock] = {}
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        self._known: dict[str, list[tuple[int, int]]] = {}  # kind → (bytes on disk, bytes in memory)

    def weigh_like(self, path: Path, format_: str, signature: Mapping[str, Json], python: Path) -> int | None:
        """The same, but what was weighed of a model of its kind and size is good enough.

        Of one kind are models of one format with inputs and outputs of the same types; a member of a family differs
        from its sisters in the numbers it holds, which take the same room.
        """
        fields = [[[f["dtype"], f["width"]] for f in signature[side]] for side in ("inputs", "outputs")]
        kind = digest([format_, str(python), fields])
        size = path.stat().st_size
        with self._guard:
            for other, taken in self._known.get(kind, ()):
                if abs(other - size) <= ALIKE * size:
                    return taken
        found = self.weigh(path, format_, signature, python)
        if found is not None:
            with self._guard:
                self._known.setdefault(kind, []).append((size, found))
        return found

    def weigh(self, path: Path, format_: str, signature: Mapping[str, Json], python: Path | None = None) -> int | None:
        """Bytes the model takes when loaded, None when that cannot be told here.

        `python`: the interpreter of its environment; compiled models are loaded by the platform's own.
        """
        if sys.platform != "linux":
            return None
        interpreter = Path(sys.executable) if python is None or format_ == "onnx" else python
        with self._guard:
            lock = self._locks.setdefault(interpreter, threading.Lock())
        with lock:
            try:
                process = self._process(interpreter)
                question = {"path": str(path), "format": format_, "signature": dict(signature)}
                assert process.stdin is not None
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
                size = _answer(process).get("bytes")
            except (OSError, ValueError):
                self._end(interpreter)
                return None
        return int(size) if isinstance(size, int) and size > 0 else None

    def close(self) -> None:
        """End all of them."""
        for interpreter in list(self._processes):
            self._end(interpreter)

    def _process(self, interpreter: Path) -> subprocess.Popen[bytes]:
        found = self._processes.get(interpreter)
        if found is not None and found.poll() is None:
            return found
        with open(self._folder / "weighers.log", "ab") as log:
            process = self._processes[interpreter] = subprocess.Popen(
                [str(interpreter), "-s", "-c", bootstrap("weigh"), str(Path(retinue_worker.__file__).parent)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder,
                env={**{key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ},
                     "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is the platform's to handle
                bufsize=0,
            )  # fmt: skip
        _answer(process)
        return process

    def _end(self, interpreter: Path) -> None:
        process = self._processes.pop(interpreter, None)
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        process.kill()
        process.wait()


def _answer(process: subprocess.Popen[bytes]) -> dict[str, Json]:
    """The next line it says. Raises OSError when there is none in time, ValueError when it is no JSON."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        part = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not part:
            raise OSError("the weigher does not answer")
        line += part
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(line)
    return found
