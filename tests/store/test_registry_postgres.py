"""PostgreSQL as it fails in real life: away, refused, read-only, older, lost in the middle, frozen holders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests import postgres
from tests.store.contender import patch, prepare

from retinue.core.errors import StateError, StateUnavailableError
from retinue.core.state import Entry
from retinue.store import registry_open, tables
from retinue.store.registry import SqlRegistry

pytestmark = pytest.mark.e2e
SCRIPT = str(Path(__file__).with_name("contender.py"))


def name_of(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def url() -> str:
    """A database in which model a and b have three versions each and a-0, b-0 are live."""
    made = postgres.new_database(postgres.migrated())
    with closing(SqlRegistry(made)) as registry:
        for model in ("a", "b"):
            prepare(registry, model, 3)
            registry.land(patch(model, None, f"{model}-0"))
    return made


@pytest.fixture
def opened(url: str) -> Iterator[SqlRegistry]:
    with closing(SqlRegistry(url, patience=2.0)) as registry:
        yield registry


@pytest.mark.parametrize(
    ("change", "text", "hint"),
    [
        (("/t0?", "/nosuch?"), "nosuch at .* does not exist", "CREATE DATABASE"),
        (("postgres:@", "nobody:@"), "knows no such user", "CREATE ROLE"),
        (("@/t0?host=", "@/t0?host=/nowhere"), "is not reachable", "Start it"),
    ],
)
def test_a_database_that_cannot_be_had_is_told_with_the_next_step(
    url: str, change: tuple[str, str], text: str, hint: str
) -> None:
    old = change[0].replace("t0", name_of(url))
    wrong = url.replace(old, change[1].replace("t0", name_of(url)))
    assert wrong != url
    with pytest.raises(StateUnavailableError, match=text) as refused:
        SqlRegistry(wrong, patience=1.0)
    assert hint in str(refused.value.hint)


def test_a_refused_password_is_told_and_never_shown(url: str) -> None:
    rules = Path(postgres.server().pgdata) / "pg_hba.conf"
    rules.write_text("local all locked scram-sha-256\n" + rules.read_text())
    postgres.run("SELECT pg_reload_conf()")
    postgres.run("CREATE ROLE locked LOGIN PASSWORD 'right'")
    with pytest.raises(StateUnavailableError, match="refuses the user's password") as refused:
        SqlRegistry(url.replace("postgres:@", "locked:sesame@"))
    assert "PGPASSWORD" in str(refused.value.hint)
    assert "sesame" not in str(refused.value)
    with pytest.raises(StateUnavailableError, match="asks for a password"):
        SqlRegistry(url.replace("postgres:@", "locked@"))


def test_a_read_only_user_may_look_and_is_refused_by_name_to_write(url: str) -> None:
    user = f"reader_{name_of(url)}"
    postgres.run(f"CREATE ROLE {user} LOGIN")
    postgres.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}", name_of(url))
    with closing(SqlRegistry(url.replace("postgres:@", f"{user}:@"))) as registry:
        assert registry.stages("shop") == {"prod": 2}
        with pytest.raises(StateUnavailableError, match="is read-only"):
            registry.land(patch("a", "a-0", "a-1"))
        assert registry.stages("shop") == {"prod": 2}


def test_an_older_schema_is_refused_until_it_is_upgraded_and_a_newer_one_always(url: str) -> None:
    name = name_of(url)
    postgres.run("DROP TABLE clients", name)
    postgres.run("DROP TABLE publications", name)
    postgres.run("UPDATE alembic_version SET version_num = '0001'", name)
    with pytest.raises(StateError, match="has schema 0001, this Retinue needs") as refused:
        SqlRegistry(url)
    assert "retinue db upgrade" in str(refused.value.hint)
    assert registry_open.schema_of(url) == "0001"
    assert registry_open.upgrade_database(url)[1:] == ("0001", tables.REVISION)
    assert registry_open.upgrade_database(url)[1:] == (tables.REVISION, tables.REVISION)
    with closing(SqlRegistry(url)) as registry:
        assert registry.clients("shop") == []
    postgres.run("UPDATE alembic_version SET version_num = '0999'", name)
    with pytest.raises(StateError, match="newer Retinue"):
        SqlRegistry(url)
    with pytest.raises(StateError, match="newer Retinue"):
        registry_open.upgrade_database(url)


def test_a_database_of_another_program_is_refused() -> None:
    url = postgres.new_database()
    postgres.run("CREATE TABLE shopping (item text)", name_of(url))
    with pytest.raises(StateError, match="tables that are not Retinue's"):
        SqlRegistry(url)


def test_a_connection_lost_within_a_landing_changes_nothing_and_the_next_call_has_a_new_one(
    url: str, opened: SqlRegistry
) -> None:
    before = opened.current("shop", "prod")
    kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name_of(url)}'"

    def cut() -> None:
        with opened._writing() as connection:
            connection.exec_driver_sql("UPDATE stages SET number = NULL")
            postgres.run(kill)
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StateUnavailableError, match="was lost") as lost:
        cut()
    assert "Run the same command again" in str(lost.value.hint)
    assert opened.current("shop", "prod") == before
    postgres.run(kill)  # idle ones in the pool too
    assert opened.land(patch("a", "a-0", "a-1")).number == 3


def test_four_processes_landing_beside_each_other_lose_nothing_on_a_database_they_make() -> None:
    url = postgres.new_database()
    command = [sys.executable, SCRIPT, "many", url]
    runners = [subprocess.Popen([*command, m, "6"], stdout=subprocess.PIPE, text=True) for m in "abcd"]
    numbers = [int(line) for runner in runners for line in runner.communicate(timeout=120)[0].splitlines()]
    assert sorted(numbers) == list(range(1, 25))
    with closing(SqlRegistry(url)) as registry:
        current = registry.current("shop", "prod")
        assert current is not None
        assert current.models == {model: Entry(f"{model}-5") for model in "abcd"}


def test_a_landing_killed_before_any_of_its_statements_leaves_the_old_state_whole(
    url: str, opened: SqlRegistry
) -> None:
    before = opened.current("shop", "prod")
    for at in (2, 5, 8, 10):
        process = subprocess.Popen([sys.executable, SCRIPT, "die", url, str(at)])
        assert process.wait(60) == -signal.SIGKILL
        assert opened.current("shop", "prod") == before
        assert opened.holds("shop", "prod", ended=True) == []
    assert opened.land(patch("a", "a-0", "a-1")).number == 3


def test_a_process_frozen_within_a_transaction_is_ended_by_the_server_and_then_told_so(
    url: str, opened: SqlRegistry
) -> None:
    frozen = subprocess.Popen([sys.executable, SCRIPT, "freeze", url], stdout=subprocess.PIPE, text=True)
    assert frozen.stdout is not None
    assert frozen.stdout.readline() == "inside\n"
    os.kill(frozen.pid, signal.SIGSTOP)
    for _ in range(20):
        try:
            assert opened.land(patch("a", "a-0", "a-1")).number == 3
            break
        except StateUnavailableError as error:
            assert "stayed locked" in str(error)  # noqa: PT017 - any number of them may come before the success
            time.sleep(0.1)
    os.kill(frozen.pid, signal.SIGCONT)
    assert "StateUnavailableError" in frozen.communicate(timeout=60)[0]
    current = opened.current("shop", "prod")
    assert current is not None
    assert current.models["a"] == Entry("a-1")
