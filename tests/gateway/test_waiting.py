"""Who waits, and no longer than they must: patient requests, and those for a model whose load hangs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.test_pool import Asked, Bench, ask, run

from retinue.core.errors import UnavailableError
from retinue.gateway import loads
from retinue.gateway.batcher import PASSED, Batcher
from retinue.gateway.pool import LOADS, Pool
from retinue.gateway.runners import Done


class Steps:
    """A runner that runs when it is told to, and remembers what."""

    def __init__(self) -> None:
        self.ran: list[float] = []
        self._now: tuple[Any, Done] | None = None

    def run(self, form: str, block: Any, expected: float, done: Done) -> None:
        self.ran += [row[0] for row in block]
        self._now = (block, done)

    def step(self) -> None:
        assert self._now is not None
        (block, done), self._now = self._now, None
        done({"y": [row[0] for row in block]}, None, 0.001)


@pytest.mark.parametrize("lowest", [1, 2])
def test_a_patient_request_is_answered_however_many_urgent_ones_keep_coming(lowest: int) -> None:
    async def story() -> None:
        runner = Steps()
        batcher = Batcher(runner, lambda batch: None)

        def put(value: float, priority: int) -> Asked:
            item = Asked(value)
            item.priority = priority
            batcher.add(item)
            return item

        patient = put(-1.0, lowest)
        for number in range(3 * PASSED):
            put(float(number), 0)  # there is always an urgent one
            await asyncio.sleep(0)
            put(float(number), 0)
            runner.step()
            await asyncio.sleep(0)
            if patient.answer.done():
                break
        assert await asyncio.wait_for(patient.answer, 1) == -1.0
        assert PASSED <= runner.ran.index(-1.0) <= 3 * PASSED
        assert runner.ran[0] == 0.0  # urgent ones go first

    asyncio.run(story())


def test_a_load_that_hangs_fails_its_requests_and_holds_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "LIMIT", 0.3)
    go_on = threading.Event()

    class Hanging(Bench):
        def local(self, digest: str) -> Path:
            if digest in hanging:
                go_on.wait(20)
            return super().local(digest)

    hanging: set[str] = set()

    async def story(_: Bench) -> None:
        bench = Hanging(tmp_path / "b")
        pool = Pool(bench, bench.settings(9), lambda _: None)
        try:
            stuck = [bench.served(f"m{number}") for number in range(LOADS)]
            hanging.update(model.artifact for model in stuck)
            asked = [asyncio.ensure_future(ask(pool.model(model))) for model in stuck]
            well = asyncio.ensure_future(ask(pool.model(bench.served("m7"))))
            for waiting in asked:
                with pytest.raises(UnavailableError, match=r"loading took over 0\.3 s"):
                    await waiting
            assert await well == pytest.approx(8.01)
            assert pool.loader.overdue == LOADS
            with pytest.raises(UnavailableError):
                await ask(pool.model(stuck[0]))  # it is not tried again at once
            assert pool.loader.overdue == LOADS
        finally:
            go_on.set()
            pool.close()

    run(story, tmp_path / "a")
