"""Changes of clients and their keys: recorded with the act, then published to the gateways of every stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from retinue.control.publish import publish_access
from retinue.core import access
from retinue.core.access import ClientKey, ClientRecord, Priority
from retinue.core.errors import UsageError
from retinue.core.state import AuditRow
from retinue.core.suggest import did_you_mean
from retinue.store.base import Registry

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True)
class Issued:
    """A client after a change, with the text of its new key: shown once, recorded nowhere."""

    client: ClientRecord
    key: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of one portfolio. `stages`: the folder whose subfolders hold each stage's release files."""

    registry: Registry
    portfolio: str
    stages: Path
    who: str
    clock: Callable[[], str]
    random: Callable[[int], bytes]

    def recorded(self) -> list[ClientRecord]:
        """All clients by name, revoked ones too; rights files that say anything else are written anew."""
        self.publish()
        return self.registry.clients(self.portfolio)

    def add(
        self,
        name: str,
        *,
        tenant: str | None = None,
        allow: Sequence[str] = (),
        priority: Priority = "normal",
        why: str,
    ) -> Issued:
        """Register a client and give it a first key. Raises UsageError, and ConflictError for a name in use."""
        now = self.clock()
        text, key = self._key(now)
        wished = ClientRecord(name, tenant, tuple(allow) or ("*",), priority, (), now)
        old = self._find(name)
        client = access.added(old, wished, key)
        self._record(client, old, "add client", why)
        return Issued(client, text, key.prefix)

    def idle(self, allowed: Sequence[str]) -> list[str]:
        """Patterns that open nothing today, if there is a release: a slip, or meant for what is still to come."""
        stages = self.registry.stages(self.portfolio)
        releases = [self.registry.current(self.portfolio, stage) for stage in stages]
        names = {name for release in releases if release for name in (*release.models, *release.endpoints)}
        return [p for p in allowed if names and not any(fnmatchcase(name, p) for name in names)]

    def rotate(self, name: str, overlap: timedelta, *, why: str) -> Issued:
        """Give a client another key; its present ones still open the door for `overlap`."""
        now = self.clock()
        old = self._known(name)
        text, key = self._key(now)
        until = (datetime.fromisoformat(now.replace("Z", "+00:00")) + overlap).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        client = access.rotated(old, key, now, until)
        self._record(client, old, "rotate key", why)
        return Issued(client, text, key.prefix)

    def revoke(self, name: str, prefix: str | None = None, *, why: str) -> ClientRecord:
        """End one key, or all and the client with them. Gateways refuse it within a second or two."""
        old = self._known(name)
        client = access.revoked(old, self.clock(), prefix)
        self._record(client, old, "revoke key" if prefix else "revoke client", why)
        return client

    def publish(self) -> None:
        """Write the rights file of every stage that has a folder."""
        for folder in sorted(self.stages.iterdir()) if self.stages.is_dir() else ():
            if folder.is_dir():
                publish_access(self.registry, folder, self.portfolio)

    def _key(self, now: str) -> tuple[str, ClientKey]:
        taken = {key.prefix for client in self.registry.clients(self.portfolio) for key in client.keys}
        while True:
            text, key = access.new_key(self.random(access.PREFIX_BYTES + access.SECRET_BYTES), now)
            if key.prefix not in taken:
                return text, key

    def _find(self, name: str) -> ClientRecord | None:
        return next((client for client in self.registry.clients(self.portfolio) if client.name == name), None)

    def _known(self, name: str) -> ClientRecord:
        found = self._find(name)
        if found is None:
            known = [client.name for client in self.registry.clients(self.portfolio)]
            raise UsageError(f"no client is named {name!r:.120}", hint=did_you_mean(name, known))
        return found

    def _record(self, client: ClientRecord, old: ClientRecord | None, act: str, why: str) -> None:
        audit = AuditRow(self.clock(), self.who, act, client.name, why, None)
        self.registry.put_client(self.portfolio, client, expected=old, audit=audit)
        self.publish()


def duration(text: str) -> timedelta:
    """`7d`, `12h`, `30m`, `0s`. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,6})\s*([smhdw])", text.strip())
    seconds = int(found[1]) * _SECONDS[found[2]] if found else -1
    if not 0 <= seconds <= 10 * 365 * 86400:
        raise UsageError(f"{text!r:.40} is no time span", hint="Write it as 30m, 12h, 7d or 2w; at most ten years.")
    return timedelta(seconds=seconds)
