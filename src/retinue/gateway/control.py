"""What supervisor and gateway say to each other: one JSON object a line over an inherited socket pair.

    supervisor → gateway   prepare {generation, path}    load that release beside the running one
                           serve                         begin to accept connections
                           retire {generation}           releases before it are no longer needed
                           forget {generation}           it was refused
                           demote {versions}             these run in a process of their own from now on
                           stats {seq}                   report
                           stop                          finish what is in flight, then end
    gateway → supervisor   prepared {generation, digest, number, models, failed, error}   how many; which failed
                           serving · stats {seq, meter, workers, cache}

Which release a request is admitted under is said by none of these: all gateways read one shared generation word.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from typing import Any, cast

import orjson

WORD_SIZE = mmap.PAGESIZE


class Word:
    """One 64-bit number in shared memory, written by the supervisor, read by every request.

    It is aligned and stored in one machine instruction, so a reader sees the old or the new number.
    """

    def __init__(self, descriptor: int, *, writable: bool) -> None:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(descriptor, WORD_SIZE, access=access)
        self._view = memoryview(self._map).cast("Q")

    def get(self) -> int:
        """The generation that requests are admitted under; 0 for none."""
        return self._view[0]

    def set(self, generation: int) -> None:
        """From here on every request of every gateway is admitted under `generation`."""
        self._view[0] = generation

    def close(self) -> None:
        """Unmap it."""
        self._view.release()
        self._map.close()


class Lines(asyncio.Protocol):
    """JSON lines on a socket pair: `hear` gets each object, `gone` is called at the end."""

    def __init__(self, hear: Callable[[dict[str, Any]], None], gone: Callable[[], None]) -> None:
        self._hear = hear
        self._gone = gone
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def say(self, message: dict[str, Any]) -> None:
        """Send one object; nothing happens when the other side has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(orjson.dumps(message) + b"\n")

    def close(self) -> None:
        """End the conversation."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is not registered as one

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(orjson.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has gone."""
        self._transport = None
        self._gone()
