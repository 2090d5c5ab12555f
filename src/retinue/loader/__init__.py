"""Reads `portfolio.yaml` into a Portfolio: every problem is found, placed and told with its next step."""

from __future__ import annotations

from retinue.loader.load import load
from retinue.loader.scaffold import scaffold
from retinue.loader.schema_outside import json_schema

__all__ = ["json_schema", "load", "scaffold"]
