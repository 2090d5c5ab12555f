"""Requests that are wrong in every way that we could think of, from a generator: the same seed, the same requests."""

# ruff: noqa: E501  what is tried reads better as tables

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("http", "json", "tensor")

Random = random.Random


@dataclass(frozen=True, slots=True)
class Mutant:
    """One connection's bytes, sent in these parts. `head`: an answer to HEAD may be among the answers."""

    parts: tuple[bytes, ...]
    kind: str
    head: bool = False


def mutants(rng: Random, kinds: Sequence[str]) -> Iterator[Mutant]:
    """Endlessly many."""
    makers: dict[str, Callable[[Random], bytes]] = {"http": _http, "json": _json, "tensor": _tensor}
    while True:
        kind = rng.choice(kinds)
        count = 1 if rng.random() < 0.7 else rng.randint(2, 5)
        data = b"".join(makers[kind](rng) for _ in range(count))
        if rng.random() < 0.25:
            data = spoil_bytes(rng, data)
        if rng.random() < 0.05:
            data = data[: rng.randrange(len(data) + 1)]  # then half-closed
        parts = _drops(rng, data) if rng.random() < 0.03 else (data,)
        yield Mutant(parts, kind, b"HEAD" in data)


# ------------------------------------------------------------------------------------------------------- whole texts
def _post(path: bytes, body: bytes, *fields: bytes) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: fuzz", *fields, b"content-length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", b""]) + body


def _valid(rng: Random) -> bytes:
    """A request with nothing wrong."""
    kind = rng.randrange(6)
    if kind == 0:
        path = rng.choice([b"/v2", b"/v2/models", b"/v2/health/ready", b"/v2/models/wide", b"/openapi.json"])
        return b"GET " + path + b" HTTP/1.1\r\nhost: fuzz\r\n\r\n"
    if kind == 1:
        body = _document(rng)
        squeezed = gzip.compress(body) if rng.random() < 0.5 else zlib.compress(body)
        return _post(b"/predict/two", squeezed, b"content-encoding: " + (b"gzip" if squeezed[0] == 31 else b"deflate"))
    if kind == 2:
        body = _document(rng)
        return b"POST /predict/two HTTP/1.1\r\nhost: fuzz\r\ntransfer-encoding: chunked\r\n\r\n" + _chunks(rng, body)
    if kind == 3:
        return _infer_binary(rng, wrong=False)
    return _post(b"/predict/" + rng.choice([b"two", b"pick", b"wide"]), _document(rng))


def _document(rng: Random) -> bytes:
    rows = [{"x": round(rng.random(), 3), "k": rng.choice("abc")} for _ in range(rng.randint(1, 3))]
    return json.dumps({"rows": rows}).encode()


def _chunks(rng: Random, body: bytes) -> bytes:
    parts = []
    while body:
        size = rng.randint(1, len(body))
        extension = rng.choice([b"", b"", b";a=b", b';q="\\""'])
        parts.append(b"%x%s\r\n%s\r\n" % (size, extension, body[:size]))
        body = body[size:]
    trailer = rng.choice([b"", b"", b"x-trailer: 1\r\n"])
    return b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


# -------------------------------------------------------------------------------------------------------------- bytes
def spoil_bytes(rng: Random, data: bytes) -> bytes:
    """Bytes flipped, cut, doubled, moved, put in."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not out:
            break
        at = rng.randrange(len(out))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice(b'\0\r\n\t :;,{}[]"\\\xff\x80019')
            case 2:
                del out[at : at + rng.randint(1, 16)]
            case 3:
                out[at:at] = out[at : at + rng.randint(1, 64)]
            case 4:
                out[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
            case _:
                stop = at + rng.randint(1, 32)
                piece = out[at:stop]
                del out[at:stop]
                other = rng.randrange(len(out) + 1)
                out[other:other] = piece
    return bytes(out)


def _drops(rng: Random, data: bytes) -> tuple[bytes, ...]:
    size = rng.randint(1, 16)
    data = data[: 40 * size]
    return tuple(data[at : at + size] for at in range(0, len(data), size)) or (b"",)


# --------------------------------------------------------------------------------------------------------------- HTTP
_FIELDS = (
    b"content-length: 0", b"content-length: 5", b"content-length: -1", b"content-length: +5", b"content-length: 0x10",
    b"content-length: 5, 5", b"content-length: 5, 6", b"content-length: 99999999999999999999", b"content-length:",
    b"content-length: 1e3", b"content-length: 5 5", b"Content-Length : 5", b"content-length:\t5",
    b"transfer-encoding: chunked", b"transfer-encoding: identity", b"transfer-encoding: gzip, chunked",
    b"transfer-encoding: chunked, chunked", b"transfer-encoding: xchunked", b"transfer-encoding:\x0bchunked",
    b"Transfer-Encoding : chunked", b"transfer-encoding: chunked\r\n , identity", b"te: trailers",
    b"host: other", b"host:", b"host: a, b", b"host: evil/../x", b"connection: close", b"connection: upgrade",
    b"upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA", b"upgrade: websocket", b"expect: 100-continue",
    b"expect: 200-ok", b"content-encoding: gzip", b"content-encoding: deflate", b"content-encoding: br",
    b"content-encoding: gzip, gzip", b"content-encoding: identity", b"content-encoding: x" * 3,
    b"content-type: text/plain", b"content-type: application/json; charset=utf-16", b"accept: image/png",
    b"accept-encoding: gzip;q=0, *;q=0", b"authorization: Bearer ", b"authorization: Basic eA==", b"retinue-key: \xff",
    b"x: a\r\n folded", b" leading: space", b"no colon here", b": no name", b"na me: x", b"n\0ul: x", b"x: \0",
    b"x: \xe4\xf6", b"x:" + b"y" * 5000, b"traceparent: 00-zz-11-01", b"inference-header-content-length: 7",
    b"inference-header-content-length: -1", b"inference-header-content-length: 99999999999", b"range: bytes=0-1",
    b"x: y\nsmuggled: 1", b"x: y\rsmuggled: 1", b"",
)  # fmt: skip
_LINES = (
    b"GET / HTTP/1.1", b"GET http://other/v2 HTTP/1.1", b"GET //v2 HTTP/1.1", b"GET /v2?a=%zz HTTP/1.1", b"GET /%ff HTTP/1.1",
    b"GET /predict/two HTTP/1.1", b"PUT /predict/two HTTP/1.1", b"OPTIONS * HTTP/1.1", b"CONNECT a:1 HTTP/1.1",
    b"TRACE / HTTP/1.1", b"HEAD /v2 HTTP/1.1", b"DELETE /v2/models/two HTTP/1.1", b"BREW /v2 HTTP/1.1",
    b"POST /predict/two HTTP/1.0", b"POST /predict/two HTTP/2.0", b"POST /predict/two HTTP/1.2", b"POST /predict/two HTTP/0.9",
    b"POST /predict/two", b"POST  /predict/two HTTP/1.1", b"POST /predict/two  HTTP/1.1", b"POST\t/predict/two\tHTTP/1.1",
    b"post /predict/two HTTP/1.1", b"POST /predict/two HTTP/1.1 ", b"\r\nPOST /predict/two HTTP/1.1", b"\0", b"PRI * HTTP/2.0",
    b"POST /predict/no%20such%00model HTTP/1.1", b"POST /predict/" + b"a" * 4000 + b" HTTP/1.1",
    b"POST /v2/models/two/infer HTTP/1.1", b"POST /v2/models/two/versions/9/infer HTTP/1.1", b"POST /predict/../v2 HTTP/1.1",
    b"GET /v2/models/%74wo HTTP/1.1", b"POST /v2/repository/models/two/load HTTP/1.1", b"POST /v2/repository/index HTTP/1.1",
    b"GET /v2/models/two/stats HTTP/1.1", b"GET /v2/models/two/config HTTP/1.1", b"GET /metrics HTTP/1.1",
    b"POST /feedback HTTP/1.1", b"SSH-2.0-x", b"\x16\x03\x01\x02\x00\x01\x00",
)  # fmt: skip


def _http(rng: Random) -> bytes:
    """Framing: lines and fields of a valid request changed, added, repeated, taken away."""
    head, _, body = _valid(rng).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for _ in range(rng.choice([1, 1, 2, 3])):
        match rng.randrange(5):
            case 0:
                lines.insert(rng.randint(1, len(lines)), rng.choice(_FIELDS))
            case 1:
                lines[0] = rng.choice(_LINES)
            case 2:
                if len(lines) > 1:
                    del lines[rng.randrange(1, len(lines))]
            case 3:
                lines.append(rng.choice(lines))
            case _:
                body = _chunks(rng, body) if rng.random() < 0.5 else _bad_chunks(rng, body)
                lines.append(b"transfer-encoding: chunked")
    ending = rng.choice([b"\r\n"] * 6 + [b"\n", b"\r", b"\r\r\n", b"\n\r"])
    return ending.join(lines) + ending * 2 + body


def _bad_chunks(rng: Random, body: bytes) -> bytes:
    sizes = [b"%x" % len(body), b"%X " % len(body), b"0x5", b"-1", b"+5", b"", b"fffffffffffffffff", b"5;" + b"x" * 9000,
             b"05", b"5\n", b"g", b"1_0"]  # fmt: skip
    parts = [rng.choice(sizes) + b"\r\n" + body + rng.choice([b"\r\n", b"\n", b"", b"xx"])]
    return b"".join(parts) + rng.choice(
        [b"0\r\n\r\n", b"0\r\n", b"00\r\n\r\n", b"0\r\nhost: x\r\ncontent-length: 3\r\n\r\n"]
    )


# --------------------------------------------------------------------------------------------------------------- JSON
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 1e308, -0.0, 5e-324, "", "a", "1", "NaN", "\0",
    "\ud800", "é" * 50, "x" * 5000, [], {}, [[]], [None], {"x": {}}, {"": ""}, [1, "a", None], [[1, 2], [3]],
)  # fmt: skip
_TOKENS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"01", b"1.", b".5", b"0x1", b"'a'", b"undefined",
           b"[" * 2000, b'{"a":' * 500, b"1" * 400, b"\xef\xbb\xbf", b'"\\ud800"', b'"\xff"', b"/**/", b",", b"")  # fmt: skip


def _json(rng: Random) -> bytes:
    """Values of a valid document replaced by others, and texts that are no JSON."""
    if rng.random() < 0.5:
        path = b"/predict/" + rng.choice([b"two", b"pick", b"wide", b"word"])
        document: Any = {"rows": [_row(rng) for _ in range(rng.randint(1, 4))]} if rng.random() < 0.8 else _row(rng)
    else:
        name = rng.choice(["two", "pick", "wide", "word"])
        path = f"/v2/models/{name}/infer".encode()
        document = _infer(rng, name)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        document = _spoil(rng, document)
    body = json.dumps(document, allow_nan=True).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15 and body:
        at = rng.randrange(len(body))
        body = body[:at] + rng.choice(_TOKENS) + body[at + rng.randrange(3) :]
    return _post(path, body)


def _row(rng: Random) -> dict[str, Any]:
    full = {"x": rng.random(), "k": rng.choice("ab"), "text": "t", "count": rng.randrange(9), "flag": True}
    full |= {f"f{n}": rng.random() for n in range(5)}
    return {name: value for name, value in full.items() if rng.random() < 0.9}


def _infer(rng: Random, name: str) -> dict[str, Any]:
    n = rng.choice([1, 1, 2, 5])
    every: dict[str, dict[str, tuple[str, list[Any]]]] = {
        "two": {"x": ("FP64", [rng.random()] * n)},
        "pick": {"x": ("FP32", [1.5] * n), "k": ("BYTES", ["a"] * n)},
        "wide": {f"f{m}": ("FP64", [0.5] * n) for m in range(5)},
        "word": {"text": ("BYTES", ["é"] * n), "count": ("INT64", [3] * n), "flag": ("BOOL", [True] * n)},
    }
    columns = every[name]
    inputs = [{"name": key, "shape": [n], "datatype": kind, "data": data} for key, (kind, data) in columns.items()]
    document: dict[str, Any] = {"inputs": inputs, "id": "i"}
    if rng.random() < 0.3:
        keys = ["priority", "timeout", "binary_data_output", "sequence_id", "content_type", "classification"]
        document["parameters"] = {rng.choice(keys): rng.choice(_VALUES)}
    if rng.random() < 0.3:
        document["outputs"] = [
            {"name": rng.choice(["y", "echo", "none"]), "parameters": {"classification": rng.choice(_VALUES)}}
        ]
    return document


def _spoil(rng: Random, value: Any) -> Any:
    """One place of a document changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, rng.choice(["x", "inputs", "rows", "\0", "shape", "parameters"]): rng.choice(_VALUES)}
            case _:
                return {**value, key: _spoil(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value + [value[at]] * rng.choice([1, 2, 50])
            case _:
                return [*value[:at], _spoil(rng, value[at]), *value[at + 1 :]]
    return rng.choice(_VALUES)


# ------------------------------------------------------------------------------------------------------------- tensors
_TYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16",
          "BYTES", "STRING", "", "fp32", 7, None)  # fmt: skip
_SIZES = {
    "BOOL": 1,
    "UINT8": 1,
    "INT8": 1,
    "UINT16": 2,
    "INT16": 2,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "INT32": 4,
    "UINT32": 4,
}
_SHAPES: tuple[Any, ...] = ([0], [1], [2], [1, 1], [2, 1], [1, 5], [3, 5], [-1], [2**31], [2**40, 2**40], [1.0], ["1"], [], None,
                            [1, 1, 1], [True], [[1]], 5)  # fmt: skip


def _tensor(rng: Random) -> bytes:
    """Binary tensors whose shapes, types, lengths and headers do not fit each other."""
    return _infer_binary(rng, wrong=rng.random() < 0.9)


def _infer_binary(rng: Random, *, wrong: bool) -> bytes:
    name = rng.choice(["two", "wide", "word"])
    n = rng.choice([1, 2, 7])
    made = [_binary_input(rng, key, kind, n, wrong) for key, kind in _binary_columns(name)]
    inputs = [entry for entry, _ in made]
    payload = b"".join(data for _, data in made)
    document: Any = {"inputs": inputs}
    if rng.random() < 0.6:
        document["parameters"] = {"binary_data_output": rng.random() < 0.8}
    if wrong and rng.random() < 0.3:
        document = _spoil(rng, document)
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    length: Any = len(text)
    if wrong and rng.random() < 0.15:
        length = rng.choice([0, 1, length + 1, length - 1, length + len(payload) + 1, -1, 2**64, "x", ""])
    if wrong and rng.random() < 0.1:
        payload = payload[: rng.randrange(len(payload) + 1)] + rng.choice([b"", b"extra"])
    field = f"inference-header-content-length: {length}".encode()
    return _post(f"/v2/models/{name}/infer".encode(), text + payload, *([field] if rng.random() < 0.97 else []))


def _binary_input(rng: Random, key: str, kind: Any, n: int, wrong: bool) -> tuple[dict[str, Any], bytes]:
    """One input and its bytes."""
    kind = rng.choice(_TYPES) if wrong and rng.random() < 0.3 else kind
    data = _payload(rng, kind, n)
    if wrong and rng.random() < 0.2:
        data = spoil_bytes(rng, data) if data else b"\0"
    size: Any = len(data)
    if wrong and rng.random() < 0.2:
        size = rng.choice([0, 1, size + 1, size - 1, -1, 2**31, 2**63, "4", None, 1.5, True])
    shape: Any = rng.choice(_SHAPES) if wrong and rng.random() < 0.25 else [n, 5] if key == "packed" else [n]
    entry = {"name": key, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": size}}
    if wrong and rng.random() < 0.1:
        entry["data"] = rng.choice(_VALUES)
    return entry, data


def _binary_columns(name: str) -> list[tuple[str, Any]]:
    if name == "word":
        return [("text", "BYTES"), ("count", "INT64"), ("flag", "BOOL")]
    return [("x", "FP64")] if name == "two" else [("packed", "FP64")]


def _payload(rng: Random, kind: Any, n: int) -> bytes:
    if kind == "BYTES":
        texts = [rng.choice([b"", b"t", "é".encode(), b"\xff", b"long" * 50]) for _ in range(n)]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return bytes(rng.randrange(2) for _ in range(_SIZES.get(kind, 8) * n * rng.choice([1, 5])))
