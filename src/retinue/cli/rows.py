"""Rows to predict, from the command line or a file."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinue.core.errors import UsageError

Json = Any


def read_rows(texts: Sequence[str], file: Path | None) -> list[dict[str, Json]]:
    """Rows of JSON texts and of a file (.json, .jsonl, .csv; `-` is JSON lines on stdin). Raises UsageError."""
    rows = [_object(text, "--row") for text in texts]
    if file is not None:
        rows += _of_file(file)
    if not rows:
        raise UsageError("no rows to predict", hint="""Give --row '{"origin": "JFK", …}' or --file rows.jsonl.""")
    return rows


def _of_file(file: Path) -> list[dict[str, Json]]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {file}: {getattr(error, 'strerror', None) or error}",
            hint="Rows are UTF-8 text: .json, .jsonl or .csv.",
        ) from error
    ending = ".jsonl" if str(file) == "-" else file.suffix.lower()
    if ending == ".csv":
        return _csv(text, file)
    if ending in (".jsonl", ".ndjson"):
        lines = text.splitlines()
        return [_object(line, f"{file}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if ending == ".json":
        body = _parsed(text, str(file))
        found = body.get("rows", [body]) if isinstance(body, dict) else body
        if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
            raise UsageError(f"{file} is no list of rows", hint='Write [{"column": value, …}, …].')
        return found
    raise UsageError(f"{file}: unknown ending", hint="Rows are read from .json, .jsonl or .csv.")


def _csv(text: str, file: Path) -> list[dict[str, Json]]:
    """Rows of a csv; numbers and booleans are told apart from text, an empty cell is a missing value."""
    found = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        if None in row or None in row.values():
            raise UsageError("not as many cells as columns", where=f"{file}:{number}", hint="Correct that line.")
        found.append({name: _cell(value) for name, value in row.items()})
    return found


def _cell(text: str) -> Json:
    if text == "":
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        # 007, 1_000 and nan stay text: they are codes and words more often than numbers
        return value if text.lstrip("+-")[:1].isdigit() and "_" not in text and not _padded(text) else text
    return text


def _padded(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()


def _object(text: str, where: str) -> dict[str, Json]:
    body = _parsed(text, where)
    if not isinstance(body, dict):
        raise UsageError("a row is a JSON object", where=where, hint='Write {"column": value, …}.')
    return body


def _parsed(text: str, where: str) -> Json:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}:{error.colno}"
        raise UsageError(f"not JSON: {error.msg}", where=place, hint='Write {"column": value, …}.') from error
