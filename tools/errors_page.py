"""Writes docs/reference/errors.md from `core/errors.py`: whose fault, what happened, what to do next.

`python -m tools.errors_page` writes, `python -m tools.errors_page --check` only compares (exit 1 if stale).
"""

from __future__ import annotations

import sys
from pathlib import Path

from retinue.core.errors import RetinueError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "errors.md"
HEAD = """\
# Errors

This page is written from `src/retinue/core/errors.py` by `make pages`; a test holds it equal.

Every error Retinue raises on purpose is one of these classes. The class says whose fault it is, the message what is
wrong and where, the hint what to do next. The hint below is what is said when the place that raised the error knows
nothing better; most places do. On the command line an error ends with exit code 1, a wrong command line with 64. The
server answers `{"error": "…"}` with the status of its class.

| error | fault | meaning | next step |
| --- | --- | --- | --- |
"""


def errors() -> list[tuple[int, type[RetinueError]]]:
    """(depth, class) of every error class, parents before children, in the order they are defined."""

    def below(parent: type[RetinueError], depth: int) -> list[tuple[int, type[RetinueError]]]:
        found = [(depth, parent)]
        for child in parent.__subclasses__():
            if child.__module__ == parent.__module__:
                found += below(child, depth + 1)
        return found

    return below(RetinueError, 0)


def page() -> str:
    """The whole page as it should be."""
    rows = []
    for depth, kind in errors():
        meaning = (kind.__doc__ or "").splitlines()[0]
        name = f"{'· ' * depth}`{kind.__name__}`"
        rows.append(f"| {name} | {kind.fault} | {meaning} | {kind.remedy} |")
    return HEAD + "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare it."""
    wanted = page()
    if "--check" not in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
    elif not PAGE.exists() or wanted != PAGE.read_text(encoding="utf-8"):
        sys.stderr.write("docs/reference/errors.md is not what core/errors.py says: run `make pages`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
