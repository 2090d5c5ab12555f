"""What a model takes in memory: copies of it are loaded in a fresh process, and what each further copy adds is counted.

One load says little: the first brings libraries and caches with it, and the allocator rounds. A weigher imports the
runtime once and forks a child per question, so an answer takes as long as a few loads.

    platform ── stdin: one JSON object a line {"path", "format", "signature"} ──► weigher ── fork ──► child
             ◄─ stdout: {"ready"}, then per question {"bytes"} or {"error"}
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
from typing import Any

COPIES = 6
LARGE = 64 * 1024**2  # bytes from which on two copies say enough
HUGE = 512 * 1024**2  # bytes from which on one copy says enough
_HEAD_START = ("numpy", "onnxruntime", "sklearn.ensemble", "sklearn.pipeline", "skops.io", "retinue_worker.runtime")


def main(arguments: list[str]) -> int:
    """`weigh`: answer questions on stdin until it closes."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a model prints belongs to the log
    for module in _HEAD_START:
        try:
            importlib.import_module(module)
        except ImportError:  # a model that needs it will say so
            continue
    gc.collect()
    gc.freeze()
    _say(answers, {"ready": True})
    for line in sys.stdin:
        _say(answers, _in_child(json.loads(line)))
    return 0


def weigh(path: str, format: str, signature: dict[str, Any], copies: int = COPIES) -> int:
    """Bytes that one more copy of a model adds to this process, loaded and run once. Raises ModelError.

    Loads up to `copies` of it, fewer of a large one; meant for a process that ends afterwards.
    """
    from retinue_worker import runtime

    row = runtime.example(signature)
    kept: list[Any] = []
    sizes = [_own()]
    while len(kept) < max(1, copies):
        model = runtime.load(path, format, signature)
        with contextlib.suppress(runtime.ModelError):  # a row of zeros may be more than it can take
            model.run(row)
        kept.append(model)
        sizes.append(_own())
        grown = sizes[-1] - sizes[0]
        if grown > HUGE or (grown > LARGE and len(kept) == 2):
            break
    if len(kept) == 1:
        return max(0, sizes[1] - sizes[0])
    return max(0, (sizes[-1] - sizes[1]) // (len(kept) - 1))  # the first pays for what all share


def _own() -> int:
    """Bytes of memory that are this process's alone."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Private"))


def _in_child(question: dict[str, Any]) -> dict[str, Any]:
    """Weigh in a fork: what was loaded for one question does not weigh on the next."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            gc.disable()  # a collection would touch, and so copy, pages that are shared with the parent
            try:
                answer: dict[str, Any] = {"bytes": weigh(question["path"], question["format"], question["signature"])}
            except Exception as error:  # noqa: BLE001  whatever it was, the platform is told
                answer = {"error": f"{type(error).__name__}: {error}"}
            os.write(writer, json.dumps(answer)[:60_000].encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else {"error": "the model ended its process"}


def _say(descriptor: int, message: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
