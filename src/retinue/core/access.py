"""Who may call what: clients, their keys, and what a change of them is. Pure: randomness and moments are passed in.

A key is `rtn_<prefix>_<secret>`: eight characters that name it, fifty-two that prove it (256 random bits). Only the
SHA-256 of the whole key is recorded. A slow hash (bcrypt, scrypt, Argon2) protects secrets that people choose, which
can be guessed from a list; nobody guesses 256 random bits, so one fast hash at rest is as strong and costs the door
a microsecond, once per key and process.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import translate
from typing import Any, Literal

from retinue.core.errors import ConflictError, UsageError
from retinue.core.suggest import did_you_mean

Json = Any
Priority = Literal["urgent", "normal", "patient"]
PRIORITIES: tuple[Priority, ...] = ("urgent", "normal", "patient")
"""In the order in which a queue takes them: the index is the priority of a request."""

PREFIX_BYTES, SECRET_BYTES = 5, 32
KEY = re.compile(rb"rtn_([a-z2-7]{8})_([a-z2-7]{52})")
MAX_KEY = 128  # bytes; nothing longer is looked at
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~@-]{0,99}")


@dataclass(frozen=True, slots=True)
class ClientKey:
    """One key of a client. `digest`: SHA-256 of the whole key, 64 hex digits. `ends`: UTC moment, None for never."""

    prefix: str
    digest: str
    created: str
    ends: str | None = None

    def lives(self, now: str) -> bool:
        """Whether it still opens the door at `now`."""
        return self.ends is None or now < self.ends


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client as recorded: its rights and every key it ever had. A revoked one stays on record."""

    name: str
    tenant: str | None = None
    allow: tuple[str, ...] = ("*",)
    priority: Priority = "normal"
    keys: tuple[ClientKey, ...] = ()
    created: str = ""
    revoked: str | None = None

    def live_keys(self, now: str) -> tuple[ClientKey, ...]:
        """Keys that open the door at `now`; a revoked client has none."""
        return () if self.revoked is not None else tuple(key for key in self.keys if key.lives(now))


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, as the door knows it. `name` is None for anonymous; `priority` is 0 urgent, 1 normal, 2 patient."""

    name: str | None
    tenant: str | None = None
    priority: int = 1
    allow: tuple[str, ...] = ("*",)
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pattern", re.compile("|".join(translate(glob) for glob in self.allow) or "(?!)"))

    def may(self, name: str) -> bool:
        """Whether it may call that endpoint or model: `*`, `?` and `[…]` match as in file names, case counts."""
        return self.allow == ("*",) or self._pattern.match(name) is not None


ANONYMOUS = Client(None)


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────


def new_key(random: bytes, now: str) -> tuple[str, ClientKey]:
    """The text of a key, to be shown once, and what is recorded of it. `random`: 37 bytes nobody can foretell."""
    if len(random) != PREFIX_BYTES + SECRET_BYTES:
        raise ValueError(f"{PREFIX_BYTES + SECRET_BYTES} random bytes make a key, not {len(random)}")
    prefix, secret = (
        base64.b32encode(part).decode().rstrip("=").lower() for part in (random[:PREFIX_BYTES], random[PREFIX_BYTES:])
    )
    text = f"rtn_{prefix}_{secret}"
    return text, ClientKey(prefix, hashlib.sha256(text.encode()).hexdigest(), now)


def key_prefix(key: bytes) -> str | None:
    """The prefix of what could be a key, else None. Cheap: no hash is computed."""
    found = KEY.fullmatch(key) if len(key) <= MAX_KEY else None
    return found[1].decode() if found else None


class Rights:
    """Rights of all clients of a portfolio, by the prefixes of their keys. What gateways decide with.

    `closed`: a client was registered, so requests without a key are refused, also after its last key has ended.
    """

    __slots__ = ("_clients", "_keys", "closed")

    def __init__(self, records: Iterable[ClientRecord]) -> None:
        self._keys: dict[str, tuple[bytes, float | None, Client]] = {}
        self._clients = 0
        for record in records:
            self._clients += 1
            client = Client(record.name, record.tenant, PRIORITIES.index(record.priority), record.allow)
            for key in record.keys if record.revoked is None else ():
                ends = datetime.fromisoformat(key.ends.replace("Z", "+00:00")).timestamp() if key.ends else None
                self._keys[key.prefix] = (key.digest.encode(), ends, client)
        self.closed = self._clients > 0

    def verify(self, key: bytes, now: float) -> Client | None:
        """The client whose live key this is at `now` (unix seconds). Digests are compared in constant time."""
        prefix = key_prefix(key)
        found = self._keys.get(prefix) if prefix is not None else None
        if found is None:
            return None
        digest, ends, client = found
        same = hmac.compare_digest(hashlib.sha256(key).hexdigest().encode(), digest)
        return client if same and (ends is None or now < ends) else None

    def next_end(self, now: float) -> float | None:
        """When the next live key ends, in unix seconds; None when none will."""
        return min((ends for _, ends, _ in self._keys.values() if ends is not None and ends > now), default=None)


# ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────


def added(old: ClientRecord | None, record: ClientRecord, key: ClientKey) -> ClientRecord:
    """The record of a new client, or of a revoked one that is let in again (its old keys stay ended).

    Raises UsageError for a bad name, tenant, glob or priority, ConflictError for a name that is in use.
    """
    _check_word("client", record.name)
    if record.tenant is not None:
        _check_word("tenant", record.tenant)
    for glob in record.allow:
        if not re.fullmatch(r"[A-Za-z0-9._~*?\[\]!-]{1,200}", glob):
            raise UsageError(
                f"--allow {glob!r:.80} is no pattern for endpoints", hint="Write a name, or one with * and ?: 'late-*'."
            )
    if record.priority not in PRIORITIES:
        raise UsageError(f"no priority {record.priority!r}", hint=did_you_mean(record.priority, PRIORITIES))
    if old is not None and old.revoked is None:
        raise ConflictError(
            f"client {record.name} is registered already",
            hint=f"`retinue clients rotate {record.name}` gives it another key.",
        )
    ended = tuple(_ended(k, old.revoked or record.created) for k in old.keys) if old is not None else ()
    return replace(record, keys=(*ended, key), revoked=None)


def rotated(record: ClientRecord, key: ClientKey, now: str, until: str) -> ClientRecord:
    """With one more key; those that live end at `until` (not before, not later than they would anyway)."""
    _check_there(record)
    kept = tuple(_ended(k, until) if k.lives(now) else k for k in record.keys)
    return replace(record, keys=(*kept, key))


def revoked(record: ClientRecord, now: str, prefix: str | None = None) -> ClientRecord:
    """Without that key (named by its prefix), or without any. Raises UsageError for a key that does not live."""
    _check_there(record)
    if prefix is None:
        return replace(record, keys=tuple(_ended(k, now) for k in record.keys), revoked=now)
    live = {key.prefix for key in record.live_keys(now)}
    word = prefix.removeprefix("rtn_").partition("_")[0]
    if word not in live:
        raise UsageError(f"client {record.name} has no live key {word!r:.40}", hint=did_you_mean(word, live))
    return replace(record, keys=tuple(_ended(k, now) if k.prefix == word else k for k in record.keys))


def _ended(key: ClientKey, moment: str) -> ClientKey:
    return replace(key, ends=min(key.ends, moment) if key.ends is not None else moment)


def _check_there(record: ClientRecord) -> None:
    if record.revoked is not None:
        raise UsageError(
            f"client {record.name} is revoked", hint=f"`retinue clients add {record.name}` lets it in again."
        )


def _check_word(what: str, word: str) -> None:
    if not _NAME.fullmatch(word):
        raise UsageError(
            f"{word!r:.120} cannot be the name of a {what}",
            hint="Use at most 100 letters, digits and . _ ~ @ -, beginning with a letter or digit.",
        )


# ── on record ───────────────────────────────────────────────────────────────────────────────────────────────


def to_json(record: ClientRecord) -> dict[str, Json]:
    """The record as JSON, as the registry and the rights file keep it."""
    keys = [{"prefix": k.prefix, "digest": k.digest, "created": k.created, "ends": k.ends} for k in record.keys]
    return {
        "name": record.name,
        "tenant": record.tenant,
        "allow": list(record.allow),
        "priority": record.priority,
        "keys": keys,
        "created": record.created,
        "revoked": record.revoked,
    }


def from_json(body: Mapping[str, Json]) -> ClientRecord:
    """The record that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    if body["priority"] not in PRIORITIES:
        raise ValueError(f"no priority {body['priority']!r}")
    return ClientRecord(
        **{**body, "allow": tuple(body["allow"]), "keys": tuple(ClientKey(**key) for key in body["keys"])}
    )
