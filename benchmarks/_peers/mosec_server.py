"""Mosec with one worker, batches of up to BATCH requests (environment): `mosec_server.py --port PORT`."""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker
from trees import Trees


class Predictor(Worker):  # type: ignore[misc]
    """Rows in, answers out."""

    def __init__(self) -> None:
        super().__init__()
        self._trees = Trees()

    def forward(self, data: Any) -> Any:
        """One batch; without batching one row."""
        if isinstance(data, dict):
            return {"y": self._trees.rows([data])[0]}
        return [{"y": value} for value in self._trees.rows(data)]


if __name__ == "__main__":
    server = Server()
    batch = int(os.environ["BATCH"])
    server.append_worker(Predictor, num=1, max_batch_size=batch, max_wait_time=1 if batch > 1 else 0)
    server.run()
