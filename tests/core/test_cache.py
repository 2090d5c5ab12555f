"""The laws of eviction, by random histories; and that it is worth the trouble, against least-recently-used."""

from __future__ import annotations

import random
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from retinue.core.cache import Estimate, Ledger, Retries

_KEYS = st.sampled_from("abcdefgh")
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), _KEYS, st.integers(1, 60), st.floats(0.001, 1.0), st.booleans()),
        st.tuples(st.just("use"), _KEYS),
        st.tuples(st.just("hold"), _KEYS),
        st.tuples(st.just("free"), _KEYS),
        st.tuples(st.just("drop"), _KEYS),
    ),
    max_size=80,
)


@given(_STEPS, st.integers(1, 150))
def test_the_budget_is_kept_unless_everything_is_held_and_nothing_held_or_pinned_ever_goes(
    steps: list[tuple[object, ...]], budget: int
) -> None:
    ledger = Ledger(budget)
    sizes: dict[str, int] = {}
    pinned: set[str] = set()
    held: set[str] = set()
    for step in steps:
        key = str(step[1])
        if step[0] == "load" and key not in ledger:
            assert isinstance(step[2], int)
            assert isinstance(step[3], float)
            gone = ledger.victims(step[2], held.__contains__)
            assert not held & set(gone)
            assert not pinned & set(gone)
            for victim in gone:
                del sizes[victim]
            movable = [name for name in sizes if name not in held and name not in pinned]
            assert not movable or sum(sizes.values()) + step[2] <= budget
            ledger.add(key, step[2], step[3], pinned=bool(step[4]))
            sizes[key] = step[2]
            (pinned.add if step[4] else pinned.discard)(key)
        elif step[0] == "use" and (entry := ledger.get(key)):
            entry.uses += 1
            entry.seen = ledger.clock
        elif step[0] == "hold" and key in ledger:
            held.add(key)
        elif step[0] == "free":
            held.discard(key)
        elif step[0] == "drop" and key not in held:
            ledger.remove(key)
            sizes.pop(key, None)
            pinned.discard(key)
        assert ledger.total == sum(sizes.values())
        assert set(sizes) == {name for name in "abcdefgh" if name in ledger}


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.integers(1, 10**6), st.floats(0.0001, 10))
def test_all_else_equal_what_is_used_more_is_kept_longer(uses: list[int], size: int, seconds: float) -> None:
    ledger = Ledger(size * len(uses))
    for index, count in enumerate(uses):
        ledger.add(str(index), size, seconds)
        for _ in range(count):
            entry = ledger.get(str(index))
            assert entry is not None
            entry.uses += 1
            entry.seen = ledger.clock
    order = []
    while len(ledger):
        order += ledger.victims(int(ledger.budget) - ledger.total + 1, lambda _: False)
    assert [uses[int(key)] for key in order] == sorted(uses)


def test_what_is_slow_to_load_or_small_is_kept_longer() -> None:
    ledger = Ledger(3000 * 1024)
    ledger.add("quick", 1000 * 1024, 0.001)
    ledger.add("slow", 1000 * 1024, 1.0)
    ledger.add("small", 10 * 1024, 0.001)
    assert ledger.victims(1000 * 1024, lambda _: False) == ["quick"]


def test_something_larger_than_the_budget_makes_all_but_the_held_and_pinned_go() -> None:
    ledger = Ledger(100)
    for name in "abcd":
        ledger.add(name, 20, 0.1, pinned=name == "a")
    assert sorted(ledger.victims(500, lambda key: key == "b")) == ["c", "d"]
    assert ledger.total == 40
    ledger.pin("a", False)
    assert ledger.victims(500, lambda _: False) == ["b", "a"] or len(ledger) == 0


def test_a_favourite_of_yesterday_makes_room_within_a_few_turnovers() -> None:
    ledger = Ledger(100)
    star = ledger.add("star", 1, 0.1)
    star.uses = 1e6
    loaded = 0
    while "star" in ledger:
        name = f"m{loaded}"
        ledger.victims(1, lambda _: False)
        ledger.add(name, 1, 0.1)
        loaded += 1
        assert loaded < 100 * 60


def _trace(models: int, requests: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(models)]
    return rng.choices(range(models), weights, k=requests)


def _hits(trace: list[int], sizes: list[int], budget: int) -> int:
    ledger = Ledger(budget)
    hits = 0
    for model in trace:
        entry = ledger.get(str(model))
        if entry is not None:
            hits += 1
            entry.uses += 1
            entry.seen = ledger.clock
        else:
            ledger.victims(sizes[model], lambda _: False)
            ledger.add(str(model), sizes[model], 0.001)
    return hits


def _lru_hits(trace: list[int], sizes: list[int], budget: int) -> int:
    loaded: OrderedDict[int, None] = OrderedDict()
    total = hits = 0
    for model in trace:
        if model in loaded:
            hits += 1
            loaded.move_to_end(model)
            continue
        total += sizes[model]
        loaded[model] = None
        while total > budget:
            total -= sizes[loaded.popitem(last=False)[0]]
    return hits


def test_zipf_traffic_hits_more_often_than_with_least_recently_used() -> None:
    rng = random.Random(7)
    sizes = [rng.choice((2000, 4000, 20_000)) for _ in range(2000)]
    trace = _trace(2000, 40_000, seed=3)
    budget = sum(sizes) // 10
    assert _hits(trace, sizes, budget) > 1.08 * _lru_hits(trace, sizes, budget)
    same = [4000] * 2000  # also where size tells nothing
    assert _hits(trace, same, sum(same) // 10) > 1.02 * _lru_hits(trace, same, sum(same) // 10)


def test_estimates_follow_what_was_measured() -> None:
    guess = Estimate()
    for _ in range(100):
        guess.learn(20_000, 300_000)
    assert abs(guess.of(20_000) - 300_000) < 1000
    guess.learn(0, 5)
    guess.learn(5, 0)
    assert abs(guess.of(20_000) - 300_000) < 1000


def test_failures_are_remembered_longer_each_time_and_forgotten_when_told() -> None:
    retries = Retries()
    assert not retries
    moment, waits = 0.0, []
    for _ in range(12):
        retries.failed("m", "broken", moment)
        wait = 0.0
        while retries.reason("m", moment + wait):
            wait += 0.5
        waits.append(wait)
        moment += wait
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == Retries.LONGEST
    assert retries.reason("other", 0.0) is None
    retries.failed("m", "broken", moment)
    retries.forget("m")
    assert retries.reason("m", moment) is None
    retries.failed("m", "broken", moment)
    retries.clear()
    assert not retries
