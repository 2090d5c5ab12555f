"""Ray Serve with one replica: `ray_server.py PORT`."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from trees import Trees


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Predictor:
    """Rows in, answers out."""

    def __init__(self) -> None:
        self._trees = Trees()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One row."""
        return {"y": self._trees.rows([await request.json()])[0]}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", object_store_memory=100 * 1024**2)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Predictor.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
