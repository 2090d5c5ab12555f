"""The protocol's extensions over HTTP: which path shows statistics, configuration, index; which loads and unloads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

import orjson

from retinue.core.errors import RetinueError
from retinue.gateway import describe, repository
from retinue.gateway.access import Access
from retinue.gateway.http import Exchange
from retinue.gateway.release import PinnedRelease
from retinue.gateway.repository import Repository
from retinue.gateway.statistics import Statistics

GET = (b"GET", b"HEAD")
POST = (b"POST",)

Door = Callable[[Exchange], None]
Refuse = Callable[[Exchange, RetinueError], None]


class Beside(NamedTuple):
    """What both doors of the protocol tell of beside inference."""

    statistics: Statistics
    repository: Repository


class Extensions:
    """Doors beside inference. `release` gives the one that is served; `refuse` answers with an error."""

    def __init__(self, release: Callable[[], PinnedRelease], access: Access, beside: Beside, refuse: Refuse) -> None:
        self._release = release
        self._access = access
        self._statistics = beside.statistics
        self._repository = beside.repository
        self._refuse = refuse
        self._tasks: set[asyncio.Task[None]] = set()

    def resolve(self, words: tuple[str, ...]) -> tuple[tuple[bytes, ...], Door] | None:
        """The methods and the door of a path; None when no extension has it."""
        match words:
            case ("v2", "models", "stats"):
                return GET, partial(self._stats, name=None, version=None)
            case ("v2", "models", name, "stats"):
                return GET, partial(self._stats, name=name, version=None)
            case ("v2", "models", name, "versions", version, "stats"):
                return GET, partial(self._stats, name=name, version=version)
            case ("v2", "models", name, "config"):
                return GET, partial(self._config, name=name, version=None)
            case ("v2", "models", name, "versions", version, "config"):
                return GET, partial(self._config, name=name, version=version)
            case ("v2", "repository", "index") | ("v2", "repository", _, "index"):
                return POST, self._index
            case ("v2", "repository", "models", name, "load" | "unload" as act):
                return POST, partial(self._control, name=name, act=act)
            case ("v2", "repository", _, "models", name, "load" | "unload" as act):
                return POST, partial(self._control, name=name, act=act)
        return None

    def _stats(self, exchange: Exchange, name: str | None, version: str | None) -> None:
        key, release = exchange.head.key, self._release()
        client = self._access.who(key) if name is None else self._access.client(key, name)
        if name is not None:
            describe.check_version(release, name, version)
        told = [one for one in self._statistics.of(release, name) if client.may(one["name"])]
        exchange.reply(200, orjson.dumps({"model_stats": told}))

    def _config(self, exchange: Exchange, name: str, version: str | None) -> None:
        self._access.client(exchange.head.key, name)
        release = self._release()
        describe.check_version(release, name, version)
        exchange.reply(200, orjson.dumps(describe.config(release, name)))

    def _index(self, exchange: Exchange) -> None:
        client, ready = self._access.who(exchange.head.key), repository.wants_ready(exchange.body)
        self._later(exchange, self._repository.index(self._release(), client.may, ready=ready))

    def _control(self, exchange: Exchange, name: str, act: str) -> None:
        self._access.client(exchange.head.key, name)
        release, found = self._release(), repository.parameters(exchange.body)
        if act == "load":
            work: Coroutine[Any, Any, None] = self._repository.load(release, name, found)
        else:
            work = self._repository.unload(release, name)
        self._later(exchange, _done(work, {"name": name, act: True}))

    def _later(self, exchange: Exchange, work: Awaitable[Any]) -> None:
        """Answer with what the work gives, when it has."""

        async def answer() -> None:
            try:
                exchange.reply(200, orjson.dumps(await work))
            except RetinueError as error:
                self._refuse(exchange, error)
            except Exception as error:  # noqa: BLE001  the client must hear something
                exchange.refuse(500, f"{type(error).__name__}: {error}")

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _done(work: Coroutine[Any, Any, None], said: dict[str, Any]) -> dict[str, Any]:
    await work
    return said
