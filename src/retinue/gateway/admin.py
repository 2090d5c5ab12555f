"""The admin port: /status for people and tools, /metrics for Prometheus, /health for whoever restarts us."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from retinue import telemetry
from retinue.gateway.fleet import Fleet
from retinue.gateway.http import Exchange
from retinue.gateway.meter import render

_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class Admin:
    """Handles requests to the admin port; `status` gives what the supervisor knows."""

    def __init__(self, fleet: Fleet, status: Callable[[], dict[str, Any]]) -> None:
        self._fleet = fleet
        self._status = status
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange) -> None:
        """Answer, now or when all gateways have reported."""
        path = exchange.path
        if exchange.method not in (b"GET", b"HEAD"):
            exchange.refuse(405, "use GET here", b"\r\nallow: GET, HEAD")
        elif path == b"/health":
            healthy = bool(self._status()["release"] is not None and self._fleet.serving)
            exchange.reply(200 if healthy else 503, orjson.dumps({"healthy": healthy}))
        elif path in (b"/status", b"/metrics"):
            task = asyncio.get_running_loop().create_task(self._report(exchange, path))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            exchange.refuse(404, "there are /status, /metrics and /health")

    async def _report(self, exchange: Exchange, path: bytes) -> None:
        try:
            await self._tell(exchange, path)
        except Exception as error:  # noqa: BLE001  whoever asks must be answered
            exchange.refuse(500, f"{type(error).__name__}: {error}")

    async def _tell(self, exchange: Exchange, path: bytes) -> None:
        await self._fleet.poll()
        status = self._status()
        if path == b"/status":
            exchange.reply(200, orjson.dumps(status))
            return
        total = self._fleet.total()
        total[telemetry.RELEASE] = {"": status["release"] or 0}
        total[telemetry.JOURNAL_LAG] = {"": round(status["journal_lag"], 3)}
        total[telemetry.QUARANTINED] = Counter(
            model for gateway in status["gateways"] for worker in gateway["workers"] for model in worker["quarantined"]
        )
        total[telemetry.DEMOTED] = {"": len(status["demoted"])}
        total[telemetry.GATEWAYS] = {"": len(self._fleet.serving)}
        total[telemetry.GATEWAY_RESTARTS] = {"": self._fleet.restarts}
        exchange.reply(200, render(total).encode(), content_type=_TEXT)
