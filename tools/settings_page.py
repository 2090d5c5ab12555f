"""Writes docs/reference/settings.md from src/retinue/settings.py: `python -m tools.settings_page`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

from retinue import settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "settings.md"
_HEAD = """\
# Settings

This page is written from `src/retinue/settings.py` by `make pages`; a test holds it equal.

Settings stand in `retinue.toml` beside the portfolio; each can be set by a variable instead, which goes before the
file. They say where things live and how this host serves, never what is served: that is the portfolio file. Unknown
sections and keys, wrong types and values out of range are errors. Sizes are bytes, times seconds; paths are relative to
the file.
"""
_TABLES = """\
## `[approvers]`

Groups of people who may approve models that ask for it (`approval: required by GROUP`): `risk = ["grace", "hopper"]`.
Names are those of the audit trail: `RETINUE_USER`, else the login name.

## `[connections.NAME]`

Where data comes from: see [the guide](../guides/where-data-comes-from.md).
"""
_PLAIN = {
    "directory": "the state folder: database, artifacts, environments, releases, logs",
    "host": "address the doors listen on",
    "port": "of HTTP",
    "grpc_port": "of gRPC; without it there is none; 0: the system chooses",
    "build_workers": "trainings that run at once; 0: one per core",
    "admin_port": "of `/status` and `/metrics`, always on 127.0.0.1",
    "gateways": "gateway processes; one per core is a good number",
    "max_body": "of one request, after decompression too",
    "request_timeout": "a request may take, unless its client allows less",
    "journal_enabled": "whether answered requests are journalled",
    "journal_rotate_bytes": "after which a segment is closed",
    "journal_rotate_seconds": "after which a segment is closed",
    "journal_retain_days": "records are kept; 0: for ever",
}
_DEFAULTS = {
    "directory": '".retinue"',
    "database": "SQLite in the state folder",
    "artifacts": "a folder in the state folder",
}


def page() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_sections()]).rstrip() + "\n"


def _sections() -> Iterator[str]:
    source = Path(settings.__file__).read_text(encoding="utf-8")
    said = dict(re.findall(r"^    (\w+): [^#\n]*#  ?(.+)$", source, re.MULTILINE))
    known = {field.name: field for field in fields(settings.Settings)}
    for section, keys in settings._KEYS.items():
        yield f"## `[{section}]`\n"
        yield "| key | variable | type | default | meaning |"
        yield "| --- | --- | --- | --- | --- |"
        for key, kind in keys.items():
            name = settings._name(section, key)
            default = known[name].default
            shown = _DEFAULTS.get(name) or ("–" if default in (MISSING, None, "") else f"`{str(default).lower()}`")
            about = (_PLAIN.get(name) or said[name]).replace("|", "\\|")
            yield f"| `{key}` | `RETINUE_{name.upper()}` | {_TYPES[kind]} | {shown} | {about} |"
        yield ""
    yield _TABLES


_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
