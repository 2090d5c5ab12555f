"""Each registry passes the contract; a new database adds one class here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contracts.registry import RegistryContract

from retinue.store.base import Registry
from retinue.store.fake import MemoryRegistry
from retinue.store.registry import SqlRegistry


class TestMemory(RegistryContract):
    @pytest.fixture
    def registry(self) -> Registry:
        return MemoryRegistry()


class TestSqlite(RegistryContract):
    @pytest.fixture
    def registry(self, tmp_path: Path) -> Iterator[Registry]:
        made = SqlRegistry(f"sqlite:///{tmp_path / 'state.db'}", patience=5.0)
        yield made
        made.close()
