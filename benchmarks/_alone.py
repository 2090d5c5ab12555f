"""onnxruntime by itself: `python -m benchmarks._alone MODEL SECONDS` prints µs per run of 1,000 rows and a copy."""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime


def main(model: str, seconds: float) -> float:
    """Microseconds of one run and one copy of what goes in, over about so many seconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    block = np.random.default_rng(1).random((1000, 20), dtype=np.float32)
    runs, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        session.run(None, {"X": block.copy()})
        runs += 1
    return (time.perf_counter() - began) / runs * 1e6


if __name__ == "__main__":
    print(main(sys.argv[1], float(sys.argv[2])))
