"""The worker processes of one environment as their gateway sees them: who hosts what, who is quarantined.

Every process hosts every model; a batch goes to the one with the least before it. A model that kills `MAX_KILLS`
processes is quarantined while its siblings go on, and gets another chance after a time that doubles.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import retinue_worker
from retinue.core.errors import RetinueError, UnavailableError
from retinue.gateway.hosting import LOAD_TIMEOUT, Answer, Hosted, Job, Launch
from retinue.gateway.workerprocess import WorkerProcess

_START = "from retinue_worker.__main__ import main\nimport sys\nsys.exit(main(sys.argv[1:]))\n"


def worker_folder(cache: Path) -> Path:
    """A folder that holds `retinue_worker` and nothing else, runnable by `python -I FOLDER`; made once per content."""
    source = Path(retinue_worker.__file__).parent
    files = sorted(source.glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    folder = cache / "worker" / digest.hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
        (new / "retinue_worker").mkdir()
        for file in files:
            shutil.copy(file, new / "retinue_worker" / file.name)
        (new / "__main__.py").write_text(_START, encoding="utf-8")
        try:
            new.rename(folder)
        except OSError:  # another gateway was first
            shutil.rmtree(new)
    return folder


@dataclass(slots=True)
class Worker:
    """One or more processes of one environment, all hosting the same models. Use on the loop's thread only."""

    python: Path
    folder: Path
    log: Path
    run_timeout: float
    count: int = 1
    _hosted: dict[str, Hosted] = field(default_factory=dict)
    _processes: list[WorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        launch = Launch(self.python, self.folder, self.log)
        self._processes = [WorkerProcess(launch, self._hosted) for _ in range(max(1, self.count))]

    @property
    def restarts(self) -> int:
        """Processes started in place of dead ones."""
        return sum(process.restarts for process in self._processes)

    @property
    def pid(self) -> int | None:
        """The first process, while there is one."""
        return self._processes[0].pid

    @property
    def pids(self) -> list[int]:
        """The processes that there are now."""
        return [process.pid for process in self._processes if process.pid is not None]

    @property
    def quarantined(self) -> dict[str, str]:
        """Public name → why it does not run."""
        return {hosted.label: hosted.reason for hosted in self._hosted.values() if hosted.reason}

    def status(self) -> dict[str, Any]:
        """What `/status` shows: the processes, restarts, how many models, which are quarantined and why."""
        pids = self.pids
        return {
            "pid": self.pid,
            "pids": pids,
            "restarts": self.restarts,
            "models": len(self._hosted),
            "quarantined": self.quarantined,
        }

    async def load(
        self, model: str, path: Path, format: str, signature: dict[str, Any], label: str | None = None
    ) -> None:
        """Load a model in every process; `label` is its public name. Raises UnavailableError saying why it cannot."""
        header = {"op": "load", "model": model, "path": str(path), "format": format, "signature": signature}
        self._hosted[model] = Hosted(header, label or model)
        try:
            await asyncio.gather(*(self._load(process, header) for process in self._processes))
        except UnavailableError:
            self.unload(model)
            raise

    async def _load(self, process: WorkerProcess, header: dict[str, Any]) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def loaded(_: dict[str, Any] | None, error: RetinueError | None) -> None:
            if ready.done():
                return
            if error is None:
                ready.set_result(None)
            else:
                ready.set_exception(UnavailableError(error.message, hint=error.hint))

        process.send(Job(dict(header), None, loaded, LOAD_TIMEOUT))
        await ready

    def run(self, model: str, columns: dict[str, Any], answer: Answer) -> None:
        """Run one batch; `answer` gets the outputs, InferenceError, or UnavailableError when the worker is lost."""
        hosted = self._hosted.get(model)
        if hosted is None:
            answer(None, UnavailableError("the model is not available: not loaded"))
        elif hosted.reason and not hosted.another_chance(asyncio.get_running_loop().time()):
            answer(None, UnavailableError(f"the model is not available: {hosted.reason}"))
        else:
            processes = self._processes
            process = processes[0] if len(processes) == 1 else min(processes, key=lambda one: one.load)
            process.send(Job({"op": "run", "model": model}, columns, answer, self.run_timeout))

    def unload(self, model: str) -> None:
        """Forget a model."""
        if self._hosted.pop(model, None):
            for process in self._processes:
                process.forget(model)

    def recycle(self) -> None:
        """Restart the processes to get their memory back; what waits is sent to the new ones."""
        for process in self._processes:
            process.recycle()

    def close(self) -> None:
        """End the processes; what is in flight fails."""
        for process in self._processes:
            process.close()
