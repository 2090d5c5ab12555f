"""Each registry passes the contract; a new database adds one class here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import postgres
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


@pytest.mark.e2e
class TestPostgres(RegistryContract):
    @pytest.fixture
    def registry(self) -> Iterator[Registry]:
        made = SqlRegistry(postgres.new_database(postgres.migrated()), patience=5.0)
        yield made
        made.close()
