"""HTTP/2 to the byte: what a client may send, what it may not, and what it is told."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from retinue.gateway import h2_connection, h2_wire
from retinue.gateway import h2_wire as h2
from retinue.gateway.h2_connection import H2Connection
from retinue.gateway.h2_heads import CallHeads, settled
from retinue.gateway.h2_stream import Stream
from retinue.gateway.h2_wire import Broken, frame, number
from retinue.gateway.http import HttpServer, Limits

CALL = [
    (":method", "POST"), (":scheme", "http"), (":path", "/s/m"), (":authority", "a"), ("te", "trailers"),
    ("content-type", "application/grpc"),
]  # fmt: skip
SETTINGS = frame(h2.SETTINGS, 0, 0)
HELLO = h2.PREFACE + SETTINGS


class Doorman:
    """Answers a call with its own message; `/s/stream` with each of its messages."""

    max_message = 300_000

    def __init__(self) -> None:
        self.server: Any = HttpServer(lambda exchange: None, Limits(body=self.max_message))
        self.cancelled: list[int] = []
        self.held: list[Stream] = []
        self.hold = False

    def begin(self, stream: Stream) -> None:
        stream.cancel = lambda: self.cancelled.append(stream.id)
        if stream.head.path == b"/s/stream":
            stream.streaming = True
            stream.on_message = lambda stream, data: stream.send(data)
            stream.on_end = lambda: stream.finish(0)
        else:
            stream.on_message = self.answer

    def answer(self, stream: Stream, data: bytes) -> None:
        if self.hold:
            self.held.append(stream)
        else:
            stream.reply(200, data)


class Client:
    """A client that can say anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, door: Doorman) -> None:
        self.reader, self.writer, self.door = reader, writer, door
        self.encoder, self.decoder = Encoder(), Decoder()

    def say(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    def head(self, stream: int, *more: tuple[str, str], path: str = "/s/m", flags: int = 4, drop: str = "") -> bytes:
        fields = [(name, path if name == ":path" else value) for name, value in CALL if name != drop]
        return frame(h2.HEADERS, flags, stream, self.encoder.encode([*fields, *more]))

    async def frame(self) -> tuple[int, int, int, bytes]:
        high, low, kind, flags, stream = h2.unpack(await self.reader.readexactly(9))
        return kind, flags, stream, await self.reader.readexactly(high << 8 | low)

    async def answer(self, stream: int = 1) -> tuple[dict[str, str], bytes]:
        """All headers and all data of a stream; windows are kept open."""
        fields: dict[str, str] = {}
        data = b""
        while True:
            kind, flags, found, payload = await self.frame()
            assert kind != h2.GOAWAY, payload
            if kind == h2.HEADERS:
                named: Any = self.decoder.decode(payload)
                if found == stream:
                    fields.update(named)
            if found == stream and kind == h2.DATA:
                data += payload
            if found == stream and kind == h2.RST_STREAM:
                return {"reset": str(int.from_bytes(payload, "big"))}, data
            if found == stream and flags & h2.END_STREAM and kind in (h2.HEADERS, h2.DATA):
                return fields, data

    async def goodbye(self) -> tuple[int, str]:
        """The code and text of the connection's end; the connection closes behind it."""
        while True:
            kind, _, _, payload = await self.frame()
            if kind == h2.GOAWAY:
                assert await self.reader.read() == b""
                self.writer.close()
                return int.from_bytes(payload[4:8], "big"), payload[8:].decode()


def body(data: bytes, stream: int = 1, flags: int = 1, flag: int = 0) -> bytes:
    return frame(h2.DATA, flags, stream, bytes([flag]) + number(len(data)) + data)


def talk(work: Callable[[Client], Awaitable[None]], hello: bytes = HELLO) -> None:
    """One connection to a door."""

    async def run() -> None:
        door = Doorman()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: H2Connection(door), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            async with asyncio.timeout(10):
                client = Client(reader, writer, door)
                client.say(hello)
                await work(client)
        finally:
            writer.close()
            server.close()
            door.server.stop()
            await asyncio.sleep(0)

    asyncio.run(run())


def test_a_call_is_answered_and_the_same_head_is_found_by_its_bytes() -> None:
    async def work(client: Client) -> None:
        for stream in (1, 3, 5, 7):
            client.say(client.head(stream), body(b"hello %d" % stream, stream))
            fields, data = await client.answer(stream)
            assert (fields[":status"], fields["grpc-status"]) == ("200", "0")
            assert data == b"\0\0\0\0\x07hello %d" % stream

    talk(work)


def test_frames_may_come_byte_by_byte() -> None:
    async def work(client: Client) -> None:
        for byte in HELLO + client.head(1) + body(b"slow"):
            client.say(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer())[1][5:] == b"slow"

    talk(work, b"")


def test_a_message_in_many_padded_frames_and_a_head_in_many_fragments() -> None:
    async def work(client: Client) -> None:
        block = client.head(1, ("x", "y" * 100))[9:]
        client.say(frame(h2.HEADERS, 0x08 | 0x20, 1, b"\x03" + b"\0" * 5 + block[:10] + b"\0" * 3))
        client.say(*(frame(h2.CONTINUATION, 0, 1, block[at : at + 20]) for at in range(10, len(block), 20)))
        client.say(frame(h2.CONTINUATION, 4, 1))
        message = b"\0" + number(1000) + b"m" * 1000
        client.say(*(frame(h2.DATA, 8, 1, b"\x02" + message[at : at + 7] + b"\0\0") for at in range(0, 1005, 7)))
        client.say(frame(h2.DATA, 1, 1))
        assert (await client.answer())[1][5:] == b"m" * 1000

    talk(work)


def test_answers_wait_for_the_windows_of_the_client() -> None:
    async def work(client: Client) -> None:
        client.say(frame(h2.SETTINGS, 0, 0, b"\0\x04" + number(10)), client.head(1), body(b"0123456789" * 2))
        found = b""
        while len(found) < 25:
            kind, _, _, payload = await client.frame()
            if kind == h2.DATA:
                assert len(payload) <= 10
                found += payload
                client.say(frame(h2.WINDOW_UPDATE, 0, 1, number(len(payload))))
        assert found[5:] == b"0123456789" * 2
        assert (await client.answer())[0]["grpc-status"] == "0"

    talk(work)


def test_large_messages_are_split_both_ways_and_their_windows_given_back() -> None:
    async def work(client: Client) -> None:
        client.say(frame(h2.SETTINGS, 0, 0, b"\0\x04" + number(2**31 - 1)))
        client.say(frame(h2.WINDOW_UPDATE, 0, 0, number(2**30)))
        for stream in range(1, 60, 2):  # more than the connection's window
            large = b"\0" + number(250_000) + b"z" * 250_000
            client.say(client.head(stream))
            client.say(*(frame(h2.DATA, 0, stream, large[at : at + 16_384]) for at in range(0, len(large), 16_384)))
            client.say(frame(h2.DATA, 1, stream))
            assert (await client.answer(stream))[1] == large

    talk(work)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_packed_messages_are_read_and_large_answers_are_packed_likewise(coding: str) -> None:
    import zlib

    pack, unpack = (gzip.compress, gzip.decompress) if coding == "gzip" else (zlib.compress, zlib.decompress)

    async def work(client: Client) -> None:
        text = b"again " * 20_000
        client.say(client.head(1, ("grpc-encoding", coding)), body(pack(text), flag=1))
        fields, data = await client.answer()
        assert fields["grpc-encoding"] == coding
        assert data[0] == 1
        assert unpack(data[5:]) == text
        client.say(client.head(3, ("grpc-encoding", coding)), body(pack(b"q" * 2_000_000), 3, flag=1))
        assert (await client.answer(3))[0]["grpc-status"] == "8"
        client.say(client.head(5, ("grpc-encoding", coding)), body(b"junk", 5, flag=1))
        assert (await client.answer(5))[0]["grpc-status"] == "13"

    talk(work)


@pytest.mark.parametrize(
    ("more", "message", "status"),
    [
        ((), b"\x01\0\0\0\0", "13"),
        ((("grpc-encoding", "snappy"),), b"\x01\0\0\0\0", "12"),
        ((), b"\0\xff\xff\xff\xff", "8"),
        ((), b"\0\0\0\0\x09abc", "13"),
        ((), b"", "13"),
        ((), b"\0\0\0\0\0\0\0\0\0\0", "13"),
    ],
)
def test_messages_that_are_none_end_their_call_alone(more: Any, message: bytes, status: str) -> None:
    async def work(client: Client) -> None:
        client.door.hold = True
        client.say(client.head(1, *more), frame(h2.DATA, 1, 1, message))
        assert (await client.answer())[0]["grpc-status"] == status
        client.door.hold = False
        client.say(client.head(3), body(b"well", 3))
        assert (await client.answer(3))[1][5:] == b"well"

    talk(work)


def test_a_call_that_is_taken_back_is_not_computed() -> None:
    async def work(client: Client) -> None:
        client.door.hold = True
        client.say(client.head(1), body(b"x"), frame(h2.RST_STREAM, 0, 1, number(h2.CANCEL)))
        client.say(frame(h2.PING, 0, 0, b"12345678"))
        while (await client.frame())[0] != h2.PING:
            pass
        assert client.door.cancelled == [1]
        client.door.held[0].reply(200, b"too late")
        client.say(client.head(3), body(b"x", 3))
        client.door.hold = False

    talk(work)


def test_a_stream_is_read_while_it_is_answered() -> None:
    async def work(client: Client) -> None:
        client.say(client.head(1, path="/s/stream"), body(b"a", flags=0), body(b"b", flags=0))
        found = b""
        while not found.endswith(b"b"):
            kind, _, _, payload = await client.frame()
            found += payload if kind == h2.DATA else b""
        client.say(frame(h2.DATA, 1, 1))
        assert (await client.answer())[0]["grpc-status"] == "0"

    talk(work)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (frame(h2.DATA, 0, 1, b"x"), h2.PROTOCOL_ERROR),
        (frame(h2.DATA, 0, 0, b"x"), h2.PROTOCOL_ERROR),
        (frame(h2.HEADERS, 4, 2, b"\x83"), h2.PROTOCOL_ERROR),
        (frame(h2.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), h2.COMPRESSION_ERROR),
        (frame(h2.HEADERS, 4, 1, b"\xbe"), h2.COMPRESSION_ERROR),
        (frame(h2.HEADERS, 12, 1, b"\xff\x83"), h2.PROTOCOL_ERROR),
        (frame(h2.HEADERS, 0, 1, b"\x83") + SETTINGS, h2.PROTOCOL_ERROR),
        (frame(h2.HEADERS, 0, 1, b"\x83") + frame(h2.CONTINUATION, 4, 3), h2.PROTOCOL_ERROR),
        (frame(h2.HEADERS, 0, 1) + frame(h2.CONTINUATION, 0, 1) * 100, h2.ENHANCE_YOUR_CALM),
        (frame(h2.HEADERS, 0, 1) + frame(h2.CONTINUATION, 0, 1, b"\0" * 16_000) * 3, h2.ENHANCE_YOUR_CALM),
        (frame(h2.CONTINUATION, 4, 1), h2.PROTOCOL_ERROR),
        (frame(h2.PUSH_PROMISE, 4, 1), h2.PROTOCOL_ERROR),
        (frame(h2.RST_STREAM, 0, 1, number(8)), h2.PROTOCOL_ERROR),
        (frame(h2.PING, 0, 0, b"short"), h2.FRAME_SIZE_ERROR),
        (frame(h2.SETTINGS, 0, 0, b"odd"), h2.FRAME_SIZE_ERROR),
        (frame(h2.SETTINGS, 0, 1), h2.PROTOCOL_ERROR),
        (frame(h2.SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"), h2.FLOW_CONTROL_ERROR),
        (frame(h2.WINDOW_UPDATE, 0, 0, number(0)), h2.PROTOCOL_ERROR),
        (frame(h2.WINDOW_UPDATE, 0, 0, number(2**31 - 1)), h2.FLOW_CONTROL_ERROR),
        (frame(h2.WINDOW_UPDATE, 0, 0, b""), h2.FRAME_SIZE_ERROR),
        (b"\x00\x40\x01\0\0\0\0\0\x01", h2.FRAME_SIZE_ERROR),
        (frame(h2.PING, 0, 0, b"flooding") * 2_500, h2.ENHANCE_YOUR_CALM),
        (SETTINGS * 2_500, h2.ENHANCE_YOUR_CALM),
        (frame(h2.PRIORITY, 0, 1, b"\0" * 5) * 2_500, h2.ENHANCE_YOUR_CALM),
        (frame(99, 0, 0) * 2_500, h2.ENHANCE_YOUR_CALM),
    ],
)
def test_what_breaks_the_protocol_or_our_patience_ends_the_connection_with_its_code(said: bytes, code: int) -> None:
    async def work(client: Client) -> None:
        client.say(said)
        assert (await client.goodbye())[0] == code

    talk(work)


def test_calls_taken_back_by_the_hundreds_end_the_connection() -> None:
    async def work(client: Client) -> None:
        client.door.hold = True
        for stream in range(1, 1300, 2):
            client.say(client.head(stream), frame(h2.RST_STREAM, 0, stream, number(h2.CANCEL)))
        code, why = await client.goodbye()
        assert (code, why) == (h2.ENHANCE_YOUR_CALM, "too many calls are begun and taken back")

    talk(work)


def test_headers_beyond_the_limit_are_refused() -> None:
    async def work(client: Client) -> None:
        block = client.encoder.encode([*CALL, *((f"x{n}", "y" * 100) for n in range(200))])
        pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
        client.say(frame(h2.HEADERS, 0, 1, pieces[0]))
        client.say(*(frame(h2.CONTINUATION, 4 if piece is pieces[-1] else 0, 1, piece) for piece in pieces[1:]))
        assert (await client.goodbye())[0] == h2.ENHANCE_YOUR_CALM

    talk(work)


def test_more_streams_than_allowed_are_refused_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2_wire, "MAX_STREAMS", 2)

    async def work(client: Client) -> None:
        client.door.hold = True
        for stream in (1, 3, 5):
            client.say(client.head(stream), body(b"x", stream))
        assert (await client.answer(5))[0] == {"reset": str(h2.REFUSED_STREAM)}
        for held in client.door.held:
            held.reply(200, b"")
        assert (await client.answer(3))[0]["grpc-status"] == "0"

    talk(work)


@pytest.mark.parametrize(
    "more", [{"drop": ":path"}, {"more": ("connection", "close")}, {"more": (":path", "/again")}, {"more": ("Up", "x")}]
)
def test_malformed_heads_reset_their_stream_alone(more: Any) -> None:
    async def work(client: Client) -> None:
        extra = [more["more"]] if "more" in more else []
        client.say(client.head(1, *extra, drop=more.get("drop", "")))
        assert (await client.answer())[0] == {"reset": str(h2.PROTOCOL_ERROR)}
        client.say(client.head(3), body(b"well", 3))
        assert (await client.answer(3))[1][5:] == b"well"

    talk(work)


def test_who_takes_no_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(client: Client) -> None:
        client.say(frame(h2.SETTINGS, 0, 0, b"\0\x04" + number(0)), client.head(1), body(b"x"))
        while (await client.frame())[0] != h2.HEADERS:
            pass
        server = client.door.server
        (connection,) = server.connections
        connection.check(server.now() + server.limits.write + 1)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.frame()

    talk(work)


def test_a_message_that_never_ends_is_given_up() -> None:
    async def work(client: Client) -> None:
        client.say(client.head(1), frame(h2.DATA, 0, 1, b"\0\0\0"), frame(h2.PING, 0, 0, b"12345678"))
        while (await client.frame())[0] != h2.PING:
            pass
        server = client.door.server
        (connection,) = server.connections
        connection.check(server.now())
        connection.check(server.now() + server.limits.request + 1)
        assert (await client.answer())[0]["grpc-status"] == "8"

    talk(work)


def test_a_drain_says_goodbye_and_answers_what_is_under_way() -> None:
    async def work(client: Client) -> None:
        client.door.hold = True
        client.say(client.head(1), body(b"x"))
        while not client.door.held:  # noqa: ASYNC110  there is nothing to wait on
            await asyncio.sleep(0.001)
        draining = asyncio.create_task(client.door.server.drain(5))
        while (await client.frame())[0] != h2.GOAWAY:
            pass
        client.say(client.head(3), body(b"new", 3))
        assert (await client.answer(3))[0] == {"reset": str(h2.REFUSED_STREAM)}
        client.door.held[0].reply(200, b"last")
        assert (await client.answer())[1][5:] == b"last"
        assert await client.reader.read() == b""
        assert await draining

    talk(work)


def test_a_client_of_http_1_is_told_where_it_is() -> None:
    async def work(client: Client) -> None:
        said = await client.reader.read()
        assert b"HTTP/1.1 400 " in said
        assert b"this port speaks gRPC" in said

    talk(work, b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")


def test_a_preface_that_is_none_ends_the_connection() -> None:
    async def work(client: Client) -> None:
        assert (await client.goodbye())[0] == h2.PROTOCOL_ERROR

    talk(work, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")


def test_frames_of_random_bytes_never_break_the_door() -> None:
    async def work(client: Client) -> None:
        rng = random.Random(7)
        address = client.writer.get_extra_info("peername")
        for _ in range(150):
            frames = [
                frame(
                    rng.randrange(12),
                    rng.choice([0, 1, 4, 5, 8, 32, 255]),
                    rng.randrange(6),
                    rng.randbytes(rng.randrange(40)),
                )
                for _ in range(rng.randint(1, 8))
            ]
            with socket.create_connection(address[:2]) as link:
                link.sendall(HELLO + client_head + b"".join(frames) + rng.randbytes(rng.randrange(30)))
            await asyncio.sleep(0)
        client.say(client.head(1), body(b"well"))
        assert (await client.answer())[1][5:] == b"well"

    client_head = frame(h2.HEADERS, 4, 1, Encoder().encode(CALL))
    talk(work)


_FIELDS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "grpc-timeout", "k"]), st.text("xyz9S", max_size=140)), max_size=4
)


@given(st.lists(_FIELDS, min_size=1, max_size=12), st.booleans())
def test_heads_found_by_their_bytes_are_what_a_decoder_says(calls: list[Any], huffman: bool) -> None:
    encoder, plain, heads = Encoder(), Decoder(), CallHeads()
    for fields in calls:
        for _ in range(3):
            block = encoder.encode([*CALL, *(("retinue-key", value) for _, value in fields), *fields], huffman=huffman)
            said = dict(plain.decode(block, raw=True))
            assert heads.read(block).key == said.get(b"retinue-key")


def test_a_block_that_changes_the_table_is_told_from_one_that_does_not() -> None:
    encoder = Encoder()
    first, second = (encoder.encode(CALL) for _ in range(2))
    assert (settled(first), settled(second)) == (False, True)
    with pytest.raises(Broken):
        CallHeads().read(second)  # of another connection: here it names nothing
    assert h2_connection.CALM < 2_500
