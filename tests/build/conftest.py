"""One real environment for all tests that train, kept between runs in the system's temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from retinue.build.environment import Environment, converters, lock, materialise
from retinue.build.train import Trainers
from retinue.core.errors import Location
from retinue.core.portfolio import EnvironmentSpec


@dataclass(frozen=True)
class Bench:
    """Trainers with the environment and converters that they use."""

    trainers: Trainers
    environment: Environment
    overlay: Path | None


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("environment")
    (root / "base.txt").write_text("scikit-learn==1.9.1\npandas==3.1.1\n")
    locked = lock(EnvironmentSpec("base", Location("portfolio.yaml"), "base.txt"), root)
    folder = Path(tempfile.gettempdir()) / "retinue-test-environments"
    environment = materialise(locked, folder)
    overlay, reason = converters(locked, folder)
    assert reason is None
    with Trainers(2) as trainers:
        yield Bench(trainers, environment, overlay)
