"""Loaded models: compiled ones inline in this process, the others in worker processes, one kind per environment.

A release names models; this is where some of them are loaded. A model is loaded when its first request comes (or ahead,
when its release is prepared), once however many requests wait for it and however many releases name it, on a loader
thread: neither the event loop nor other models wait. When the budget is short, the least worth keeping is evicted
(`core.cache`), never while a batch of it waits or runs. A model that cannot be loaded is not tried before its time.
"""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from retinue import telemetry
from retinue.core.cache import Estimate, Ledger, Retries
from retinue.core.errors import RetinueError, UnavailableError
from retinue.core.state import ServedModel
from retinue.gateway.batcher import Batch, Batcher, Item
from retinue.gateway.breadcrumb import Breadcrumbs, name_in_note
from retinue.gateway.hosts import Hosts
from retinue.gateway.loads import Loaders, load_warm
from retinue.gateway.memory import Reaper, machine
from retinue.gateway.runners import InlineRunner, WorkerRunner
from retinue.gateway.scales import Scales
from retinue.gateway.slots import NO_ENTRY, LoadedModel, Slot
from retinue.gateway.statistics import Statistics
from retinue.gateway.workers import Worker
from retinue.settings import Settings, parse_memory
from retinue.store.base import Artifacts

LOADS = 2  # loads at once: more would only share the same cores
RESERVE = 0.02  # of the budget: what grows between two measures, and buffers under load
MEASURE = 1.0  # seconds between two looks at what the process really takes
FREEZE = 64  # loads after which the collector is told not to look at them again

OnLoad = Callable[[ServedModel, float, str | None], None]
"""Told of each load: the model, the seconds it took, and why it failed."""


class Pool:
    """All models this gateway has loaded, by what they are made of, within its share of the host's budget."""

    def __init__(
        self,
        artifacts: Artifacts,
        settings: Settings,
        observe: Callable[[Batch], None],
        freeze: Callable[[], object] = gc.freeze,
        notes: Breadcrumbs | None = None,
    ) -> None:
        self._notes = notes
        self._demoted: frozenset[str] = frozenset()
        self._artifacts = artifacts
        self._settings = settings
        self._observe = observe
        self.statistics = Statistics()
        self._freeze = freeze
        self._loop = asyncio.get_running_loop()
        self.budget = parse_memory(settings.memory, machine()) // max(1, settings.gateways)
        self._aim = self.budget * (1.0 - RESERVE)
        self.ledger = Ledger(self._aim)
        self._estimate = Estimate()
        self._retries = Retries()
        self._slots: weakref.WeakValueDictionary[str, Slot] = weakref.WeakValueDictionary()
        self._runners: dict[str, InlineRunner | WorkerRunner] = {}  # theirs is the last reference to a model
        self._hosts = Hosts(settings)
        self._scales = Scales()
        self._urgent: deque[LoadedModel] = deque()
        self._patient: deque[LoadedModel] = deque()
        self._loading = self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._measured = 0.0
        self._since_freeze = 0
        self.counts = {"misses": 0, "loads": 0, "failures": 0, "evictions": 0, "seconds": 0.0}
        self.loader = Loaders(LOADS)
        self._runs = ThreadPoolExecutor(2, thread_name_prefix="run")
        self._reaper = Reaper()
        self.on_load: OnLoad = lambda served, seconds, why: None

    # ------------------------------------------------------------------------------------------------ what is asked
    def model(self, served: ServedModel) -> LoadedModel:
        """That model; loaded if its version already is, else when it is first asked."""
        key = f"{served.version} {served.artifact} {served.format}"
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = Slot(key)
            weakref.finalize(slot, self._gone, key).atexit = False
        return LoadedModel(served, slot, self)

    async def load(self, model: LoadedModel, uses: float = 0.0) -> str | None:
        """Load it, behind those that requests wait for; returns why it cannot be loaded, None when it is.

        `uses`: credit that it brings along, such as how often the version it replaces is asked for.
        """
        slot = model.slot
        if slot.batcher is None:
            reason = self.reason(model)
            if reason is not None:
                return reason
            waiter: asyncio.Future[str | None] = self._loop.create_future()
            slot.waiters.append(waiter)
            if slot.waiting is None:
                self._enqueue(model, self._patient)
            reason = await waiter
            if reason is not None:
                return reason
        if slot.batcher is not None:
            slot.entry.uses = max(slot.entry.uses, uses)
            if model.served.pinned:
                self.ledger.pin(slot.key, True)
        return None

    def fetch(self, model: LoadedModel, item: Item) -> None:
        """Rows for a model that is not loaded: join its load, or begin it."""
        self.counts["misses"] += 1
        slot = model.slot
        if slot.waiting is None:
            reason = self.reason(model)
            if reason is not None:
                item.failed(_unavailable(model, reason))
                return
            self._enqueue(model, self._urgent)
        elif not slot.started and not slot.waiting:
            self._urgent.append(model)  # it was queued ahead of need: now it is needed
        assert slot.waiting is not None
        slot.waiting.append(item)

    def reason(self, model: LoadedModel) -> str | None:
        """Why a model is not tried now; None when it is loaded or may be tried."""
        return self._retries.reason(model.slot.key, self._loop.time()) if self._retries else None

    @property
    def troubled(self) -> bool:
        """Whether some model may have a reason not to be tried."""
        return bool(self._retries)

    def forgive(self, model: LoadedModel | None = None) -> None:
        """What could not be loaded (that model, or any) may be tried again at once."""
        if model is None:
            self._retries.clear()
        else:
            self._retries.forget(model.slot.key)

    def evict(self, model: LoadedModel) -> bool:
        """Unload it unless it is pinned or in use; whether it is unloaded now."""
        slot = model.slot
        if slot.batcher is not None and slot.batcher.idle and not slot.entry.pinned:
            self.ledger.remove(slot.key)
            self._unload(slot.key)
        return slot.batcher is None

    def demote(self, versions: Iterable[str]) -> None:
        """These versions killed a gateway: from now on they run in a process of their own."""
        self._demoted = frozenset(versions)
        for key, runner in list(self._runners.items()):
            if isinstance(runner, InlineRunner) and name_in_note(key.split(" ", 1)[0]) in self._demoted:
                self.ledger.remove(key)
                self._unload(key)  # what waits in its batcher still runs there

    def estimate(self, served: ServedModel) -> int:
        """Bytes it will take, as measured when it was built, or else as others do on average."""
        if served.memory:
            return served.memory
        return self.ledger.total // len(self.ledger) if len(self.ledger) else self._estimate.of(20_000)

    # ---------------------------------------------------------------------------------------------------- the loads
    def _enqueue(self, model: LoadedModel, queue: deque[LoadedModel]) -> None:
        model.slot.waiting = []
        model.slot.started = False
        queue.append(model)
        self._pump()

    def _pump(self) -> None:
        """Begin as many loads as may run: what requests wait for goes first, but every fourth was queued ahead."""
        while self._loading < LOADS and (self._urgent or self._patient):
            self._turn += 1
            patient = self._patient and (not self._urgent or self._turn % 4 == 0)
            model = (self._patient if patient else self._urgent).popleft()
            slot = model.slot
            if slot.started or slot.waiting is None:
                continue  # it stood in both queues
            slot.started = True
            self._loading += 1
            task = self._loop.create_task(self._load(model))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _load(self, model: LoadedModel) -> None:
        slot, served = model.slot, model.served
        assert slot.waiting is not None
        try:
            if slot.waiting and not slot.waiters and not any(item.wanted() for item in slot.waiting):
                slot.waiting = None  # all clients have gone meanwhile
                return
            self._make_room(self.estimate(served))
            inline = served.format == "onnx" and name_in_note(served.version) not in self._demoted
            await (self._inline(model) if inline else self._hosted(model))
        except RetinueError as error:
            self._failed(model, str(error))
        except Exception as error:  # noqa: BLE001  one model's fault must leave the others unharmed
            self._failed(model, f"{type(error).__name__}: {error}")
        finally:
            self._loading -= 1
            self._pump()

    async def _inline(self, model: LoadedModel) -> None:
        hooks = self._notes.hooks(model.served.version) if self._notes else (_nothing, _nothing)
        loaded, size, seconds = await self.loader.run(partial(load_warm, self._artifacts, model.served, *hooks))
        runner = InlineRunner(loaded, model.fields, self._runs, *(hooks if self._notes else ()))
        self._loaded(model, runner, size, seconds)

    async def _hosted(self, model: LoadedModel) -> None:
        served = model.served
        began = time.perf_counter()
        path = await self.loader.run(partial(self._artifacts.local, served.artifact))
        runner, worker = await self._hosts.load(served, path, model.fields)
        self._scales.hosted[model.slot.key] = worker
        copies = max(1, len(worker.pids))  # each process of the environment has its own
        self._loaded(model, runner, path.stat().st_size, time.perf_counter() - began, copies)

    def _loaded(
        self, model: LoadedModel, runner: InlineRunner | WorkerRunner, size: int, seconds: float, copies: int = 1
    ) -> None:
        """It runs from here on: what waited goes into its batcher."""
        slot, served = model.slot, model.served
        if served.memory:
            self._estimate.learn(size, served.memory)
        counts = self.statistics.observer(served, self._observe)
        slot.batcher = Batcher(runner, counts.ran, served.concurrency or 1, counts.failed)
        self._runners[slot.key] = runner
        items, slot.waiting = slot.waiting or [], None
        slot.entry = self.ledger.add(
            slot.key,
            (served.memory or self._estimate.of(size)) * copies,
            seconds,
            pinned=served.pinned,
            uses=float(len(items)),
        )
        self._scales.first(slot.entry.bytes)
        self.on_load(served, seconds, None)
        self.counts["loads"] += 1
        self.counts["seconds"] += seconds
        self._retries.forget(slot.key)
        for item in items:
            slot.batcher.add(item)
        self._tell(slot, None)
        self._make_room(0, but=slot.key)
        self._since_freeze += 1
        if self._since_freeze >= FREEZE:
            self._since_freeze = 0
            gc.collect()  # of what is new
            self._freeze()  # thousands of loaded models would make each full collection a long pause

    def _failed(self, model: LoadedModel, why: str) -> None:
        slot = model.slot
        self.counts["failures"] += 1
        self._retries.failed(slot.key, why, self._loop.time())
        self.on_load(model.served, 0.0, why)
        items, slot.waiting = slot.waiting or [], None
        for item in items:
            item.failed(_unavailable(model, why))
        self._tell(slot, why)

    def _tell(self, slot: Slot, why: str | None) -> None:
        waiters, slot.waiters = slot.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(why)

    # --------------------------------------------------------------------------------------------------- the budget
    def tick(self) -> None:
        """Keep to the budget: called several times a second by the gateway's clock."""
        now = self._loop.time()
        if now - self._measured >= MEASURE:
            self._measured = now
            self._measure()
        self._make_room(0)

    def trim(self) -> None:
        """Give memory that is free back to the system soon, on another thread."""
        self._reaper.trim()

    def dispose(self, *things: dict[Any, Any]) -> None:
        """Empty these dictionaries little by little: letting go of thousands of plans at once would take too long."""
        for thing in things:
            for _ in range(min(100, len(thing))):
                thing.popitem()
        if any(things) and not self._loop.is_closed():
            self._loop.call_later(0.001, self.dispose, *things)

    def _make_room(self, extra: int, but: str | None = None) -> None:
        """Evict what is least worth keeping until so many more bytes are within the budget."""
        if self.ledger.over(extra):
            for key in self.ledger.victims(extra, lambda key: key == but or self._in_use(key)):
                self.counts["evictions"] += 1
                self._unload(key)

    def _in_use(self, key: str) -> bool:
        slot = self._slots.get(key)
        return slot is not None and slot.batcher is not None and not slot.batcher.idle

    def _unload(self, key: str) -> None:
        slot = self._slots.get(key)
        if slot is not None:
            slot.batcher = None
            slot.entry = NO_ENTRY
        self._scales.hosted.pop(key, None)
        runner = self._runners.pop(key, None)
        if isinstance(runner, InlineRunner):
            self._reaper.drop(runner)  # a worker's runner says goodbye to the worker, on this thread

    def _gone(self, key: str) -> None:
        """No release and no request names that version any more."""
        if key not in self._slots:
            self.ledger.remove(key)
            self._unload(key)

    def _measure(self) -> None:
        """Correct the sum of what models were thought to take by what the processes really take."""
        self._scales.weigh(self.ledger, self._hosts.workers, self._reaper)
        self.ledger.budget = self._aim / self._scales.correction
        worker, now = self._scales.fat, self._loop.time()
        if worker is not None and self._scales.rested(worker, now) and not self._busy(worker):
            self._scales.recycled(worker, now)
            worker.recycle()  # its memory does not come back otherwise

    def _busy(self, worker: Worker) -> bool:
        return any(host is worker and self._in_use(key) for key, host in self._scales.hosted.items())

    # ------------------------------------------------------------------------------------------------------- telling
    def status(self) -> list[dict[str, Any]]:
        """The worker processes of each environment."""
        return self._hosts.status()

    def cache_status(self) -> dict[str, Any]:
        """The cache as `/status` shows it; sizes in bytes."""
        return {
            "loaded": len(self.ledger),
            "bytes": int(self.ledger.total * self._scales.correction),
            "budget": self.budget,
            **self.counts,
        }

    def metrics(self) -> dict[str, Any]:
        """The cache's part of the gateway's counts."""
        return {
            telemetry.MODELS_LOADED: {"": len(self.ledger)},
            telemetry.CACHE_BYTES: {"": int(self.ledger.total * self._scales.correction)},
            telemetry.CACHE_BUDGET: {"": self.budget},
            telemetry.CACHE_MISSES: {"": self.counts["misses"]},
            telemetry.LOADS: {"": self.counts["loads"]},
            telemetry.LOAD_SECONDS: {"": self.counts["seconds"]},
            telemetry.LOAD_FAILURES: {"": self.counts["failures"]},
            telemetry.EVICTIONS: {"": self.counts["evictions"]},
        }

    def close(self) -> None:
        """End all workers and threads."""
        self._hosts.close()
        self.loader.close()
        self._runs.shutdown(wait=False, cancel_futures=True)
        self._reaper.close()


def _nothing() -> None:
    """The hook where nobody takes notes."""


def _unavailable(model: LoadedModel, why: str) -> UnavailableError:
    return UnavailableError(f"model {model.served.name!r} is not available: {why}")
