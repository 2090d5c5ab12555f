"""The schema: migrated from empty, left alone when it is up to date, refused when it is newer or not ours."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url
from sqlalchemy.schema import CreateIndex, CreateTable

from retinue.core.errors import StateError
from retinue.store import tables
from retinue.store.registry import SqlRegistry


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "made" / "state.db"
    SqlRegistry(f"sqlite:///{made}").close()
    return made


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()


def test_migrating_from_empty_makes_exactly_the_declared_tables(file: Path) -> None:
    with closing(SqlRegistry(f"sqlite:///{file}")) as registry, registry.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == tables.REVISION
        assert compare_metadata(context, tables.metadata) == []


def test_the_declared_revision_is_the_newest_migration_and_they_are_numbered_without_gaps() -> None:
    scripts = ScriptDirectory(str(Path(tables.__file__).with_name("migrations")))
    assert scripts.get_heads() == [tables.REVISION]
    numbers = sorted(script.revision for script in scripts.walk_revisions())
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]


def test_the_connection_is_durable_and_checks_references(file: Path) -> None:
    with closing(SqlRegistry(f"sqlite:///{file}", patience=7.0)) as registry, registry.engine.connect() as connection:
        told = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 7_000}


def test_opening_an_up_to_date_database_writes_nothing_and_never_imports_alembic(file: Path) -> None:
    before = file.read_bytes()
    script = (
        "import sys; from retinue.store.registry import SqlRegistry; "
        f"SqlRegistry('sqlite:///{file}').close(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize("revision", ["0800", "9999"])
def test_a_database_of_a_newer_retinue_is_refused_and_left_alone(file: Path, revision: str) -> None:
    change(file, f"UPDATE alembic_version SET version_num = '{revision}'")
    before = file.read_bytes()
    with pytest.raises(
        StateError, match=f"newer Retinue .schema {revision}, this one knows up to {tables.REVISION}"
    ) as refused:
        SqlRegistry(f"sqlite:///{file}")
    assert "Upgrade Retinue" in str(refused.value.hint)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE alembic_version", "UPDATE alembic_version SET version_num = 'ae10'", "DELETE FROM alembic_version"],
)
def test_a_database_of_another_program_is_refused(file: Path, statement: str) -> None:
    change(file, statement)
    with pytest.raises(StateError, match="tables that are not Retinue's"):
        SqlRegistry(f"sqlite:///{file}")


def test_every_table_can_be_written_in_the_sql_of_postgresql() -> None:
    dialect = make_url("postgresql+psycopg://").get_dialect()()
    for table in tables.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert len(str(index.name)) < 64
            assert "INDEX" in str(CreateIndex(index).compile(dialect=dialect))
        for constraint in table.constraints:
            assert len(str(constraint.name)) < 64
