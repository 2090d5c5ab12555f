"""The trainer: a process that has the frameworks imported and forks one child per training.

    platform ── stdin: length-prefixed JSON requests ─────────► trainer ── fork ──► child: user code, conversion
             ◄─ stdout: {"ready"}, {"started": pid}, {"left"} or {"ended": status}    └─► result file, log file

A child inherits the imports, so a training pays nothing for them, and takes everything it changed with it: modules,
settings, leaked memory, a crash. What training code prints goes to the log; the protocol has its own descriptors.
When stdin closes, the trainer and its child end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from retinue_worker import forks
from retinue_worker.artifact import NonsenseError, keep
from retinue_worker.boosters import FRAMEWORKS, framework_of, read
from retinue_worker.convert import ConversionError, convert
from retinue_worker.exchange import read_columns, read_table, write_columns
from retinue_worker.job import TrainingJob
from retinue_worker.prepared import PrepareError, before_training, wrap

_MAX_FAILURES = 64  # rows asked one by one after a batch failed, before the rest is given up


def main(arguments: list[str]) -> int:
    """`train [--overlay FOLDER] [--import MODULE]…`: serve requests on stdin until it closes."""
    options = dict(zip(arguments[::2], arguments[1::2]))  # noqa: B905  Python 3.9 has no strict
    modules = [value for name, value in zip(arguments[::2], arguments[1::2]) if name == "--import"]  # noqa: B905
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:  # only a head start: training code that needs it will say so itself
            continue
    overlay = _Overlay(options.get("--overlay"))
    gc.collect()
    gc.freeze()  # children neither scan nor copy what is shared with them
    forks.send(answers, {"ready": True})
    while forks.serve(partial(_child, overlay), requests, answers):
        pass
    return 0


def _child(overlay: _Overlay, line: forks.Line) -> None:
    """Answer a request, and what is asked next about what is in memory then."""
    request = line.first()
    if request is None:
        return
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    following: dict[str, Any] | None = request
    while following is not None:
        _answer(following, overlay)
        following = line.left()


def _answer(request: dict[str, Any], overlay: _Overlay) -> None:
    try:
        result = {"train": _train, "convert": _convert, "probe": _probe, "adopt": _adopt}[request["op"]](
            request, overlay
        )
    except _Failure as failure:
        result = failure.result
    except NonsenseError as error:
        result = {"error": "nonsense", "message": str(error), "hint": error.hint}
    except PrepareError as error:
        result = error.told()
    except BaseException as error:  # noqa: BLE001  the platform is told of whatever it was
        traceback.print_exc()
        result = {"error": "trainer", "message": f"{type(error).__name__}: {error}"}
    _leave(request, result)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _leave(request: dict[str, Any], result: dict[str, Any]) -> None:
    """Leave a result for the platform, whole or not at all; a later one replaces it."""
    path = Path(request["result"])
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(json.dumps(result), encoding="utf-8")
    scratch.replace(path)


class _Failure(Exception):
    """The user's code raised; `result` is what the platform is told."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result["message"])
        self.result = result


class _Overlay:
    """The converters: imported before the first training, yet hidden from training code until it has returned."""

    def __init__(self, folder: str | None) -> None:
        self.reason: str | None = None if folder else "there are no converters"
        self._folder = folder
        self._hidden: dict[str, Any] = {}
        if folder is None:
            return
        sys.path.append(folder)
        try:
            importlib.import_module("skl2onnx")
        except Exception as error:  # noqa: BLE001  a broken overlay only means: no conversion
            self.reason = f"the converters cannot be imported: {type(error).__name__}: {error}"
        sys.path.remove(folder)
        for name, module in list(sys.modules.items()):
            paths = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
            if any(path.startswith(folder + os.sep) for path in paths):
                self._hidden[name] = module
        for name in self._hidden:  # only now: the path of a namespace package is found through its parents
            del sys.modules[name]

    def show(self) -> None:
        """Make the converters importable, in a child whose training is over."""
        if self._folder is not None:
            sys.path.append(self._folder)
            for name, module in self._hidden.items():
                sys.modules[name] = module


# ------------------------------------------------------------------------------------------------------------ train
def _train(request: dict[str, Any], overlay: _Overlay) -> dict[str, Any]:
    """Call the user's function, keep what it returned, convert it if that is wanted."""
    files = Path(request["files"])
    files.mkdir(parents=True, exist_ok=True)
    tables = {name: read_table(path) for name, path in request["tables"].items()}
    if request.get("prepare"):
        request, tables = before_training(request, tables)
    job = TrainingJob(
        data=tables,
        params=request["params"],
        seed=request["seed"],
        features=list(request["features"]),
        target=request["target"],
        task=request["task"],
        files=files,
        labels=read_table(request["labels"]) if request["labels"] else None,
        targets=list(request.get("steps") or [request["target"]]),
    )
    start, used = time.perf_counter(), time.process_time()
    model = _call(request, job)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    classifies = request["task"] in ("binary", "multiclass")
    kept = keep(model, request, _classes_seen(job) if classifies and framework_of(model) else None)
    result = {"seconds": seconds, "logged": job.logged, "conversion": 0.0, "compiled": None, "reason": None}
    if kept["classes"] is None and classifies:
        kept["classes"] = _classes_seen(job)
    if request.get("prepare"):
        kept = wrap(kept, request)
    _write(request["artifact"], kept.pop("data"))
    if kept["format"] == "prepared":
        result["reason"] = "it has a preparation, which is Python and runs in its environment"
    elif kept["format"] != "onnx":
        _leave(request, {**result, **kept, "unfinished": True})  # a converter that crashes or hangs costs no training
        used -= time.process_time()
        result.update(_compile(model, {**request, "classes": kept["classes"]}, overlay, kept["container"], 0))
        used += time.process_time()
    return {**result, **kept, "cpu": used}


def _call(request: dict[str, Any], job: TrainingJob) -> Any:
    """Run the user's function with the bundle as working directory and first import path."""
    bundle = os.path.realpath(request["bundle"])
    os.chdir(bundle)
    sys.path.insert(0, bundle)
    random.seed(request["seed"])
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(request["seed"] % 2**32)
    module, _, function = request["entry"].partition(":")
    try:
        return getattr(importlib.import_module(module), function)(job)
    except BaseException as error:  # SystemExit and KeyboardInterrupt of user code are its failure too
        traceback.print_exc()
        frames = [
            {
                "file": os.path.relpath(frame.filename, bundle),
                "line": frame.lineno,
                "in": frame.name,
                "text": frame.line,
            }
            for frame in traceback.extract_tb(error.__traceback__)
            if os.path.realpath(frame.filename).startswith(bundle + os.sep)
        ]
        message = "".join(traceback.format_exception_only(type(error), error)).strip()
        raise _Failure(
            {
                "error": "raised",
                "type": type(error).__name__,
                "message": message,
                "frames": frames,
                "logged": job.logged,
            }
        ) from error


def _classes_seen(job: TrainingJob) -> list[Any]:
    """The distinct targets in training, sorted: an ONNX model does not tell its classes."""
    for table in job.data.values():
        if job.target in table.column_names:
            return sorted(value for value in set(table.column(job.target).to_pylist()) if value is not None)
    raise NonsenseError(f"no table holds the target {job.target!r}, so the classes of the model are unknown")


def _compile(model: Any, request: dict[str, Any], overlay: _Overlay, container: str, way: int) -> dict[str, Any]:
    """What `convert` gives, written to disk, or the reason why there is nothing. Never fatal here."""
    if request["compile"] == "forbid":
        return {"compiled": None, "reason": "compilation is forbidden in the portfolio", "conversion": 0.0}
    if overlay.reason:
        return {"compiled": None, "reason": overlay.reason, "conversion": 0.0}
    overlay.show()
    start = time.perf_counter()
    try:
        made = convert(model, request, container, way)
    except ConversionError as error:
        return {"compiled": None, "reason": f"not convertible: {error}", "conversion": time.perf_counter() - start}
    path = f"{request['compiled']}.{made['way']}.onnx"
    _write(path, made["data"])
    compiled = {"path": path, "onnx": made["onnx"], "way": made["way"]}
    return {"compiled": compiled, "reason": None, "conversion": time.perf_counter() - start}


def _convert(request: dict[str, Any], overlay: _Overlay) -> dict[str, Any]:
    """Convert a kept model in the next way."""
    signature = request["signature"]
    if request["format"] in FRAMEWORKS and request["way"] == 0:
        model = read(request["artifact"], request["format"]).native
    elif request["format"] != "skops":
        return {"compiled": None, "reason": "no other way is left to try", "conversion": 0.0}
    else:
        import skops.io

        model = skops.io.load(request["artifact"], trusted=signature["trusted"])
    return _compile(model, {**request, **signature}, overlay, signature["container"], request["way"])


def _adopt(request: dict[str, Any], overlay: _Overlay) -> dict[str, Any]:
    """Look at a model that was made elsewhere."""
    from retinue_worker.adopt import adopt

    return adopt(request)


# ------------------------------------------------------------------------------------------------------------ probe
def _probe(request: dict[str, Any], overlay: _Overlay) -> dict[str, Any]:
    """Run a kept model on batches; rows on which it fails are left out of the outputs and told by number."""
    from retinue_worker.runtime import ModelError, load

    try:
        model = load(request["artifact"], request["format"], request["signature"])
    except ModelError as error:
        return {"error": "load", "message": str(error)}
    batches = [read_columns(path) for path in request["batches"]]
    failed = []
    for columns, path in zip(batches, request["results"]):  # noqa: B905  Python 3.9 has no strict
        outputs, failures = _answers(model, columns, request["chunk"])
        if outputs:
            write_columns(outputs, path)
        failed.append(failures)
    return {"failed": failed, "latency": _latency(model, batches, request["timing"])}


def _answers(model: Any, columns: dict[str, Any], chunk: int) -> tuple[dict[str, Any], list[list[Any]]]:
    """(outputs of the rows that worked, [[row, why], …] of those that did not), in calls of at most `chunk` rows."""
    import numpy as np

    from retinue_worker.runtime import ModelError

    rows = len(next(iter(columns.values())))
    waiting = [(at, min(at + chunk, rows)) for at in range(0, rows, chunk)][::-1]
    parts: list[dict[str, Any]] = []
    failures: list[list[Any]] = []
    while waiting:
        first, last = waiting.pop()
        try:
            parts.append(model.run({name: values[first:last] for name, values in columns.items()}))
        except ModelError as error:
            if last - first == 1 or len(failures) >= _MAX_FAILURES:
                failures.extend([row, str(error)] for row in range(first, last))
            else:
                middle = (first + last) // 2
                waiting.extend([(middle, last), (first, middle)])
    names = list(parts[0]) if parts else []
    return {name: np.concatenate([part[name] for part in parts]) for name in names}, failures


def _latency(model: Any, batches: list[dict[str, Any]], count: int) -> float | None:
    """Median microseconds of one call with one row, over `count` calls; None when nothing was timed."""
    from retinue_worker.runtime import ModelError

    row = {name: values[:1] for name, values in batches[0].items()} if count and batches else {}
    if not row or not len(next(iter(row.values()))):
        return None
    times = []
    for _ in range(count + 2):  # the first two only warm up
        start = time.perf_counter()
        try:
            model.run(row)
        except ModelError:
            return None
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[count // 2] * 1e6


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
