"""Columns to and from Arrow IPC files: how the platform and a trainer hand each other rows.

Both sides import this; pyarrow and numpy come late.
"""

from __future__ import annotations

from typing import Any


def write_table(table: Any, path: str) -> None:
    """Write a `pyarrow.Table` as an Arrow IPC file, which `read_table` maps without copying."""
    import pyarrow

    with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_table(path: str) -> Any:
    """The `pyarrow.Table` in an Arrow IPC file, mapped into memory."""
    import pyarrow

    with pyarrow.memory_map(path, "rb") as file:
        return pyarrow.ipc.open_file(file).read_all()


def write_columns(columns: dict[str, Any], path: str) -> None:
    """Write columns: numbers keep NaN, None in text is null, [n, k] arrays are lists of fixed size."""
    import pyarrow

    write_table(pyarrow.table({name: _arrow(array) for name, array in columns.items()}), path)


def read_columns(path: str) -> dict[str, Any]:
    """What `write_columns` wrote, with the same dtypes and shapes."""
    table = read_table(path).combine_chunks()
    return {name: _numpy(table.column(name)) for name in table.column_names}


def _arrow(array: Any) -> Any:
    import pyarrow

    if array.ndim == 2:
        return pyarrow.FixedSizeListArray.from_arrays(_arrow(array.reshape(-1)), array.shape[1])
    if array.dtype.kind == "O":
        return pyarrow.array(array.tolist(), pyarrow.string())
    return pyarrow.array(array)


def _numpy(column: Any) -> Any:
    import pyarrow

    flat = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    if isinstance(flat, pyarrow.ChunkedArray):
        flat = pyarrow.concat_arrays(flat.chunks)
    if pyarrow.types.is_fixed_size_list(flat.type):
        return _numpy(flat.flatten()).reshape(len(flat), flat.type.list_size)
    return flat.to_numpy(zero_copy_only=False)
