"""Checks a portfolio as far as that can be done without its data: code, files, environments."""

from __future__ import annotations

from pathlib import Path

from retinue.control.wish import Wisher
from retinue.core.errors import PortfolioError


def validate(wisher: Wisher) -> list[str]:
    """A line for each thing found good. Raises PortfolioError."""
    portfolio = wisher.portfolio
    families = sum(1 for m in portfolio.models.values() if m.for_each)
    lines = [
        f"models: {len(portfolio.models) - families}, families: {families}, tables: {len(portfolio.tables)}, "
        f"endpoints: {len(portfolio.endpoints)}"
    ]
    for template in portfolio.models.values():
        wisher.code(template.spec)
    root = Path(portfolio.root)
    for spec in portfolio.environments.values():
        if not (root / spec.requirements).is_file():
            raise PortfolioError(
                f"environment {spec.name}: there is no file {spec.requirements}",
                where=spec.where,
                hint="Create it; one requirement per line, as pip reads them.",
            )
    return lines
