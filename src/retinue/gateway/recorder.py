"""What a gateway journals: every answered request, before its answer leaves.

The data plane calls `answered` (or, for the commonest request, `single`) when an answer is known; `flush` writes all
of a loop turn with one `write()` and is called before that turn's answers leave, so `kill -9` loses no answered
prediction. Both run on the loop's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from retinue.core.contract import Field


class NodeFacts:
    """One node of a release's graph: what runs there. Shared by all requests, compared by identity.

    `fields`: for each input the request's field it is read from, "" for an upstream's output; empty: as `inputs`
    are named. Redaction needs it: a feature may have another name than the field it comes from.
    """

    __slots__ = ("arm", "fields", "inputs", "model", "outputs", "version")

    def __init__(
        self,
        model: str,
        version: str,
        inputs: Sequence[Field],
        outputs: Sequence[Field],
        arm: str = "",
        fields: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.version = version
        self.arm = arm
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.fields = tuple(fields) or tuple(field.name for field in inputs)


class Ran(NamedTuple):
    """One node's run over some rows of a request (`rows` None: all). Blocks as the batcher has them; seconds."""

    facts: NodeFacts
    rows: Sequence[int] | None
    inputs: Any
    outputs: Any
    queued: float
    ran: float
    fallback: bool = False


class Answered(NamedTuple):
    """One admitted request whose answer is known. `arrived` in nanoseconds since 1970; `errors` by row."""

    id: str
    endpoint: str
    release: int
    client: str | None
    client_id: str | None
    status: int
    rows: int
    arrived: int
    seconds: float
    runs: Sequence[Ran]
    errors: Mapping[int, str] = {}
