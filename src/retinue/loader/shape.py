"""What all shapes of the portfolio file have in common: strictness, and the texts of the reference."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def opt(description: str, rebuilds: str = "no", default: Any = None) -> Any:
    """An optional key with its reference text."""
    return Field(default=default, description=description, json_schema_extra={"rebuilds": rebuilds})


def needed(description: str, rebuilds: str = "no") -> Any:
    """A required key with its reference text."""
    return Field(description=description, json_schema_extra={"rebuilds": rebuilds})


class Shape(BaseModel):
    """Unknown keys are errors and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
