"""The model that every peer serves, in onnxruntime with one thread, as fast as it goes from rows to answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

NAMES = [f"f{n}" for n in range(10)]


class Trees:
    """The session, from the file that the environment variable MODEL names."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def packed(self, block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """[n, 10] to [n, 1], 32-bit floats."""
        found: np.ndarray[Any, Any] = self._session.run(None, {"X": block})[0]
        return found

    def rows(self, rows: Sequence[dict[str, float]]) -> list[float]:
        """One answer for each row."""
        block = np.array([[row[name] for name in NAMES] for row in rows], dtype=np.float32)
        answers: list[float] = self.packed(block)[:, 0].tolist()
        return answers
