"""Who serves a stage now: `serve.json` beside its release files, and a lock that tells a live from a stale one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from retinue.core.errors import StateUnavailableError, UnavailableError


@dataclass(frozen=True, slots=True)
class ServeRecord:
    """A running supervisor: where it answers and which processes it has."""

    pid: int
    host: str
    port: int
    admin_port: int
    gateways: tuple[int, ...]
    tls: bool = False
    grpc_port: int | None = None

    @property
    def url(self) -> str:
        """Where clients ask."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where status and metrics are."""
        return f"http://127.0.0.1:{self.admin_port}"


def read_record(folder: Path) -> ServeRecord | None:
    """The supervisor that serves this stage now; None when none does, also when one left its record behind."""
    try:
        with (folder / "serve.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(OSError, ValueError, TypeError):
            body = json.loads((folder / "serve.json").read_text(encoding="utf-8"))
            return ServeRecord(**{**body, "gateways": tuple(body["gateways"])})
    except OSError:
        pass
    return None


class RecordKeeper:
    """Holds the stage's lock while a supervisor lives; the kernel frees it however the process ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock. Raises UnavailableError when another supervisor serves this stage."""
        self._path = folder / "serve.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[bytes] = (folder / "serve.lock").open("ab")
        except OSError as error:
            raise StateUnavailableError(f"cannot write to the releases folder: {error}", where=str(folder)) from error
        if not self._take():
            self._lock.close()
            other = read_record(folder)
            raise UnavailableError(
                f"this stage is served already{f' by process {other.pid} at {other.url}' if other else ''}",
                hint="Stop it first, or serve another stage.",
            )
        self._path.unlink(missing_ok=True)  # what a killed supervisor left

    def _take(self) -> bool:
        for _ in range(5):  # somebody who reads the record holds the lock for a moment
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            time.sleep(0.05)
        return False

    def write(self, record: ServeRecord) -> None:
        """Replace the record in one step; a full disk is no reason to stop serving."""
        new = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_text(json.dumps(asdict(record)), encoding="utf-8")
            os.replace(new, self._path)

    def close(self) -> None:
        """Remove the record and free the lock."""
        self._path.unlink(missing_ok=True)
        self._lock.close()
