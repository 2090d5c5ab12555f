"""What went wrong in a training, in words: the user's own lines first, then the exception, then the end of the log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retinue.core.errors import TrainingError

Json = Any
LIMIT_HINT = "Make the training smaller, or raise `limits:` of the model."
DIED_HINT = "Native code crashed or the code ended the process: the end of the log may tell; then run `retinue apply`."
_HINTS = {
    "FileNotFoundError": "Training sees only its bundle: name the file under `files:`, or its table under `data:`.",
    "ModuleNotFoundError": "Add the package to the environment's requirements; modules of the project need nothing.",
    "MemoryError": LIMIT_HINT,
}


def in_words(result: Mapping[str, Json], model: str, log: Path) -> TrainingError:
    """The error that a trainer reported: the user's own lines first, then the exception, then the end of the log."""
    if result["error"] != "raised":
        return TrainingError(about(model, result["message"]), hint=result.get("hint"))
    frames = result["frames"]
    lines = [f"{frame['file']}:{frame['line']} in {frame['in']}: {frame['text']}" for frame in frames]
    text = "\n  ".join([about(model, f"{result.get('what', 'training')} raised {result['message']}"), *reversed(lines)])
    where = f"{frames[-1]['file']}:{frames[-1]['line']}" if frames else None
    return TrainingError(text + tail(log), where=where, hint=result.get("hint") or _HINTS.get(result["type"]))


def about(model: str, text: str) -> str:
    """A text beginning with the model's name, where it has one."""
    return f"{model}: {text}" if model else text


def tail(log: Path, lines: int = 5) -> str:
    """The last lines that training printed before its own traceback, indented; empty when it printed nothing."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        text = file.read().decode("utf-8", "replace")
    kept = [line for line in text.partition("Traceback (most recent call last):")[0].splitlines() if line.strip()]
    return "".join(f"\n  log: {line[:200]}" for line in kept[-lines:])
