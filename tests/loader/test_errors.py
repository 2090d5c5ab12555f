"""What a person is told of a wrong file. `RETINUE_GOLDEN=write pytest tests/loader` rewrites the texts."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from retinue.core.errors import PortfolioError
from retinue.loader import load

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "loader"

_spec = importlib.util.spec_from_file_location("bad_files", HERE / "bad_files.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
BAD: dict[str, str | bytes] = _module.BAD


def told(text: str | bytes, folder: Path) -> str:
    """All problems of a file as a person reads them."""
    file = folder / "portfolio.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PortfolioError) as caught:
        load(file)
    problems = caught.value.problems
    assert str(problems[0]) == str(caught.value)
    return "".join(f"{problem}\n  hint: {problem.hint}\n" for problem in problems)


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_wrong_file_is_told_in_words_with_places_and_next_steps(name: str, tmp_path: Path) -> None:
    text = told(BAD[name], tmp_path)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("RETINUE_GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_every_golden_text_belongs_to_a_file_that_is_tested() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(BAD)


@pytest.mark.parametrize("name", sorted(BAD))
def test_every_problem_names_its_place(name: str, tmp_path: Path) -> None:
    for block in told(BAD[name], tmp_path).split("  hint:")[:-1]:
        assert "portfolio.yaml" in block
