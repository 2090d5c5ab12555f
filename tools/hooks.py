"""The checks of `.pre-commit-config.yaml` that no installed program does: no network, standard library only.

`python -m tools.hooks large FILE…`       no file over 500 kB
`python -m tools.hooks keys FILE…`        no private keys
`python -m tools.hooks migrations`        numbered 0001, 0002, … without gaps, and REVISION names the last
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 500_000
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")


def large(files: list[Path]) -> list[str]:
    """Files that do not belong into a repository of code."""
    return [f"{f}: {f.stat().st_size:,} bytes, more than {LARGEST:,}" for f in files if f.stat().st_size > LARGEST]


def keys(files: list[Path]) -> list[str]:
    """Files that hold a private key."""
    return [f"{f}: holds a private key" for f in files if _KEY.search(f.read_bytes())]


def migrations(store: Path = ROOT / "src" / "retinue" / "store") -> list[str]:
    """What is wrong with the numbers of the migrations."""
    names = sorted(f.name for f in (store / "migrations" / "versions").glob("*.py") if f.name != "__init__.py")
    problems = [
        f"{name}: should begin with {number:04d}_"
        for number, name in enumerate(names, start=1)
        if not name.startswith(f"{number:04d}_")
    ]
    found = re.search(r'^REVISION\b.*"(\d+)"', (store / "registry_mark.py").read_text(encoding="utf-8"), re.MULTILINE)
    if not found or int(found[1]) != len(names):
        problems.append(f"registry_mark.py: REVISION should be the last of {len(names)} migrations")
    return problems


def main(arguments: list[str]) -> int:
    """Run one check; 1 when it found something."""
    what, *rest = arguments
    files = [Path(name) for name in rest if Path(name).is_file()]
    match what:
        case "large":
            problems = large(files)
        case "keys":
            problems = keys(files)
        case "migrations":
            problems = migrations()
        case _:
            raise SystemExit(f"no check {what}; there are: large, keys, migrations")
    for problem in problems:
        sys.stderr.write(problem + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
