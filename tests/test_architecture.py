"""The house is as docs/architecture.md says: every file named, small, and importing no more than it may."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
WORKER = sorted((ROOT / "src" / "retinue_worker").glob("*.py"))

LONG: dict[str, str] = {}
"""Files that may be longer than 400 lines, each with its reason. Empty is right."""

LATE = ("retinue/cli/", "retinue/compose.py", "retinue/project.py", "retinue_worker/")
"""Who may import our own rooms inside functions; docs/decisions/008 says why."""

HEAVY = ("alembic", "duckdb", "onnxruntime", "pandas", "pyarrow", "pydantic", "scipy", "sklearn", "sqlalchemy")


def relative(file: Path) -> str:
    return file.relative_to(ROOT / "src").as_posix()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def imports_inside(tree: ast.Module) -> list[str]:
    """Our own rooms that are imported anywhere but at module level."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import) and node not in tree.body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            found += [f"{name} (line {node.lineno})" for name in names if name.split(".")[0].startswith("retinue")]
    return found


def test_the_page_names_every_file_with_the_first_line_of_its_docstring() -> None:
    found = run("-m", "tools.architecture", "--check")
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_a_file_says_its_purpose_in_one_sentence(file: Path) -> None:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert text, "it has no docstring"
    first = text.splitlines()[0]
    assert first.endswith((".", "?")), f"{first!r} is not a whole sentence"


def test_no_file_is_longer_than_400_lines() -> None:
    long = {relative(f): len(f.read_text(encoding="utf-8").splitlines()) for f in SOURCES}
    assert {name: n for name, n in long.items() if n > 400 and name not in LONG} == {}
    assert {name for name in LONG if long.get(name, 0) <= 400} == set(), "these need no exception any more"


def test_our_own_rooms_are_imported_late_only_where_the_decision_allows_it() -> None:
    late = {relative(f): imports_inside(ast.parse(f.read_text(encoding="utf-8"))) for f in SOURCES}
    assert {name: found for name, found in late.items() if found and not name.startswith(LATE)} == {}


@pytest.mark.parametrize("file", WORKER, ids=relative)
def test_a_module_of_the_worker_imports_without_any_installed_package(file: Path) -> None:
    name = ".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    found = run("-S", "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import {name}")
    assert found.returncode == 0, found.stderr


def test_help_answers_without_importing_anything_heavy() -> None:
    code = f"""
import sys
from retinue.cli.main import run
code = run(["--help"])
heavy = sorted(set({HEAVY!r}) & set(sys.modules))
assert not heavy, f"--help imports {{heavy}}"
sys.exit(code)
"""
    found = run("-c", code)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "plan" in found.stdout
