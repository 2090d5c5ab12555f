"""Writes the list of files in docs/architecture.md from the files' own docstrings.

`python -m tools.architecture` writes, `python -m tools.architecture --check` only compares (exit 1 if stale).
"""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- files: written by `make pages` from docstrings, do not edit below -->"
END = "<!-- end of files -->"


def purpose(file: Path) -> str:
    """The first line of a module's docstring; empty when there is none."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    return text.splitlines()[0] if text else ""


def sources() -> list[Path]:
    """Every Python file under src, sorted."""
    return sorted((ROOT / "src").rglob("*.py"))


def floors() -> list[list[str]]:
    """The floors as import-linter holds them, top first; rooms of one floor do not see each other."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(c for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers")["layers"]
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def room_of(file: Path) -> str:
    """The room a file belongs to: `retinue.core`, `retinue.project`, `retinue_worker`; `retinue` for the package."""
    parts = file.relative_to(ROOT / "src").with_suffix("").parts
    return parts[0] if parts[0] == "retinue_worker" or parts[1].startswith("__") else f"{parts[0]}.{parts[1]}"


def listing() -> str:
    """The generated part of the page."""
    rooms: dict[str, list[Path]] = {}
    for file in sources():
        rooms.setdefault(room_of(file), []).append(file)
    order = [room for floor in floors() for room in floor]
    lines: list[str] = []
    for room in [*order, *sorted(set(rooms) - set(order))]:
        files = rooms.get(room)
        if not files:
            continue
        lines += [f"### `{room}`", "", "| file | purpose |", "| --- | --- |"]
        lines += [
            f"| `{file.relative_to(ROOT / 'src')}` | {purpose(file).replace('|', chr(92) + '|')} |" for file in files
        ]
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """The whole page as it should be."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{listing()}{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it."""
    wanted = page()
    if "--check" not in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != PAGE.read_text(encoding="utf-8"):
        sys.stderr.write("docs/architecture.md is not what the docstrings say: run `make pages`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
