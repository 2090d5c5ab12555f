"""LitServe with one worker: `litserve_server.py PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve
from trees import Trees


class Predictor(litserve.LitAPI):  # type: ignore[misc]
    """Rows in, answers out."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self._trees = Trees()

    def decode_request(self, request: dict[str, float]) -> dict[str, float]:
        """The row as it came."""
        return request

    def batch(self, inputs: list[dict[str, float]]) -> list[dict[str, float]]:
        """Rows of several requests."""
        return inputs

    def predict(self, rows: list[dict[str, float]]) -> list[float]:
        """One batch."""
        return self._trees.rows(rows)

    def unbatch(self, output: list[float]) -> list[float]:
        """One answer for each request."""
        return output

    def encode_response(self, output: float) -> dict[str, Any]:
        """The answer as JSON."""
        return {"y": output}


if __name__ == "__main__":
    api = Predictor(max_batch_size=64, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
