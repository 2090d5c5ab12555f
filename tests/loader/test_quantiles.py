"""`task: quantiles`: its levels are read, and wrong ones are told with the next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.core.errors import PortfolioError
from retinue.loader import load

from .bad_files import model


def _read(text: str, folder: Path) -> tuple[float, ...]:
    file = folder / "portfolio.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file).models["late"].spec.quantiles


def test_levels_are_read_as_numbers_in_order(tmp_path: Path) -> None:
    assert _read(model(task="quantiles", quantiles="[0.1, 0.5, 0.9]"), tmp_path) == (0.1, 0.5, 0.9)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"task": "quantiles"}, "needs `quantiles`"),
        ({"quantiles": "[0.5]"}, "a binary model has no quantiles"),
        ({"task": "quantiles", "quantiles": "[0.9, 0.1]"}, "rising order"),
        ({"task": "quantiles", "quantiles": "[0.1, 0.1]"}, "rising order"),
        ({"task": "quantiles", "quantiles": "[0, 0.5]"}, "quantiles"),
        ({"task": "quantiles", "quantiles": "[0.5]", "gates": "{mae: {max: 1}}"}, "mae"),
    ],
)
def test_wrong_levels_are_refused_where_they_stand(keys: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(PortfolioError, match=said):
        _read(model(**keys), tmp_path)
