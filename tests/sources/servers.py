"""Real servers for tests of sources: PostgreSQL and one that speaks S3."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets if each.getsockname()[1]]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgserver

        server: Any = pgserver.get_server(  # type: ignore[attr-defined]  # not in its __all__
            tmp_path_factory.mktemp("pg"), cleanup_mode="delete"
        )
    yield str(server.get_uri())
    server.cleanup()


@dataclass(frozen=True)
class Bucket:
    """A bucket on a server that speaks S3, and the keys that open it."""

    endpoint: str
    key: str = "retinue"
    secret: str = "S3-secret-of-the-test"

    def system(self) -> Any:
        import s3fs

        return s3fs.S3FileSystem(
            key=self.key, secret=self.secret, endpoint_url=self.endpoint, skip_instance_cache=True,
            use_listings_cache=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A seaweedfs server with one identity and a bucket `lake`."""
    folder = tmp_path_factory.mktemp("weed")
    keys = {"identities": [{"name": "t", "credentials": [{"accessKey": Bucket.key, "secretKey": Bucket.secret}],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}  # fmt: skip
    (folder / "s3.json").write_text(json.dumps(keys))
    ports = free_ports(8)
    names = ("master.port", "volume.port", "filer.port", "s3.port", "master.port.grpc", "volume.port.grpc",
             "filer.port.grpc", "s3.port.grpc")  # fmt: skip
    binary = Path(sys.executable).parent / "weed"
    arguments = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [binary, "server", "-ip=127.0.0.1", f"-dir={folder}", "-s3", f"-s3.config={folder / 's3.json'}", *arguments],
        stdout=log, stderr=log, cwd=folder,
    )  # fmt: skip
    found = Bucket(f"http://127.0.0.1:{ports[3]}")
    for _ in range(150):
        time.sleep(0.2)
        with contextlib.suppress(Exception):
            found.system().mkdir("lake")
            break
    yield found
    process.kill()  # it takes its time to leave, and nothing of it is kept
    process.wait()
    log.close()
