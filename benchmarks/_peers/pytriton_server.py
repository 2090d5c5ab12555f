"""Triton with its Python backend, batching, by PyTriton: `pytriton_server.py HTTP_PORT GRPC_PORT METRICS_PORT`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from trees import Trees

if __name__ == "__main__":
    model = Trees()

    @batch  # type: ignore[untyped-decorator]
    def infer(**inputs: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """One batch."""
        return [model.packed(inputs["X"])]

    http, grpc, metrics = map(int, sys.argv[1:])
    config = TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="trees",
            infer_func=infer,
            inputs=[Tensor(name="X", dtype=np.float32, shape=(10,))],
            outputs=[Tensor(name="Y", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()
