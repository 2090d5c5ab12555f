"""Contract suites are plain modules: their assertions are to be told as those of a test."""

import pytest

pytest.register_assert_rewrite("tests.contracts.registry")
