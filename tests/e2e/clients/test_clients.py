"""Clients of three other systems, unmodified and all at once, against one server: each says what it saw."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from tests.e2e.clients.conftest import HERE, PROGRAMS

pytestmark = pytest.mark.e2e


def checks() -> list[tuple[str, str]]:
    """Every check of every program: its functions that `check` decorates."""
    found = []
    for name in PROGRAMS:
        tree = ast.parse((HERE / "programs" / f"{name}.py").read_text(encoding="utf-8"))
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        found += [(name, f.name) for f in functions if any(ast.unparse(d) == "check" for d in f.decorator_list)]
    return found


@pytest.mark.parametrize(("program", "check"), checks())
def test_a_client_of_another_system_sees_what_it_expects(said: dict[str, Any], program: str, check: str) -> None:
    error = said[program].get(check, said[program][""])
    assert error is None, f"{program}: {error}"
