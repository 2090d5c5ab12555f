"""One trainer process: started clean, spoken to over pipes, its child watched for time and memory."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retinue.build.environment import Environment
from retinue.core.errors import EnvironmentFailure
from retinue.core.identity import short
from retinue.core.portfolio import Limits

Json = Any
_LENGTH = struct.Struct(">I")
_POLL = 0.05  # seconds between two looks at a training's memory
# Imported before the first training, so that none pays for it; the later ones are those that the earlier ones
# import when they first see a DataFrame or a zip file. What an environment lacks is passed over.
_HEAD_START = (
    "numpy",
    "pyarrow.pandas_compat",
    "pandas",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "skops.io",
    "xgboost",
    "lightgbm",
    "catboost",
    "narwhals._pandas_like.dataframe",
    "encodings.cp437",
    "retinue_worker.runtime",
)
_BOOTSTRAP = """
import importlib.util, os, sys
folder = sys.argv.pop(1)
sys.path[:] = [path for path in sys.path if path]
spec = importlib.util.spec_from_file_location(
    "retinue_worker", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
module = sys.modules["retinue_worker"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from retinue_worker import MODULE
sys.exit(MODULE.main(sys.argv[1:]))
"""


def bootstrap(module: str) -> str:
    """A program that runs `retinue_worker.MODULE` in a model's environment; its first argument is the package's folder.

    Only this one package becomes importable: its folder's neighbours are the platform and, once installed, all of its
    dependencies.
    """
    return _BOOTSTRAP.replace("MODULE", module)


class Trainer:
    """One trainer process and the pipes to it. Used by one thread at a time; `end` may come from any."""

    def __init__(self, environment: Environment, overlay: Path | None, folder: Path) -> None:
        options = [*(["--overlay", str(overlay.absolute())] if overlay else [])]
        for module in _HEAD_START:
            options += ["--import", module]
        self.alive, self.waits = True, False  # `waits`: a child that left a result may be asked more
        self._child = 0
        with open(folder / "trainers.log", "ab") as log:
            self._process = subprocess.Popen(
                [environment.python.absolute(), "-s", "-c", bootstrap("train"), _worker_folder(), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=_clean_environment(),
                start_new_session=True,  # Ctrl-C is the platform's to handle
                bufsize=0,
            )
        if self._receive() is None:
            self.end()
            said = (folder / "trainers.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = said[-1] if said else "it said nothing"
            raise EnvironmentFailure(
                f"a trainer does not start in environment {short(environment.digest)}: {reason}",
                hint="Remove the environment's folder and run `retinue apply` again, or correct its requirements.",
            )

    def run(self, message: dict[str, Json], watch: Watch) -> str:
        """Carry one request to its end; says how the child ended, or that it left its result and waits.

        The trainer stays alive only if it is told so.
        """
        return self._conversation(message, watch, started=False)

    def more(self, message: dict[str, Json], watch: Watch) -> str:
        """Carry a further request out in the child that left a result and waits."""
        return self._conversation(message, watch, started=True)

    def free(self) -> None:
        """Let a waiting child go; its trainer ends it while this side goes on."""
        if self.waits:
            self.waits = False
            try:
                self._send({"op": "end"})
            except OSError:
                self.alive = False

    def _conversation(self, message: dict[str, Json], watch: Watch, *, started: bool) -> str:
        self.alive = self.waits = False  # an interrupt in between leaves the pipes in the middle of a conversation
        try:
            self._send(message)
            if not started:
                child = self._receive()
                self._child = child["started"] if child else 0
            if self._child:
                with watch.over(self._child):
                    answer = self._receive()
                if answer is not None:
                    self.alive, self.waits = True, "left" in answer
                    return "left its result" if self.waits else _ending(answer["ended"])
        except (OSError, ValueError):
            pass  # a broken pipe, or one that `end` closed, says the same as an end of file
        return "died"

    def end(self) -> None:
        """Close its input, on which it kills its child and goes; kill it if it does not."""
        self.alive = False
        process = self._process
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def _send(self, message: dict[str, Json]) -> None:
        data = json.dumps(message).encode()
        data = _LENGTH.pack(len(data)) + data
        assert self._process.stdin is not None
        while data:
            data = data[self._process.stdin.write(data) or 0 :]

    def _receive(self) -> dict[str, Json] | None:
        header = self._exactly(_LENGTH.size)
        body = self._exactly(_LENGTH.unpack(header)[0]) if header else None
        return json.loads(body) if body else None

    def _exactly(self, size: int) -> bytes | None:
        assert self._process.stdout is not None
        data = b""
        while len(data) < size:
            part = self._process.stdout.read(size - len(data))
            if not part:
                return None
            data += part
        return data


class Watch:
    """Kills a process group that exceeds its limits. `exceeded` says which one and by how much, None if none."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.exceeded: str | None = None

    @contextlib.contextmanager
    def over(self, pid: int) -> Iterator[None]:
        """Watch the group led by `pid` while the block runs."""
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(pid, done), name=f"watch-{pid}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, pid: int, done: threading.Event) -> None:
        end = time.monotonic() + self._limits.time
        while not done.wait(_POLL):
            used = memory(pid)
            if used > self._limits.memory:
                self.exceeded = f"used {_size(used)} of memory, its limit is {_size(self._limits.memory)}"
            elif time.monotonic() > end:
                self.exceeded = f"ran longer than its limit of {self._limits.time:g} s"
            if self.exceeded:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                return


def memory(pid: int) -> int:
    """Resident bytes of a process and its descendants, files mapped into memory not counted; 0 once it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
        children = [
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        ]
        own = (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
        return own + sum(memory(int(child)) for child in children)
    return 0


def _size(count: int) -> str:
    return f"{count / 1024**2:,.0f} MiB"


def _ending(status: int) -> str:
    """How a child ended, from its wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


@functools.cache
def _worker_folder() -> str:
    spec = importlib.util.find_spec("retinue_worker")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent)


def _clean_environment() -> dict[str, str]:
    """This process's environment without what would let the platform's Python or threads shine through."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    # one hash seed, so that the order of sets does not make two builds of the same thing differ
    return {**kept, **dict.fromkeys(threads, "1"), "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1"}
