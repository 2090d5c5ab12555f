"""Law: whatever is done to them, the registry in memory and the one in SQL tell the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.contracts.registry import P, S, add_version, hold, landing, moment

from retinue.core.errors import StateError
from retinue.core.state import Entry, Lease
from retinue.store.base import Registry
from retinue.store.fake import MemoryRegistry
from retinue.store.registry import SqlRegistry

MODELS = ("a", "b", "c")
patches = st.dictionaries(st.sampled_from(MODELS), st.sampled_from([None, 0, 1, 2]), max_size=3)
targets = st.dictionaries(st.just("front"), st.sampled_from([None, "a", "b", "late-{x}"]), max_size=1)


class Twins(RuleBasedStateMachine):
    """Every step is done to both; results, or the class and text of the refusal, must be equal."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.sql = SqlRegistry(f"sqlite:///{self.folder.name}/state.db")
        self.memory = MemoryRegistry()
        self.now = 0
        self.held: list[Lease] = []
        for registry in (self.sql, self.memory):
            for model in MODELS:
                for n in range(3):
                    add_version(registry, f"{model}{n}", model)

    def both(self, act: Callable[[Registry], Any]) -> Any:
        """The common result, or None for a common refusal."""
        told: list[tuple[Any, tuple[type[StateError], str, str] | None]] = []
        for registry in (self.memory, self.sql):
            try:
                told.append((act(registry), None))
            except StateError as error:
                told.append((None, (type(error), str(error), error.hint)))
        assert told[0] == told[1]
        return told[0][0]

    def tick(self) -> int:
        self.now += 1
        return self.now

    @rule(patch=patches, stale=patches, endpoints=targets, leased=st.booleans(), protect=st.booleans())
    def lands(
        self,
        patch: dict[str, int | None],
        stale: dict[str, int | None],
        endpoints: dict[str, str | None],
        leased: bool,
        protect: bool,
    ) -> None:
        current = self.memory.current(P, S)
        live = current.models if current else {}
        expected = {model: live[model].version if model in live else None for model in patch}
        expected |= {model: f"{model}2" for model, n in stale.items() if n == 2}
        made = replace(
            landing(expected, {}, self.tick()),
            models={m: None if n is None else Entry(f"{m}{n}", protect) for m, n in patch.items()},
            endpoints={name: {"select": target} if target else None for name, target in endpoints.items()},
            lease=self.held[-1] if leased and self.held else None,
            holds=tuple(hold(model, cause="rollback", created=moment(self.now)) for model in stale),
        )
        self.both(lambda registry: registry.land(made))

    @precondition(lambda self: self.memory.current(P, S) is not None)
    @rule(back=st.integers(1, 5))
    def rolls_back(self, back: int) -> None:
        current = self.memory.current(P, S)
        assert current is not None
        old = self.memory.release(P, S, max(1, current.number - back))
        named = sorted(current.models.keys() | old.models.keys())
        expected = {m: current.models[m].version if m in current.models else None for m in named}
        made = replace(
            landing(expected, {}, self.tick()),
            models={m: old.models.get(m) for m in named},
            endpoints={e: old.endpoints.get(e) for e in current.endpoints.keys() | old.endpoints.keys()},
            cause="rollback",
        )
        landed = self.both(lambda registry: registry.land(made))
        assert landed is None or (landed.models, landed.endpoints) == (old.models, old.endpoints)

    @rule(models=st.sets(st.sampled_from(MODELS), min_size=1), length=st.integers(1, 5))
    def leases(self, models: set[str], length: int) -> None:
        now = self.tick()
        span = {"now": moment(now), "expires": moment(now + length)}
        lease = self.both(lambda registry: registry.acquire(P, S, models, holder="ann", **span))
        if lease is not None:
            self.held.append(lease)

    @precondition(lambda self: bool(self.held))
    @rule(free=st.booleans(), index=st.integers(0, 3))
    def renews_or_frees(self, free: bool, index: int) -> None:
        lease = self.held[-1 - index % len(self.held)]
        if free:
            self.both(lambda registry: registry.free(lease))
        else:
            now = self.tick()
            self.both(lambda registry: registry.renew(lease, now=moment(now), expires=moment(now + 3)))

    @rule(id=st.integers(1, 4))
    def ends_a_hold(self, id: int) -> None:
        now = moment(self.tick())
        self.both(lambda registry: registry.end_holds([id], why="w", who="bob", now=now))

    @invariant()
    def tell_the_same(self) -> None:
        for read in (
            lambda registry: registry.current(P, S),
            lambda registry: registry.releases(P, S),
            lambda registry: registry.history(P, S, limit=1_000),
            lambda registry: registry.holds(P, S, ended=True),
            lambda registry: registry.leases(P, S, moment(self.now)),
            lambda registry: registry.audit(P, 1_000),
            lambda registry: registry.release_at(P, S, moment(self.now // 2)),
        ):
            self.both(read)

    def teardown(self) -> None:
        self.sql.close()
        self.folder.cleanup()


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
