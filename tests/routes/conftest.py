"""The built portfolio, copied for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.routes.harbour import Harbour, copy


@pytest.fixture
def harbour(tmp_path: Path) -> Harbour:
    return copy(tmp_path / "harbour")
