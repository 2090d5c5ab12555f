"""The binary tensor extension: a body of JSON and, behind it, the bytes of those tensors that say how many they are.

`Inference-Header-Content-Length` says where the JSON ends. 0 there means a raw request: the whole body is the one
input of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retinue.core.errors import RequestError
from retinue.gateway.oip_json import described
from retinue.gateway.oip_request import Contract, elements
from retinue.gateway.oip_types import DATATYPES, SIZES, Tensor, decode

HEADER = b"inference-header-content-length"


def cut(body: bytes, header_length: bytes | None) -> tuple[bytes, memoryview]:
    """The JSON of a body and what comes behind it. Raises RequestError for a length that is none."""
    if header_length is None:
        return body, memoryview(b"")
    text = header_length.strip()
    if not text.isdigit() or len(text) > 12:
        raise RequestError(f"Inference-Header-Content-Length must be a number of bytes, not {_shown(header_length)}")
    size = int(text)
    if size > len(body):
        raise RequestError(f"Inference-Header-Content-Length is {size}; the body has {len(body)} bytes")
    return body[:size], memoryview(body)[size:]


class Tail:
    """What is left of the bytes behind the JSON; tensors take theirs in order."""

    __slots__ = ("_data", "_place")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    def tensor(self, index: int, entry: Mapping[str, Any], size: Any) -> Tensor:
        """The next tensor, which has `size` bytes. Raises RequestError."""
        name, shape, datatype, data = described(index, entry)
        if data is not None:
            raise RequestError(f"input {name!r} has both `data` and `binary_data_size`")
        if type(size) is not int or size < 0:
            raise RequestError(f"input {name!r}: `binary_data_size` must be a number of bytes, not {size!r:.60}")
        if datatype not in DATATYPES:
            raise RequestError(f"input {name!r}: unknown datatype {datatype!r:.80}")
        count = elements(name, shape)
        start, self._place = self._place, self._place + size
        if self._place > len(self._data):
            raise RequestError(f"input {name!r} has {size} bytes by its `binary_data_size`, more than there are")
        return Tensor(name, shape, datatype, decode(name, datatype, self._data[start : self._place], count))

    def end(self) -> None:
        """Nothing may be left over. Raises RequestError."""
        left = len(self._data) - self._place
        if left:
            raise RequestError(f"{left} bytes of the body belong to no input: none says so by `binary_data_size`")


def raw(body: memoryview, agreed: Contract) -> Tensor:
    """The one tensor of a raw binary request, for a model with one input: its rows are counted by its bytes.

    Raises RequestError when the model has several inputs or the bytes are no whole number of elements.
    """
    if len(agreed.fields) != 1:
        raise RequestError(
            f"a raw binary request is for a model with one input; this has {len(agreed.fields)}",
            hint="Set Inference-Header-Content-Length to the size of the JSON before the tensors.",
        )
    field = agreed.fields[0]
    count = 1 if field.dtype == "BYTES" else len(body) // SIZES[field.dtype]
    return Tensor(field.name, [count], field.dtype, decode(field.name, field.dtype, body, count))


def _shown(value: bytes) -> str:
    return repr(value[:40].decode("latin-1"))
