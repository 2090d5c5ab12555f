"""Predictions in words: one line a row. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from retinue.cli.words import table
from retinue.core.identity import short

Json = Any


def failed_rows(answers: Mapping[str, Json]) -> int:
    """How many rows got an error instead of an answer."""
    return sum(1 for p in answers["predictions"] if isinstance(p, dict) and "error" in p)


def renumbered(text: str, first: int) -> str:
    """An error of the server, which counts rows from 0, with the number that a reader of the rows counts.

    >>> renumbered("row 0: 'origin' is missing", 2)
    "row 2: 'origin' is missing"
    """
    return re.sub(r"^row (\d+)\b", lambda found: f"row {int(found[1]) + first}", text)


def render_predictions(answers: Mapping[str, Json], first: int = 1) -> str:
    """Number (from `first`), answer and model with version of every row; the release on the last line."""
    models = answers.get("models") or [None] * len(answers["predictions"])
    rows = [
        (f"row {number}", _answer(prediction, first), _model(model))
        for number, (prediction, model) in enumerate(zip(answers["predictions"], models, strict=True), start=first)
    ]
    return "\n".join([*table(rows, indent=""), f"release {answers.get('release')}"]) + "\n"


def _answer(prediction: Json, first: int) -> str:
    if not isinstance(prediction, dict):
        return _value(prediction)
    if isinstance(prediction.get("error"), str):
        return f"error: {renumbered(prediction['error'], first)}"
    return "  ".join(f"{name}: {_value(value)}" for name, value in prediction.items())


def _value(value: Json) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(_value(v) for v in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None else str(value)


def _model(model: Json) -> str:
    if isinstance(model, dict):
        version = model.get("version")
        fallback = " (fallback)" if model.get("fallback") else ""
        return f"{model.get('model') or model.get('name')}" + (f"@{short(str(version))}" if version else "") + fallback
    return "" if model is None else str(model)
