from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core import access
from retinue.core.access import ANONYMOUS, Client, ClientKey, ClientRecord, Rights
from retinue.core.errors import ConflictError, UsageError

NOON = "2026-01-31T12:00:00.000000Z"
ONE = "2026-01-31T13:00:00.000000Z"
TWO = "2026-01-31T14:00:00.000000Z"
NOON_UNIX = 1769860800.0


def a_key(seed: int, now: str = NOON) -> tuple[bytes, ClientKey]:
    text, key = access.new_key(hashlib.sha512(bytes([seed])).digest()[:37], now)
    return text.encode(), key


def a_client(*keys: ClientKey, **changes: object) -> ClientRecord:
    return replace(ClientRecord("web", keys=keys, created=NOON), **changes)  # type: ignore[arg-type]


def test_a_key_names_its_prefix_and_only_its_digest_is_recorded() -> None:
    text, key = a_key(1)
    assert access.KEY.fullmatch(text)
    assert access.key_prefix(text) == key.prefix
    assert key.digest == hashlib.sha256(text).hexdigest()
    assert text.decode().rpartition("_")[2] not in str(key)


def test_a_key_of_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="37 random bytes"):
        access.new_key(b"short", NOON)


def test_the_right_key_is_known_and_one_that_differs_in_any_place_is_not() -> None:
    text, key = a_key(1)
    rights = Rights([a_client(key)])
    assert rights.closed
    found = rights.verify(text, NOON_UNIX)
    assert found is not None
    assert (found.name, found.priority) == ("web", 1)
    for place in range(len(text)):
        other = text[:place] + (b"a" if text[place : place + 1] != b"a" else b"b") + text[place + 1 :]
        assert rights.verify(other, NOON_UNIX) is None


@given(st.binary(max_size=200))
def test_no_bytes_that_are_no_key_open_the_door_or_raise(junk: bytes) -> None:
    assert Rights([a_client(a_key(1)[1])]).verify(junk, NOON_UNIX) is None


def test_after_a_rotation_both_keys_open_the_door_until_the_overlap_ends() -> None:
    (old_text, old), (new_text, new) = a_key(1), a_key(2)
    client = access.rotated(a_client(old), new, NOON, ONE)
    rights = Rights([client])
    assert rights.verify(old_text, NOON_UNIX + 3599) is not None
    assert rights.verify(old_text, NOON_UNIX + 3600) is None
    assert rights.verify(new_text, NOON_UNIX + 3600) is not None
    assert rights.next_end(NOON_UNIX) == NOON_UNIX + 3600
    assert rights.next_end(NOON_UNIX + 3600) is None


def test_a_second_rotation_never_prolongs_a_key() -> None:
    client = access.rotated(a_client(a_key(1)[1]), a_key(2)[1], NOON, ONE)
    again = access.rotated(client, a_key(3)[1], NOON, TWO)
    assert [key.ends for key in again.keys] == [ONE, TWO, None]


def test_one_key_or_the_whole_client_can_be_revoked_and_the_door_stays_closed() -> None:
    (one, first), (two, second) = a_key(1), a_key(2)
    client = access.revoked(a_client(first, second), ONE, f"rtn_{first.prefix}_…")
    assert Rights([client]).verify(one, NOON_UNIX + 3600) is None
    assert Rights([client]).verify(two, NOON_UNIX + 3600) is not None
    gone = access.revoked(client, ONE)
    rights = Rights([gone])
    assert rights.verify(two, NOON_UNIX) is None
    assert rights.closed
    assert gone.live_keys(NOON) == ()


def test_revoking_what_does_not_live_is_refused_with_the_nearest_key() -> None:
    _, key = a_key(1)
    with pytest.raises(UsageError, match="no live key") as refused:
        access.revoked(a_client(key), ONE, key.prefix[:7] + "x")
    assert key.prefix in str(refused.value.hint)
    with pytest.raises(UsageError, match="is revoked"):
        access.revoked(access.revoked(a_client(key), ONE), ONE)
    with pytest.raises(UsageError, match="is revoked"):
        access.rotated(access.revoked(a_client(key), ONE), a_key(2)[1], ONE, TWO)


def test_a_name_in_use_is_refused_and_a_revoked_one_comes_back_with_its_old_keys_dead() -> None:
    (old_text, old), (new_text, new) = a_key(1), a_key(2)
    with pytest.raises(ConflictError, match="registered already"):
        access.added(a_client(old), ClientRecord("web"), new)
    back = access.added(access.revoked(a_client(old), NOON), ClientRecord("web", created=ONE), new)
    assert Rights([back]).verify(old_text, NOON_UNIX + 1) is None
    assert Rights([back]).verify(new_text, NOON_UNIX + 1) is not None


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (ClientRecord("we b"), "name of a client"),
        (ClientRecord(""), "name of a client"),
        (ClientRecord("web", tenant="a\nb"), "name of a tenant"),
        (ClientRecord("web", allow=("a b",)), "no pattern"),
        (ClientRecord("web", allow=("",)), "no pattern"),
        (ClientRecord("web", priority="fast"), "no priority 'fast'"),  # type: ignore[arg-type]
    ],
)
def test_bad_names_tenants_patterns_and_priorities_are_refused(record: ClientRecord, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        access.added(None, record, a_key(1)[1])


def test_a_client_may_call_what_its_patterns_match_and_nothing_else() -> None:
    client = Client("web", allow=("late-*", "arrival"))
    assert [client.may(name) for name in ("late-JFK", "arrival", "arrivals", "Late-JFK", "xlate-")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert not Client("none", allow=()).may("arrival")
    assert ANONYMOUS.may("anything")


def test_a_record_survives_json() -> None:
    client = a_client(a_key(1)[1], tenant="acme", allow=("a", "b*"), priority="urgent", revoked=ONE)
    assert access.from_json(access.to_json(client)) == client
