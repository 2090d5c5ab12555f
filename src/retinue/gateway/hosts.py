"""Where models run that cannot run in the gateway: the workers of each environment, started when first needed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from retinue.core.batching import COLUMNS
from retinue.core.contract import Field
from retinue.core.errors import RetinueError, UnavailableError
from retinue.core.identity import short
from retinue.core.state import ServedModel
from retinue.gateway.runners import WorkerRunner
from retinue.gateway.workers import Worker, worker_folder
from retinue.settings import Settings
from retinue_worker import runtime

PLATFORM = "platform"  # the environment of compiled models that must not run in a gateway


class Hosts:
    """The workers of all environments of one gateway. Use on the loop's thread only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[str, Worker] = {}
        self._count = 0

    @property
    def workers(self) -> list[Worker]:
        """All there are."""
        return list(self._workers.values())

    async def load(self, served: ServedModel, path: Path, fields: tuple[Field, ...]) -> tuple[WorkerRunner, Worker]:
        """The model, loaded in its environment's processes and run once. Raises UnavailableError."""
        worker = self._worker(served.environment if served.format != "onnx" else PLATFORM)
        self._count += 1
        name = f"{short(served.version)}-{self._count}"
        await worker.load(name, path, served.format, dict(served.signature), served.name)
        runner = WorkerRunner(worker, name, fields)
        warm: asyncio.Future[RetinueError | None] = asyncio.get_running_loop().create_future()
        example = runtime.example(dict(served.signature))
        runner.run(COLUMNS, example, 0.0, lambda _, error, __: warm.set_result(error))
        error = await warm
        if isinstance(error, UnavailableError):  # an InferenceError may be the synthetic row's fault
            raise error
        return runner, worker

    def status(self) -> list[dict[str, Any]]:
        """The worker processes of each environment."""
        return [{"environment": short(name), **worker.status()} for name, worker in sorted(self._workers.items())]

    def close(self) -> None:
        """End all of them."""
        for worker in self._workers.values():
            worker.close()

    def _worker(self, environment: str) -> Worker:
        worker = self._workers.get(environment)
        if worker is None:
            python = self._settings.environments / environment / "bin" / "python"
            if environment == PLATFORM:
                python = Path(sys.executable)  # it has what compiled models need
            if not python.exists():
                raise UnavailableError(
                    f"environment {short(environment)} is not on this machine",
                    hint="Run `retinue rebuild MODEL --reason TEXT`: it makes the environment again.",
                )
            worker = self._workers[environment] = Worker(
                python=python,
                folder=worker_folder(self._settings.cache),
                log=self._settings.logs / f"worker-{short(environment)}.log",
                run_timeout=self._settings.request_timeout,
                count=self._settings.workers_per_environment,
            )
        return worker
