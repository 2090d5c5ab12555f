"""The model repository extension: the index of a release; load and unload mean warm and evict, and never deploy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from retinue.core.errors import RequestError, UnavailableError, UnknownModelError
from retinue.gateway.oip import read_object
from retinue.gateway.release import PinnedRelease

OFF = "models are deployed by `retinue apply`; loading and unloading them by request is off"
_HINT = "Set [serve] repository_control = true in retinue.toml: then load warms a model and unload evicts it."
TURN = 200  # records that are read in one turn of the loop


class Repository:
    """What clients may see and do of a release's models. `control`: whether they may load and unload."""

    def __init__(self, control: bool) -> None:
        self._control = control

    async def index(
        self, release: PinnedRelease, may: Callable[[str], bool], *, ready: bool = False
    ) -> list[dict[str, str]]:
        """One row per model and endpoint that a client `may` call; `ready`: only those that can answer.

        A model that is not in memory is READY, for it is loaded by the first request that asks for it.
        """
        number = str(release.number)
        found = [_row(name, number, None) for name in sorted(release.routes) if may(name)]
        for count, name in enumerate(sorted(set(release.models) - set(release.routes))):
            if count % TURN == TURN - 1:
                await asyncio.sleep(0)
            if not may(name):
                continue
            made = release.models.made.get(name)
            served = release.models.served(name)
            loaded = made is not None and made.batcher is not None
            reason = None if loaded else (made.reason if made is not None else None) or release.failed.get(name)
            if reason is None or not ready:
                found.append(_row(name, served.version, reason))
        return found

    async def load(self, release: PinnedRelease, name: str, parameters: Mapping[str, Any]) -> None:
        """Have a model of the release in memory. Raises RequestError, UnknownModelError or UnavailableError."""
        self._allow()
        if any(key == "config" or key.startswith("file:") for key in parameters):
            raise RequestError(f"{name!r:.200} cannot be replaced by a request", hint="Run `retinue apply`.")
        await release.warm(_model(release, name))

    async def unload(self, release: PinnedRelease, name: str) -> None:
        """Give a model's memory back until it is asked for again. Raises as `load` does."""
        self._allow()
        if not release.evict(_model(release, name)):
            raise UnavailableError(f"model {name!r} is pinned, or in use at this moment")

    def _allow(self) -> None:
        if not self._control:
            raise RequestError(OFF, hint=_HINT)


def wants_ready(body: bytes) -> bool:
    """What the body of an index request says; clients also send none. Raises RequestError."""
    if not body.strip():
        return False
    ready = read_object(body).get("ready", False)
    if not isinstance(ready, bool):
        raise RequestError("`ready` must be true or false")
    return ready


def parameters(body: bytes) -> Mapping[str, Any]:
    """The parameters of a load or unload request, which may have no body. Raises RequestError."""
    if not body.strip():
        return {}
    found = read_object(body).get("parameters") or {}
    if not isinstance(found, dict):
        raise RequestError("`parameters` must be an object")
    return found


def _model(release: PinnedRelease, name: str) -> str:
    if name in release.models:
        return name
    route = release.routes.get(name)
    if route is None:
        raise UnknownModelError(f"no model {name!r:.200} in release {release.number}")
    if route.keys:
        raise RequestError(f"endpoint {name!r} selects among models: name one of those")
    return route.name


def _row(name: str, version: str, reason: str | None) -> dict[str, str]:
    return {
        "name": name,
        "version": version,
        "state": "READY" if reason is None else "UNAVAILABLE",
        "reason": reason or "",
    }
