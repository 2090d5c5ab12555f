"""Inputs for Triton's clients, the same for each of its four."""

import ml_dtypes
import numpy as np

NUMPY = {
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16,
    "UINT32": np.uint32, "UINT64": np.uint64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
}  # fmt: skip


def numbers(module, datatype, **how):
    """The input of model `one` in that data type: 1, 2, 3; the answers are twice as much."""
    tensor = module.InferInput("a", [3], datatype)
    tensor.set_data_from_numpy(np.array([1, 2, 3], dtype=NUMPY[datatype]), **how)
    return [tensor]


def trees(module, **how):
    """Two rows of model `trees`, one input of each type."""
    data = {
        "number": ("FP64", np.array([0.0, -5.0])),
        "count": ("INT64", np.array([1, 0])),
        "flag": ("BOOL", np.array([True, False])),
        "text": ("BYTES", np.array(["b", "ü"], dtype=object)),
    }
    found = []
    for name, (datatype, values) in data.items():
        tensor = module.InferInput(name, [2], datatype)
        tensor.set_data_from_numpy(values, **how)
        found.append(tensor)
    return found


def packed(module, rows=1000):
    """A table for model `line` as one tensor, and what comes out."""
    table = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)
    tensor = module.InferInput("table", [rows, 2], "FP32")
    tensor.set_data_from_numpy(table)
    return [tensor], table.astype(np.float64) @ [1.0, 10.0]


def check_trees(result):
    """The classifier's answer to `trees`."""
    label = [name.decode() if isinstance(name, bytes) else name for name in result.as_numpy("label").tolist()]
    assert label == ["cedar", "ash"], label
    probability = result.as_numpy("probability")
    assert probability.shape == (2, 3)
    assert np.allclose(probability.sum(axis=1), 1)
    assert probability.dtype == np.float64
