"""What holds for every test: laws are not judged by the clock of a busy machine."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.contracts.registry")  # rooms of tests borrow its worlds, in any order

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")
