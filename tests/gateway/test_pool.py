"""The model cache with real onnxruntime sessions: one load for many, budgets, failures, shared versions."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from onnx import TensorProto, helper

from retinue.core.batching import ROWS, BatchKey
from retinue.core.cache import Retries
from retinue.core.errors import RetinueError, UnavailableError, UnknownModelError
from retinue.core.state import ReleaseImage, ServedModel, ServedNeed
from retinue.gateway.batcher import Batch
from retinue.gateway.pool import Pool
from retinue.gateway.release import PinnedRelease, prepare
from retinue.gateway.slots import LoadedModel
from retinue.settings import Settings
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.releasefile import ReleaseFile, write_release

SIZE = 1_000_000  # what each test model is said to take


def _graph(offset: float) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Add", ["X", "B"], ["Y"])],
        "plus",
        [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor_value_info("Y", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor("B", TensorProto.DOUBLE, [1], [offset])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


SIGNATURE = {
    "task": "regression",
    "target": "y",
    "classes": None,
    "inputs": [{"name": "x", "dtype": "FP64", "nullable": True, "width": 1}],
    "outputs": [{"name": "y", "dtype": "FP64", "nullable": False, "width": 1}],
    "container": "array",
    "trusted": [],
    "onnx": {"inputs": [{"name": "X", "features": ["x"], "dtype": "FP64"}], "outputs": {"y": "Y"}},
}


class Asked:
    """One row that waits: what a data plane queues."""

    def __init__(self, value: float) -> None:
        self.block: Any = [(value,)]
        self.rows = 1
        self.key: BatchKey = (ROWS, ())
        self.began = monotonic()
        self.deadline = float("inf")
        self.priority = 1
        self.gone = False
        self.answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def wanted(self) -> bool:
        return not self.gone

    def ran(self, batch: Batch, start: int) -> None:
        self.answer.set_result(batch.outputs["y"][start])

    def failed(self, error: RetinueError) -> None:
        self.answer.set_exception(error)


class Bench:
    """A folder with artifacts, and releases over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifacts = FsspecArtifacts(f"file://{folder}/artifacts", folder / "cache")
        self.reads: list[str] = []

    def put(self, data: bytes) -> str:
        return self.artifacts.put(data)

    def get(self, digest: str) -> bytes:
        return self.artifacts.get(digest)

    def put_file(self, path: Path) -> str:
        return self.artifacts.put_file(path)

    def has(self, digest: str) -> bool:
        return self.artifacts.has(digest)

    def local(self, digest: str) -> Path:
        self.reads.append(digest)
        return self.artifacts.local(digest)

    def served(self, name: str, version: int = 1, **more: Any) -> ServedModel:
        """Model `m7` of version 2 adds 7.02."""
        number = int("".join(c for c in name if c.isdigit()) or 0)
        digest = self.put(_graph(number + version / 100))
        return ServedModel(name, f"{name}-v{version}", digest, "onnx", SIGNATURE, "none", memory=SIZE, **more)

    def release(self, number: int, *models: ServedModel) -> Path:
        return write_release(self.folder, ReleaseImage("p", "s", number, {m.name: m for m in models}, {}))

    def settings(self, models: int) -> Settings:
        """A budget for so many of the models."""
        return Settings(self.folder, "none", "none", memory=str(models * SIZE + SIZE // 2))


@contextmanager
def _pool(bench: Bench, models: int) -> Iterator[Pool]:
    made = Pool(bench, bench.settings(models), lambda _: None, freeze=gc.get_count)
    try:
        yield made
    finally:
        made.close()


def run(story: Callable[[Bench], Awaitable[None]], folder: Path) -> None:
    asyncio.run(asyncio.wait_for(story(Bench(folder)), 60))


async def ask(model: LoadedModel, value: float = 1.0) -> float:
    item = Asked(value)
    model.add(item)
    return await item.answer


async def settle(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110  no event tells of a session that is let go
        await asyncio.sleep(0.005)


def test_many_requests_for_a_cold_model_share_one_load(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        with _pool(bench, 5) as pool:
            model = pool.model(bench.served("m1"))
            assert model.batcher is None
            assert await asyncio.gather(*(ask(model, value) for value in range(50))) == pytest.approx(
                [value + 1.01 for value in range(50)]
            )
            assert (pool.counts["loads"], pool.counts["misses"], len(bench.reads)) == (1, 50, 1)
            assert model.batcher is not None
            assert model.reason is None

    run(story, tmp_path)


def test_what_is_loaded_stays_within_the_budget_and_every_request_is_answered(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        with _pool(bench, 3) as pool:
            models = [pool.model(bench.served(f"m{n}")) for n in range(10)]
            for turn in range(6):
                asked = [models[(turn * 7 + k * k) % 10] for k in range(8)]
                answers = await asyncio.gather(*(ask(model) for model in asked))
                assert answers == pytest.approx([1.01 + models.index(model) for model in asked])
                await settle(lambda: all(m.batcher is None or m.batcher.idle for m in models))
                pool.tick()
                assert pool.ledger.total <= pool.budget
                assert sum(model.batcher is not None for model in models) <= 3
            assert pool.counts["evictions"] > 0

    run(story, tmp_path)


def test_a_broken_model_is_not_reloaded_per_request_and_fails_alone(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        with _pool(bench, 5) as pool:
            good = pool.model(bench.served("m1"))
            served = bench.served("m2")
            path = bench.artifacts.local(served.artifact)
            sound = path.read_bytes()
            path.write_bytes(b"nonsense")
            broken = pool.model(served)
            asked = [ask(broken) for _ in range(3)]
            failures = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(failure, UnavailableError) for failure in failures)
            assert "'m2' is not available" in str(failures[0])
            assert "damaged" in str(broken.reason)
            reads = len(bench.reads)
            for _ in range(20):
                with pytest.raises(UnavailableError, match="damaged"):
                    await ask(broken)
            assert len(bench.reads) == reads
            assert pool.counts["failures"] == 1
            assert await ask(good) == pytest.approx(2.01)
            path.write_bytes(sound)
            pool.forgive(broken)
            assert await ask(broken) == pytest.approx(3.01)
            assert not pool.troubled

    run(story, tmp_path)


def test_a_failure_is_forgotten_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retries, "FIRST", 0.01)

    async def story(bench: Bench) -> None:
        with _pool(bench, 5) as pool:
            served = bench.served("m2")
            path = bench.artifacts.local(served.artifact)
            sound = path.read_bytes()
            path.unlink()
            model = pool.model(served)
            with pytest.raises(UnavailableError, match="is gone"):
                await ask(model)
            path.write_bytes(sound)
            await settle(lambda: model.reason is None)
            assert await ask(model) == pytest.approx(3.01)

    run(story, tmp_path)


def test_a_pinned_model_is_never_evicted_and_one_in_use_neither(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        with _pool(bench, 2) as pool:
            pinned = pool.model(bench.served("m0", pinned=True))
            assert await pool.load(pinned) is None
            busy = pool.model(bench.served("m1"))
            assert await ask(busy) == pytest.approx(2.01)
            item = Asked(1.0)
            busy.add(item)  # queued: runs in the loop's next turn
            assert not pool.evict(busy)
            assert not pool.evict(pinned)
            await item.answer
            for n in range(2, 6):
                await ask(pool.model(bench.served(f"m{n}")))
            assert pinned.batcher is not None
            assert busy.batcher is None or pool.ledger.total <= pool.budget
            assert await ask(busy) == pytest.approx(2.01)
            assert pool.evict(busy)
            assert busy.batcher is None

    run(story, tmp_path)


def test_a_model_larger_than_the_budget_is_served_alone(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        with _pool(bench, 0) as pool:
            one, two = (pool.model(bench.served(name)) for name in ("m1", "m2"))
            assert await ask(one) == pytest.approx(2.01)
            assert await ask(two) == pytest.approx(3.01)
            assert one.batcher is None or two.batcher is None

    run(story, tmp_path)


def test_a_load_whose_clients_have_all_gone_is_not_begun(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        with _pool(bench, 5) as pool:
            model = pool.model(bench.served("m1"))
            item = Asked(1.0)
            item.gone = True
            model.add(item)
            await settle(lambda: model.slot.waiting is None)
            assert bench.reads == []
            assert await ask(model) == pytest.approx(2.01)

    run(story, tmp_path)


def test_a_release_of_thousands_is_names_until_they_are_asked_for(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        models = [bench.served(f"m{n}", pinned=n == 5) for n in range(20)]
        many = [
            ServedModel(f"n{n}", f"v{n}", hashlib.sha256(b"%d" % n).hexdigest(), "onnx", SIGNATURE, "none")
            for n in range(2000)
        ]
        with _pool(bench, 3) as pool:
            release = await prepare(bench.release(1, *models, *many), pool)
            assert len(release.models) == 2020
            assert list(release.models.made) == ["m5"]
            assert [name for _, name in release.loaded()] == ["m5"]
            assert release.failed == {}
            assert await ask(release.plan("m7").model) == pytest.approx(8.01)
            for model in many:
                assert release.plan(model.name).model.batcher is None
            assert len(release.models.made) < 1100
            assert release.models["m7"].batcher is not None
            with pytest.raises(UnknownModelError):
                release.plan("n2000")
            with pytest.raises(UnavailableError, match="is gone"):
                await release.warm("n1")
            with pytest.raises(UnavailableError, match="'n1' is not available"):
                release.plan("n1")
            await release.warm("m8")
            assert release.models["m8"].batcher is not None
            assert release.evict("m8")
            assert not release.evict("m5")
            with pytest.raises(UnknownModelError):
                release.evict("x")

    run(story, tmp_path)


def test_a_small_release_is_loaded_whole_before_it_serves_and_says_what_failed(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        models = [bench.served(f"m{n}") for n in range(5)]
        bench.artifacts.local(models[2].artifact).write_bytes(b"")
        with _pool(bench, 10) as pool:
            release = await prepare(bench.release(1, *models), pool)
            assert sorted(name for _, name in release.loaded()) == ["m0", "m1", "m3", "m4"]
            assert list(release.failed) == ["m2"]
            with pytest.raises(UnavailableError, match="'m2' is not available"):
                release.plan("m2")

    run(story, tmp_path)


def test_a_release_change_shares_what_is_the_same_and_loads_ahead_what_is_hot(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        old = [bench.served(f"m{n}") for n in range(400)]
        new = [bench.served("m1", version=2), bench.served("m9", version=2), *old[2:9], *old[10:]]
        with _pool(bench, 8) as pool:
            before = await prepare(bench.release(1, *old), pool)
            for name in ("m1", "m1", "m2"):
                await ask(before.plan(name).model)
            plan = before.plan("m1")
            after = await prepare(bench.release(2, *new), pool, before)
            assert sorted(name for _, name in after.loaded()) == ["m1", "m2"]
            assert after.models["m2"].slot is before.models["m2"].slot
            assert await ask(after.plan("m1").model) == pytest.approx(2.02)
            assert await ask(plan.model) == pytest.approx(2.01)
            del before, plan
            await settle(lambda: len(pool.ledger) == 2)
            assert await ask(after.plan("m2").model) == pytest.approx(3.01)
            assert pool.counts["loads"] == 3

    run(story, tmp_path)


def test_a_release_change_under_a_tight_budget_answers_old_and_new(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        old = [bench.served(f"m{n}") for n in range(6)]
        new = [bench.served(f"m{n}", version=2) for n in range(6)]
        with _pool(bench, 2) as pool:
            before = await prepare(bench.release(1, *old), pool)
            stop = False

            async def traffic(release: PinnedRelease, version: float) -> int:
                count = 0
                while not stop:
                    for n in range(6):
                        assert await ask(release.plan(f"m{n}").model, 0.0) == pytest.approx(n + version)
                        count += 1
                return count

            first = asyncio.create_task(traffic(before, 0.01))
            await asyncio.sleep(0.05)
            after = await prepare(bench.release(2, *new), pool, before)
            second = asyncio.create_task(traffic(after, 0.02))
            await asyncio.sleep(0.1)
            stop = True
            assert await first > 0
            assert await second > 0

    run(story, tmp_path)


def test_an_upstream_that_cannot_be_loaded_is_named_in_the_reason(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        up = bench.served("m1")
        down = bench.served("m2", needs=(ServedNeed("m1", "y", "x", {}),))
        bench.artifacts.local(up.artifact).write_bytes(b"")
        with _pool(bench, 5) as pool:
            release = await prepare(bench.release(1, up, down), pool)
            with pytest.raises(UnavailableError, match=r"'m2' is not available \(its upstream m1\)"):
                release.plan("m2")

    run(story, tmp_path)


def test_a_release_file_that_is_cut_while_it_is_served_makes_only_what_is_asked_anew_unavailable(
    tmp_path: Path,
) -> None:
    async def story(bench: Bench) -> None:
        path = bench.release(1, *[bench.served(f"m{n}") for n in range(300)])
        with _pool(bench, 5) as pool:
            release = await prepare(path, pool)
            assert await ask(release.plan("m1").model) == pytest.approx(2.01)
            with path.open("r+b") as file:
                file.truncate(100)
            assert await ask(release.plan("m1").model) == pytest.approx(2.01)
            with pytest.raises(UnavailableError, match="release file"):
                release.plan("m2")
        with ReleaseFile(bench.release(2, bench.served("m1"))) as file:
            assert len(file) == 1

    run(story, tmp_path)
