"""The keys of a family that a Python function gives."""

from __future__ import annotations

from pathlib import Path

from retinue.build.bundle import close_code
from retinue.core.errors import DataError, PortfolioError
from retinue.core.portfolio import ModelTemplate
from retinue.sources.base import Tables


def keys_by_function(template: ModelTemplate, tables: Tables, root: Path) -> list[tuple[tuple[str, ...], int]]:
    """Keys with their rows (enough of them: who lists a key wishes it), each once. Raises PortfolioError, DataError."""
    each, where = template.for_each, template.spec.where
    assert each is not None
    assert each.python is not None
    try:
        code = close_code(each.python, root)
    except PortfolioError as error:
        raise PortfolioError(
            f"{template.spec.name}: for_each: {error.message}", hint=error.hint, where=error.where or where
        ) from error
    try:
        keys = tables.keys_from(each.python, template.spec.environment, code.digest)
    except DataError as error:
        raise DataError(
            f"{template.spec.name}: {error.message}", where=error.where or where, hint=error.hint
        ) from error
    if not keys:
        raise DataError(
            f"{template.spec.name}: {each.python} gave no keys",
            where=where,
            hint="A family without members is not planned, so that a failed look-up removes nothing.",
        )
    wrong = next((key for key in keys if len(key) != len(each.placeholders)), None)
    if wrong is not None:
        raise DataError(
            f"{template.spec.name}: {each.python} gave the key {wrong!r}, expected {len(each.placeholders)} values",
            where=where,
            hint=f"Give one value for each of {', '.join(each.placeholders)}, in this order.",
        )
    return [(key, each.min_rows) for key in dict.fromkeys(tuple(key) for key in keys)]
