"""Clients that send real later flights to the server and keep what was answered, to be judged by what happened."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb

from retinue.client import Client
from retinue.core.errors import RetinueError

FEATURES = """
    select f.origin, f.carrier, f.dest, f.distance,
           hour(f.sched_dep) as sched_hour,
           hour(f.sched_dep) * 60 + minute(f.sched_dep) as sched_minute,
           dayofweek(f.sched_dep) as day_of_week,
           w.temp, w.wind_speed, w.precip, w.visib, f.arr_delay > 15 as late
    from later f asof left join later_weather w on f.origin = w.origin and f.sched_dep >= w.hour
    where f.sched_dep < ? order by f.sched_dep, f.flight_id
"""
"""What a booking system would know of a departure before it leaves, plus what happened (never sent)."""


def rows_of(db: duckdb.DuckDBPyConnection, data: Path, days: int) -> tuple[list[dict[str, Any]], datetime]:
    """(the flights of the next `days` days after the data's end, their first day)."""
    db.execute(f"create view later as select * from '{data / 'later.parquet'}'")
    db.execute(f"create view later_weather as select * from '{data / 'later_weather.parquet'}'")
    first = db.execute("select date_trunc('day', min(sched_dep)) from later").fetchone()
    if first is None or first[0] is None:
        raise SystemExit("demo: the year is over, no later flights are left; remove the folder to start again")
    end = db.execute("select ?::timestamp + to_days(?::int)", [first[0], days]).fetchone()
    assert end is not None
    cursor = db.execute(FEATURES, [end[0]])
    names = [d[0] for d in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()], first[0]


class Traffic:
    """Four clients in threads, from entering to leaving the `with` block. Counts failures; keeps every answer."""

    def __init__(self, url: str, rows: list[dict[str, Any]], clients: int = 4, pause: float = 0.02) -> None:
        self.url, self.rows, self.pause = url, rows, pause
        self.answers: list[tuple[int, float, bool | None, bool]] = []  # release, probability, late, by fallback
        self.latencies: list[float] = []
        self.requests = self.failed = self.mixed = self.backward = 0
        self.errors: list[str] = []
        self._newest = 0
        self._versions: dict[tuple[int, str], str] = {}
        self._next = itertools.count()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def finish(self, least_requests: int) -> None:
        """Go on until at least so many requests were sent."""
        while self.requests < least_requests:
            time.sleep(0.05)

    def by_release(self) -> dict[int, list[tuple[float, bool | None, bool]]]:
        """Answers by the release that gave them."""
        found: dict[int, list[tuple[float, bool | None, bool]]] = defaultdict(list)
        for release, probability, late, fallback in self.answers:
            found[release].append((probability, late, fallback))
        return found

    def _client(self) -> None:
        with Client(self.url) as client:
            while not self._end.is_set():
                place = next(self._next) * 4
                batch = [self.rows[(place + i) % len(self.rows)] for i in range(4)]
                self._ask(client, batch)
                time.sleep(self.pause)

    def _ask(self, client: Client, batch: list[dict[str, Any]]) -> None:
        newest = self._newest  # what anybody has seen before this request was sent
        asked = time.perf_counter()
        try:
            answer = client.predict("late", [{k: v for k, v in row.items() if k != "late"} for row in batch])
        except RetinueError as error:
            with self._lock:
                self.requests += 1
                self.failed += 1
                self.errors.append(str(error))
            return
        took = time.perf_counter() - asked
        with self._lock:
            self.requests += 1
            self.latencies.append(took)
            release = answer["release"]
            self.backward += release < newest
            self._newest = max(self._newest, release)
            for row, prediction, model in zip(batch, answer["predictions"], answer["models"], strict=True):
                if "error" in prediction:
                    self.failed += 1
                    self.errors.append(str(prediction["error"]))
                    continue
                # One release has one version of a model: another one here would be a mix of two releases.
                version = self._versions.setdefault((release, model["model"]), model["version"])
                self.mixed += version != model["version"]
                self.answers.append((release, prediction["probability"], row["late"], bool(model["fallback"])))
