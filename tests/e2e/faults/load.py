"""Clients that ask while processes are killed: every answer is checked, every prediction id is kept."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from retinue.control.query import query
from retinue.settings import Settings


@dataclass
class Client:
    """One client with a keep-alive connection; it connects again when that is cut. Every answer must be slope × x."""

    port: int
    model: str
    slope: float
    rows: int
    start: float
    answered: set[str] = field(default_factory=set)
    lost: int = 0  # requests that were under way when their connection was cut
    unavailable: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop, and at least one last time successfully."""
        x = self.start
        while not stop.is_set() and len(self.wrong) < 5:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=30) as link:
                x = self._converse(link, stop, x)

    def _converse(self, link: socket.socket, stop: threading.Event, x: float) -> float:
        """One connection's requests; returns the last value asked."""
        with link.makefile("rb") as file:
            while not stop.is_set() and len(self.wrong) < 5:
                x += 1
                if not self._ask(link, file, [x + row / 10 for row in range(self.rows)]):
                    self.lost += 1
                    break
        return x

    def _ask(self, link: socket.socket, file: Any, values: list[float]) -> bool:
        """One request; False when the connection was cut before its answer was whole."""
        body = json.dumps({"rows": [{"x": value} for value in values]}).encode()
        head = f"POST /predict/{self.model} HTTP/1.1\r\nhost: t\r\ncontent-length: {len(body)}\r\n\r\n"
        try:
            link.sendall(head.encode() + body)
            status, text = _read(file)
        except (ConnectionError, EOFError):
            return False
        self._check(status, json.loads(text), values)
        return True

    def _check(self, status: int, answer: dict[str, Any], values: list[float]) -> None:
        if status == 503:
            self.unavailable += 1
        elif status != 200:
            self.wrong.append(f"{status} {answer}")
        elif answer["predictions"] != [{"y": self.slope * value} for value in values]:
            self.wrong.append(f"{values}: {answer}")
        else:
            self.answered.update(answer["ids"])


def _read(file: Any) -> tuple[int, bytes]:
    line = file.readline()
    length = -1
    while (header := file.readline()) not in (b"\r\n", b""):
        if header.lower().startswith(b"content-length:"):
            length = int(header[15:])
    body = file.read(length) if length >= 0 else b""
    if not line or len(body) != length:
        raise EOFError
    return int(line.split()[1]), body


@contextlib.contextmanager
def asking(clients: list[Client]) -> Iterator[None]:
    """All clients ask for as long as the block lasts, and a moment longer."""
    stop = threading.Event()
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
        time.sleep(0.2)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def journalled(settings: Settings) -> dict[str, float]:
    """Prediction id → y, for all that the journal holds, compacted or not."""
    found = query(settings.journal("shop", "prod"), "select prediction_id, y from predictions where error is null")
    assert len({identity for identity, _ in found.rows}) == len(found.rows), "the journal holds a prediction twice"
    return dict(found.rows)
