from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from retinue.core import access as core
from retinue.core.access import ANONYMOUS, ClientRecord
from retinue.core.errors import ForbiddenError, UnauthenticatedError, UnavailableError
from retinue.gateway import access as gateway
from retinue.gateway.access import Access
from retinue.gateway.h2_heads import CallHead
from retinue.store.accessfile import write_access

NOW = "2026-01-31T12:00:00.000000Z"
WEB, WEB_KEY = core.new_key(hashlib.sha512(b"web").digest()[:37], NOW)
KEY = WEB.encode()
CLIENT = ClientRecord("web", "acme", ("late-*",), "urgent", (WEB_KEY,), NOW)
WRONG = b"rtn_" + b"a" * 8 + b"_" + b"b" * 52


class Said(list[tuple[str, str]]):
    def __call__(self, event: str, text: str) -> None:
        self.append((event, text))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self]


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def door(tmp_path: Path, said: Said) -> Access:
    write_access(tmp_path, "shop", [CLIENT])
    made = Access(said)
    made.watch(tmp_path)
    return made


def test_without_a_registered_client_everybody_is_anonymous(tmp_path: Path) -> None:
    door = Access()
    assert door.client(None, "late-JFK") is ANONYMOUS
    door.watch(tmp_path)
    assert door.client(b"whatever", "late-JFK") is ANONYMOUS
    write_access(tmp_path, "shop", [])
    door.tick()
    assert door.client(None, "late-JFK") is ANONYMOUS


def test_a_known_key_is_its_client_and_only_where_it_may(door: Access) -> None:
    for _ in range(2):  # decided, then remembered
        client = door.client(KEY, "late-JFK")
        assert (client.name, client.tenant, client.priority) == ("web", "acme", 0)
        with pytest.raises(ForbiddenError, match="may not call 'arrival'"):
            door.client(KEY, "arrival")
    assert door.who(KEY).name == "web"
    assert (door.rejected, door.forbidden) == (0, 2)


@pytest.mark.parametrize("key", [None, b"", b"Basic", WRONG, KEY[:-1], KEY + b"a", KEY.upper(), b"\xff" * 40_000])
def test_without_a_live_key_nobody_gets_in(door: Access, key: bytes | None) -> None:
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            door.client(key, "late-JFK")
    assert door.rejected == 2


def test_keyless_requests_are_let_in_where_that_is_set_but_wrong_keys_are_not(tmp_path: Path) -> None:
    write_access(tmp_path, "shop", [CLIENT])
    door = Access(anonymous=True)
    door.watch(tmp_path)
    assert door.client(None, "arrival") is ANONYMOUS
    with pytest.raises(UnauthenticatedError):
        door.client(WRONG, "arrival")


def test_a_flood_of_wrong_keys_and_of_names_is_remembered_within_bounds(door: Access) -> None:
    for number in range(3 * gateway.MAX_WRONG):
        with pytest.raises(UnauthenticatedError):
            door.client(b"rtn_%08d_x" % number, "late-JFK")
        door.client(KEY, f"late-{number}")
    assert len(door._wrong) <= gateway.MAX_WRONG
    assert len(door._may[KEY]) <= gateway.MAX_NAMES
    assert door.client(KEY, "late-JFK").name == "web"


def test_a_change_is_in_force_at_the_next_tick(door: Access, tmp_path: Path, said: Said) -> None:
    assert door.client(KEY, "late-JFK").name == "web"
    write_access(tmp_path, "shop", [core.revoked(CLIENT, NOW)])
    door.tick()
    with pytest.raises(UnauthenticatedError):
        door.client(KEY, "late-JFK")
    write_access(tmp_path, "shop", [replace(CLIENT, allow=("arrival",))])
    door.tick()
    with pytest.raises(ForbiddenError):
        door.client(KEY, "late-JFK")
    assert door.client(KEY, "arrival").name == "web"
    assert said.events == ["access.changed", "access.changed"]


def test_a_key_ends_at_its_moment_without_any_change_of_the_file(tmp_path: Path) -> None:
    ending = replace(WEB_KEY, ends="1970-01-01T00:01:00.000000Z")
    write_access(tmp_path, "shop", [replace(CLIENT, keys=(ending,))])
    now = [59.0]
    door = Access(clock=lambda: now[0])
    door.watch(tmp_path)
    assert door.client(KEY, "late-JFK").name == "web"
    now[0] = 60.0
    door.tick()
    with pytest.raises(UnauthenticatedError):
        door.client(KEY, "late-JFK")


@pytest.mark.parametrize("how", ["cut", "gone", "folder"])
def test_a_damaged_file_keeps_the_last_good_rights_and_says_so_once(
    door: Access, tmp_path: Path, said: Said, how: str
) -> None:
    file = tmp_path / "access"
    whole = file.read_bytes()
    file.unlink()
    if how == "cut":
        file.write_bytes(whole[:50])
    elif how == "folder":
        file.mkdir()
    for _ in range(3):
        door.tick()
    assert door.client(KEY, "late-JFK").name == "web"
    with pytest.raises(UnauthenticatedError):
        door.client(None, "late-JFK")
    assert said.events == ["access.damaged"]
    assert "the last good rights stay in force" in said[0][1]
    if how == "folder":
        file.rmdir()
    file.write_bytes(whole)
    door.tick()
    assert door.trouble is None
    assert said.events == ["access.damaged", "access.restored"]


def test_a_gateway_that_never_had_good_rights_lets_nobody_in_until_it_has(tmp_path: Path, said: Said) -> None:
    (tmp_path / "access").write_bytes(b"RETACC")
    door = Access(said)
    door.watch(tmp_path)
    for key in (None, KEY):
        with pytest.raises(UnavailableError, match="nobody can be let in"):
            door.client(key, "late-JFK")
    write_access(tmp_path, "shop", [CLIENT])
    door.tick()
    assert door.client(KEY, "late-JFK").name == "web"
    assert said.events == ["access.damaged", "access.restored"]


def test_grpc_metadata_carries_the_key_under_either_name() -> None:
    def key(*fields: tuple[bytes, bytes]) -> bytes | None:
        head = CallHead()
        for name, value in fields:
            head.take(name, value)
        return head.key

    assert key((b"user-agent", b"x"), (b"authorization", b"Bearer " + KEY)) == KEY
    assert key((b"authorization", b"bearer  k ")) == b"k"
    assert key((b"retinue-key", KEY)) == KEY
    assert key((b"authorization", b"Basic abc"), (b"x-bin", b"\x00")) is None
