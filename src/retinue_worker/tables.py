"""Calls a user's function that gives a table, a version or keys, and leaves the answer in a file.

`tables WHAT module:function TARGET`, in the unpacked code's folder. Exit 0 with TARGET written, or exit 3 with a JSON
{"message", "hint"} in TARGET.error.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from typing import Any


class _Wrong(Exception):
    """The function answered something else."""


def main(arguments: list[str]) -> int:
    """Run one call; whatever goes wrong is told in a file, with the user's traceback on stderr."""
    what, function, target = arguments
    sys.path.insert(0, ".")
    try:
        module, _, name = function.partition(":")
        answer = getattr(importlib.import_module(module), name)()
        if what == "table":
            _write_table(answer, target)
        else:
            value = _keys(answer) if what == "keys" else _version(answer)
            with open(target, "w", encoding="utf-8") as out:
                json.dump(value, out)
    except _Wrong as error:
        return _told(target, str(error))
    except BaseException as error:  # noqa: BLE001  the platform is told of whatever it was
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in place if "retinue_worker" not in frame.filename and "importlib" not in frame.filename]
        at = f" ({own[-1].filename.rpartition('/')[2]}:{own[-1].lineno})" if own else ""
        return _told(target, f"raised {type(error).__name__}: {error}{at}")
    return 0


def _told(target: str, message: str) -> int:
    with open(target + ".error", "w", encoding="utf-8") as out:
        json.dump({"message": message}, out)
    return 3


def _version(answer: Any) -> str:
    if answer is None or isinstance(answer, (list, dict, tuple)):
        raise _Wrong(f"gave {type(answer).__name__} as version, expected text or a number")
    return str(answer)


def _keys(answer: Any) -> list[list[str]]:
    found = []
    for item in answer if isinstance(answer, (list, tuple, set)) else _iterated(answer):
        values = [item] if isinstance(item, (str, int)) else list(item) if isinstance(item, (list, tuple)) else None
        if values is None or not all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in values):
            raise _Wrong(f"gave the key {item!r:.60}, expected text or a tuple of texts")
        found.append([str(v) for v in values])
    return found


def _iterated(answer: Any) -> Any:
    if isinstance(answer, (str, bytes, dict)) or not hasattr(answer, "__iter__"):
        raise _Wrong(f"gave {type(answer).__name__}, expected a list of keys")
    return answer


def _write_table(answer: Any, target: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if hasattr(answer, "to_arrow"):  # polars
        answer = answer.to_arrow()
    if isinstance(answer, pa.RecordBatch):
        answer = pa.Table.from_batches([answer])
    if isinstance(answer, pa.Table):
        pq.write_table(answer, target)
        return
    if type(answer).__name__ == "DataFrame":
        pq.write_table(pa.Table.from_pandas(answer, preserve_index=False), target)
        return
    if isinstance(answer, (str, bytes, dict)) or not hasattr(answer, "__iter__"):
        raise _Wrong(
            f"gave {type(answer).__name__}, expected a pyarrow.Table, a pandas DataFrame or an iterator of batches"
        )
    _write_batches(answer, target)


def _write_batches(answer: Any, target: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for batch in answer:
        if not isinstance(batch, (pa.RecordBatch, pa.Table)):
            raise _Wrong(f"gave a batch that is {type(batch).__name__}, expected a pyarrow.RecordBatch")
        if writer is None:
            writer = pq.ParquetWriter(target, batch.schema)
        if batch.schema != writer.schema:
            raise _Wrong(f"gave batches of different schemas: {writer.schema.names} and {batch.schema.names}")
        writer.write_table(pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch)
    if writer is None:
        raise _Wrong("gave no batch at all: without one its columns are not known")
    writer.close()
