from __future__ import annotations

import random
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from tests.contracts.registry import add_version, land

from retinue.control.clients import Clients, duration
from retinue.core.errors import ConflictError, StateError, UsageError
from retinue.store.accessfile import read_access
from retinue.store.fake import MemoryRegistry

SECONDS = count()


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    (tmp_path / "prod").mkdir()
    (tmp_path / "dev").mkdir()

    def clock() -> str:
        second = next(SECONDS)
        return f"2026-01-31T12:{second // 60:02}:{second % 60:02}.000000Z"

    return Clients(MemoryRegistry(), "shop", tmp_path, "ann", clock, random.Random(7).randbytes)


def test_a_key_opens_every_stage_at_once_and_no_registry_or_file_holds_it(clients: Clients, tmp_path: Path) -> None:
    issued = clients.add("web", tenant="acme", allow=("late-*",), priority="urgent", why="launch")
    for stage in ("prod", "dev"):
        client = read_access(tmp_path / stage / "access").verify(issued.key.encode(), 0.0)
        assert client is not None
        assert (client.name, client.tenant, client.priority) == ("web", "acme", 0)
        assert issued.key.rpartition("_")[2].encode() not in (tmp_path / stage / "access").read_bytes()
    assert [(row.act, row.what, row.who, row.why) for row in clients.registry.audit("shop")] == [
        ("add client", "web", "ann", "launch")
    ]
    assert issued.key not in repr(clients.recorded())


def test_rotation_and_revocation_reach_the_files_and_the_audit_trail(clients: Clients, tmp_path: Path) -> None:
    first = clients.add("web", why="")
    second = clients.rotate("web", timedelta(days=7), why="yearly")
    rights = read_access(tmp_path / "prod" / "access")
    assert rights.verify(first.key.encode(), 0.0) is not None
    assert rights.verify(second.key.encode(), 0.0) is not None
    clients.revoke("web", second.prefix, why="leaked")
    rights = read_access(tmp_path / "prod" / "access")
    assert rights.verify(second.key.encode(), 4e9) is None
    clients.revoke("web", why="left")
    assert read_access(tmp_path / "prod" / "access").verify(first.key.encode(), 0.0) is None
    acts = [row.act for row in clients.registry.audit("shop")]
    assert acts == ["revoke client", "revoke key", "rotate key", "add client"]


def test_an_unknown_client_is_refused_with_the_nearest_name(clients: Clients) -> None:
    clients.add("website", why="")
    with pytest.raises(UsageError, match="no client is named 'web-site'") as refused:
        clients.rotate("web-site", timedelta(0), why="")
    assert refused.value.hint == "Did you mean 'website'?"
    with pytest.raises(ConflictError, match="registered already"):
        clients.add("website", why="")


def test_listing_repairs_a_damaged_rights_file(clients: Clients, tmp_path: Path) -> None:
    issued = clients.add("web", why="")
    (tmp_path / "prod" / "access").write_bytes(b"junk")
    clients.recorded()
    assert read_access(tmp_path / "prod" / "access").verify(issued.key.encode(), 0.0) is not None


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("2w", 1209600)]
)
def test_spans_are_read(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7 days", "1.5h", "999999w"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no time span"):
        duration(text)


def test_a_lost_database_does_not_open_the_door(clients: Clients, tmp_path: Path) -> None:
    """A database that knows nobody beside a rights file that names somebody is not the one that wrote it."""
    issued = clients.add("web", why="")
    lost = Clients(MemoryRegistry(), "shop", tmp_path, "ann", clients.clock, clients.random)
    with pytest.raises(StateError, match="the database was lost"):
        lost.publish()
    rights = read_access(tmp_path / "prod" / "access")
    assert rights.closed
    assert rights.verify(issued.key.encode(), 0.0) is not None
    (tmp_path / "prod" / "access").unlink()
    (tmp_path / "dev" / "access").unlink()
    lost.publish()
    assert not read_access(tmp_path / "prod" / "access").closed


def test_a_pattern_that_opens_nothing_today_is_told(clients: Clients) -> None:
    assert clients.idle(("typo-*",)) == []  # without a release nothing can be told
    add_version(clients.registry, "v1", "late-JFK", portfolio="shop")
    land(clients.registry, "late-JFK", None, "v1")
    assert clients.idle(("late-*", "typo-*", "*")) == ["typo-*"]
