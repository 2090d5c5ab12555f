"""How long calls of a model take: loaded as it is served, asked one row at a time, in short blocks by turns.

    platform ── stdin: a JSON object a line {"load", …} or {"time", "calls"} ──► stopwatch
             ◄─ stdout: {"ready"}, then {"loaded"}, {"nanoseconds"} or {"error"}

The platform asks two models by turns, so that what slows the machine for a moment slows both.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

WARM = 20  # calls that are not counted, after a load


def main(arguments: list[str]) -> int:
    """`stopwatch`: answer questions on stdin until it closes."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a model prints belongs to the log
    loaded: dict[str, tuple[Any, list[dict[str, Any]]]] = {}
    _say(answers, {"ready": True})
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line), loaded)
        except Exception as error:  # noqa: BLE001  whatever it was, the platform is told
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        _say(answers, answer)
    return 0


def _answer(question: dict[str, Any], loaded: dict[str, tuple[Any, list[dict[str, Any]]]]) -> dict[str, Any]:
    from retinue_worker import runtime

    if "load" in question:
        for model, _ in loaded.values():
            model.close()
        loaded.clear()
        gc.collect()
        model = runtime.load(question["path"], question["format"], question["signature"])
        rows = [_row(row) for row in question["rows"]]
        loaded[question["load"]] = (model, rows)
        for number in range(WARM):
            model.run(dict(rows[number % len(rows)]))
        return {"loaded": question["load"]}
    model, rows = loaded[question["time"]]
    taken = []
    for number in range(question["calls"]):
        row = dict(rows[number % len(rows)])
        start = time.perf_counter_ns()
        model.run(row)
        taken.append(time.perf_counter_ns() - start)
    return {"nanoseconds": taken}


def _row(values: dict[str, Any]) -> dict[str, Any]:
    """A row as the gateway hands it on: one array of length 1 per column."""
    import numpy as np

    return {
        name: np.array([value], dtype=object) if kind == "O" else np.array([value], dtype=kind)
        for name, (kind, value) in values.items()
    }


def _say(descriptor: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
