"""A version's place in this process, and a release's model that stands for it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from retinue.core.cache import Entry, Ledger
from retinue.core.contract import Field
from retinue.core.routing import fields_of
from retinue.core.state import ServedModel
from retinue.gateway.batcher import Batcher, Item


class Keeper(Protocol):
    """Who loads what is asked for: the pool."""

    ledger: Ledger

    def fetch(self, model: LoadedModel, item: Item) -> None:
        """Rows for a model that is not loaded."""

    def reason(self, model: LoadedModel) -> str | None:
        """Why a model is not tried now; None when it is loaded or may be tried."""


class Slot:
    """One version in this process, whoever names it: cold, being loaded, or loaded (`batcher`)."""

    __slots__ = ("__weakref__", "batcher", "entry", "key", "started", "waiters", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.batcher: Batcher | None = None
        self.entry = NO_ENTRY
        self.waiting: list[Item] | None = None  # while it is being loaded, or queued for it
        self.waiters: list[asyncio.Future[str | None]] = []
        self.started = False


NO_ENTRY = Entry("", 0, 0.0, False, 0.0, 0.0)


class LoadedModel:
    """One model of one release; its version is loaded (`batcher`), is not, or cannot be (`reason`)."""

    __slots__ = ("__weakref__", "_pool", "fields", "outputs", "served", "slot")

    def __init__(self, served: ServedModel, slot: Slot, pool: Keeper) -> None:
        self.served = served
        self.slot = slot
        self._pool = pool
        self.fields = fields_of(served.signature["inputs"])
        self.outputs: tuple[Field, ...] = fields_of(served.signature["outputs"])

    @property
    def batcher(self) -> Batcher | None:
        """Its queue, while it is loaded."""
        return self.slot.batcher

    @property
    def reason(self) -> str | None:
        """Why it cannot serve; None while it can, or has only not been asked to."""
        return self._pool.reason(self)

    def add(self, item: Item) -> None:
        """Let these rows run, as soon as the model is loaded; when it cannot be, they fail with UnavailableError."""
        slot = self.slot
        batcher = slot.batcher
        if batcher is None:
            self._pool.fetch(self, item)
            return
        entry = slot.entry
        entry.uses += 1.0
        entry.seen = self._pool.ledger.clock
        batcher.add(item)
