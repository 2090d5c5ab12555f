"""Predictions in words: one line a row. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retinue.cli.words import table
from retinue.core.identity import short

Json = Any


def failed_rows(answers: Mapping[str, Json]) -> int:
    """How many rows got an error instead of an answer."""
    return sum(1 for p in answers["predictions"] if isinstance(p, dict) and "error" in p)


def render_predictions(answers: Mapping[str, Json]) -> str:
    """Number, answer and model with version of every row; the release on the last line."""
    models = answers.get("models") or [None] * len(answers["predictions"])
    rows = [
        (f"{number}", _answer(prediction), _model(model))
        for number, (prediction, model) in enumerate(zip(answers["predictions"], models, strict=True), start=1)
    ]
    return "\n".join([*table(rows, indent=""), f"release {answers.get('release')}"]) + "\n"


def _answer(prediction: Json) -> str:
    if not isinstance(prediction, dict):
        return _value(prediction)
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
