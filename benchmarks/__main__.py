"""Lists and runs the benchmarks of this folder: `python -m benchmarks [NAME…] [--quick] [--list]`."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def benchmarks() -> dict[str, str]:
    """Name → first line of its docstring; files whose name begins with an underscore are helpers."""
    found = {}
    for file in sorted(HERE.glob("*.py")):
        if not file.name.startswith("_"):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found[file.stem] = text.split("\n", 1)[0]
    return found


def main() -> int:
    known = benchmarks()
    parser = argparse.ArgumentParser(prog="benchmarks", description="Runs benchmarks; exits 1 if one breaks a promise.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; all if none is named")
    parser.add_argument("--quick", action="store_true", help="small runs where a benchmark has them")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; there are: {', '.join(known)}")
    if options.list:
        for name, text in known.items():
            print(f"{name:<20} {text}")
        return 0
    failed = []
    for name in options.names or known:
        print(f"── {name}: {known[name]}", flush=True)
        quick = options.quick and "--quick" in (HERE / f"{name}.py").read_text(encoding="utf-8")
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
        if subprocess.run(command, cwd=HERE.parent, check=False).returncode:
            failed.append(name)
    if not options.quick and not options.names:
        from benchmarks import _report

        print("── report\n" + "\n".join(str(path) for path in _report.write()))
    if failed:
        print(f"broken: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
