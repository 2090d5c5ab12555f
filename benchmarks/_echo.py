"""The bare echo: httptools on uvloop, callbacks, one write per request: `python -m benchmarks._echo PORT`.

Nothing that serves HTTP/1.1 with this parser on this loop can be faster, so it is what the others are measured by.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httptools
import uvloop


class Echo(asyncio.Protocol):
    """Answers every request with its body."""

    def connection_made(self, transport: Any) -> None:
        """Remember the transport."""
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.chunks: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks = []
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )


async def serve(port: int) -> None:
    """Until the process ends."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
