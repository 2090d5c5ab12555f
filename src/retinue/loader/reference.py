"""Writes the reference of the portfolio file from its shapes: `python -m retinue.loader.reference DOCS/REFERENCE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from retinue.loader import schema, schema_data, schema_forecast, schema_gates, schema_outside, schema_serving
from retinue.loader.later import LATER_KEYS
from retinue.loader.schema_outside import json_schema

_HEAD = """\
# The portfolio file, key by key

This page is generated from the shapes that the loader checks (`python -m retinue.loader.reference docs/reference`
writes it, a test holds it equal).
The same shapes as a JSON Schema for editors: [`portfolio.schema.json`](portfolio.schema.json); with the YAML language
server, put `# yaml-language-server: $schema=…/portfolio.schema.json` on top of the file.

The file is YAML 1.2 (core schema): `on`, `no` and `12:30` are text, duplicate keys are errors, merge keys (`<<`) are
not part of it. Values of `for_each`, `exclude` and `where` are text exactly as written: `01` stays `01`.
Durations are `5ms`, `10m`, `3h`, `6d`, `1h30m`; sizes `64MB` (1000²) or `64MiB` (1024²); shares `20%`.
Paths are relative to the folder of the main file. The order of keys never has a meaning.

*Rebuilds* says what a change does: **yes** makes a new version, **re-gate** tests the live version again, **no** is
recorded only.
"""

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top level", schema.PortfolioFile),
    ("`data.NAME`", schema_data.Table),
    ("`data.NAME.checks`", schema_data.Checks),
    ("`environments.NAME`", schema.Environment),
    ("`models.NAME`", schema.Model),
    ("`models.NAME` from outside", schema_outside.OutsideModel),
    ("`models.NAME.for_each`", schema.Distinct),
    ("`models.NAME.for_each` from a file or a function", schema_data.Listed),
    ("`models.NAME.data.TABLE`", schema.DataUseShape),
    ("`models.NAME.needs.UPSTREAM`", schema.NeedShape),
    ("`models.NAME.gates`", schema.Gates),
    ("`models.NAME.gates.METRIC`", schema.Metric),
    ("`models.NAME.gates.examples[]`", schema.Example),
    ("`models.NAME.gates.slices`", schema_gates.Slices),
    ("`models.NAME.gates.latency`", schema_gates.Latency),
    ("`models.NAME.gates.calibration`", schema_gates.Calibration),
    ("`models.NAME.gates.fairness`", schema_gates.Fairness),
    ("`models.NAME.gates.robustness`", schema_gates.Robustness),
    ("`models.NAME.limits`", schema.LimitsShape),
    ("`models.NAME.holdout`", schema.Holdout),
    ("`models.NAME.backtest`", schema_forecast.Backtest),
    ("`models.NAME.monitor`", schema.Monitor),
    ("`models.NAME.monitor.slo`", schema.Slo),
    ("`models.NAME.resources`", schema.Resources),
    ("`models.NAME.serve`", schema_serving.Serve),
    ("`endpoints.NAME`", schema.Endpoint),
    ("`endpoints.NAME.fallback`", schema.Fallback),
    ("`endpoints.NAME.cache`", schema_serving.Cache),
    ("`endpoints.NAME.journal`", schema_serving.Journal),
    ("`policies`", schema.Policies),
    ("`policies.rollout.NAME`", schema.RolloutPolicy),
    ("`policies.retrain.NAME`", schema.RetrainPolicy),
)


def reference() -> str:
    """The reference page as Markdown."""
    return "\n".join([_HEAD, *_sections(), *_later()])


def schema_text() -> str:
    """The JSON Schema as the text of its file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _sections() -> Iterator[str]:
    for title, shape in _SECTIONS:
        yield f"## {title}\n"
        yield " ".join((shape.__doc__ or "").split()) + "\n"
        yield "| key | type | default | rebuilds | meaning |"
        yield "| --- | --- | --- | --- | --- |"
        properties = shape.model_json_schema()
        for attribute, field in shape.model_fields.items():
            name = field.alias or attribute
            kind = _kind(properties["properties"][name], properties.get("$defs", {}))
            about = (field.description or "").replace("|", "\\|")
            yield f"| `{name}` | {kind} | {_default(field)} | {_rebuilds(field)} | {about} |"
        yield ""


def _later() -> Iterator[str]:
    yield "## Known, but not carried out by this Retinue\n"
    yield "These are refused with the reason, never skipped; the task `forecast`,"
    yield "and `train: {submit: …}` too.\n"
    yield "| place | key | instead |"
    yield "| --- | --- | --- |"
    for place, keys in LATER_KEYS.items():
        for name, reason in keys.items():
            yield f"| `{place}` | `{name}` | {reason} |"
    yield ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel) or field.default in (None, {}, []):
        return "–"
    return f"`{json.dumps(field.default)}`"


def _rebuilds(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("rebuilds", "no")) if isinstance(extra, dict) else "no"


def _kind(body: dict[str, Any], shapes: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in body:
        return _kind(shapes[body["$ref"].rpartition("/")[2]], shapes)
    arms = body.get("anyOf") or body.get("oneOf")
    if arms:
        kinds = [_kind(arm, shapes) for arm in arms if arm.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    for word in ("enum", "const"):
        if word in body:
            values = body[word] if word == "enum" else [body[word]]
            return ", ".join(f"`{value}`" for value in values)
    if body.get("title") in ("duration", "size", "percent", "share"):
        return str(body["title"])
    if body.get("type") == "array":
        return f"list of {_kind(body.get('items', {}), shapes)}"
    names = {"string": "text", "object": "mapping", "integer": "whole number", "boolean": "true or false"}
    kind = body.get("type", "any")
    return names.get(kind, kind) if isinstance(kind, str) else "value"


def main(folder: Path) -> None:
    """Writes both files into a folder."""
    (folder / "portfolio.md").write_text(reference(), encoding="utf-8")
    (folder / "portfolio.schema.json").write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
