"""Reads the user's test files that gates name, so that an edited test is another gate."""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from retinue.core.errors import Location
from retinue.core.gate_specs import TestFile
from retinue.core.identity import digest_bytes
from retinue.core.portfolio import Gates, ModelTemplate
from retinue.loader.check import Places
from retinue.loader.problems import Problems

LARGEST = 1024 * 1024


def with_digests(template: ModelTemplate, root: Path, places: Places, problems: Problems) -> ModelTemplate:
    """The template with the digests of its test files; what cannot be read or parsed is noted with its place."""
    spec = template.spec
    if spec.gates.pytest:
        spec = replace(spec, gates=_gates(spec.gates, root, (places, "gates.pytest"), problems))
    overrides = []
    for override in template.overrides:
        gates = override.values.get("gates", {})
        if gates.get("pytest"):
            at = (places, f"override.{','.join(override.match)}.gates.pytest")
            gates = {**gates, "pytest": _read(gates["pytest"], root, at, problems)}
            override = replace(override, values={**override.values, "gates": gates})  # noqa: PLW2901
        overrides.append(override)
    return replace(template, spec=spec, overrides=tuple(overrides))


def test_files(templates: Collection[ModelTemplate], root: Path) -> list[Path]:
    """Every test file that these templates name, sorted: what was loaded hangs on them too."""
    gates = [t.spec.gates.pytest for t in templates]
    gates += [o.values.get("gates", {}).get("pytest", ()) for t in templates for o in t.overrides]
    return sorted({(root / test.path).absolute() for tests in gates for test in tests})


def _gates(gates: Gates, root: Path, at: tuple[Places, str], problems: Problems) -> Gates:
    return replace(gates, pytest=_read(gates.pytest, root, at, problems))


def _read(tests: tuple[TestFile, ...], root: Path, at: tuple[Places, str], problems: Problems) -> tuple[TestFile, ...]:
    return tuple(TestFile(test.path, _digest(test.path, root, at, problems)) for test in tests)


def _digest(name: str, root: Path, at: tuple[Places, str], problems: Problems) -> str:
    places, key = at
    label, where, path = f"models.{places.name}.{key}", places.of(key), root / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not name.endswith(".py"):
        problems.add(
            f"{label}: {name!r} is no Python file below the portfolio's folder", where, "Write tests/test_x.py."
        )
        return ""
    try:
        data = path.read_bytes()
    except OSError as error:
        problems.add(f"{label}: {name} cannot be read: {error.strerror}", where, "Correct the path, or write the file.")
        return ""
    if len(data) > LARGEST:
        problems.add(f"{label}: {name} has {len(data):,} bytes", where, "A test file has at most 1 MiB.")
        return ""
    try:
        ast.parse(data, filename=name)
    except (SyntaxError, ValueError) as error:
        line, column = getattr(error, "lineno", 0) or 0, getattr(error, "offset", 0) or 0
        text = getattr(error, "msg", str(error))
        problems.add(f"{name}: {text}", Location(name, line, column), "Correct the test file.")
    return digest_bytes(data)
