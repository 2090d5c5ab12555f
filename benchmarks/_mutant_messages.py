"""gRPC calls whose messages are wrong, and bytes that are no HTTP/2, from a generator: same seed, same calls."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from typing import Any

from benchmarks._mutants import spoil_bytes

SERVICE = "/inference.GRPCInferenceService/"
ALLOWED = frozenset(
    {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED",
     "FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED", "CANCELLED", "OUT_OF_RANGE"}
)  # fmt: skip
"""Documented codes; INTERNAL and UNKNOWN are not among them."""
_MODEL = ("Ready", "Metadata", "Config", "Statistics")
_METHODS = (
    *("ServerLive", "ServerReady", "ServerMetadata", "NoSuchMethod"),
    *(f"Model{name}" for name in _MODEL),
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
)


def fuzz_messages(port: int, calls: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Call so often; what the codes were, and what broke a promise."""
    import grpc

    rng = random.Random(seed)
    codes: Counter[str] = Counter()
    broken: list[str] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for number in range(calls):
            if len(broken) >= 5:
                break
            method, data = _call(rng)
            if number % 50 == 0:
                _no_http2(port, rng)
            try:
                code = _send(channel, method, data)
            except grpc.RpcError as error:
                code = str(error.code().name)
                if code not in ALLOWED:
                    broken.append(f"grpc #{number}: {method}: {code}: {error.details()}\n    {data!r}"[:3000])
            codes[code] += 1
            if number % 50 == 0 and (wrong := _canary(channel)):
                broken.append(f"grpc after #{number}: {wrong}\n    {method} {data!r}"[:3000])
    return codes, broken


def _send(channel: Any, method: str, data: bytes) -> str:
    if method == "ModelStreamInfer":
        for _ in channel.stream_stream(SERVICE + method)(iter([data, data[::-1], data]), timeout=10):
            pass
    else:
        channel.unary_unary(SERVICE + method)(data, timeout=10)
    return "OK"


def _canary(channel: Any) -> str:
    """ "" or what was wrong with the answer to a right call."""
    import grpc

    request = _request(random.Random(0), "two", wrong=False)
    try:
        data = channel.unary_unary(SERVICE + "ModelInfer")(request.SerializeToString(), timeout=10)
    except grpc.RpcError as error:
        return f"the canary was answered {error.code().name}: {error.details()}"
    from retinue.gateway.grpc_messages import message

    found = message("ModelInferResponse").FromString(data)
    return "" if found.raw_output_contents and found.model_name == "two" else f"the canary was answered {found}"


def _call(rng: random.Random) -> tuple[str, bytes]:
    if rng.random() < 0.2:
        from retinue.gateway.grpc_messages import message

        request = message("ModelMetadataRequest")(name=rng.choice(["two", "none", "", "\0"]))
        return rng.choice(_METHODS), _maybe_spoilt(rng, request.SerializeToString())
    name = rng.choice(["two", "pick", "wide", "word", "none"])
    data = _request(rng, name, wrong=rng.random() < 0.8).SerializeToString()
    return rng.choice(["ModelInfer", "ModelInfer", "ModelInfer", "ModelStreamInfer"]), _maybe_spoilt(rng, data)


def _maybe_spoilt(rng: random.Random, data: bytes) -> bytes:
    return spoil_bytes(rng, data) if rng.random() < 0.4 else data


def _request(rng: random.Random, name: str, *, wrong: bool) -> Any:
    from retinue.gateway.grpc_messages import message

    request = message("ModelInferRequest")(model_name=name, id="i")
    n = rng.choice([1, 2, 5])
    columns = {"word": [("text", "BYTES"), ("count", "INT64"), ("flag", "BOOL")], "wide": [("packed", "FP64")]}
    raw = not wrong or rng.random() < 0.6
    for key, kind in columns.get(name, [("x", "FP64")]):
        entry = request.inputs.add(name=key, datatype=kind, shape=[n, 5] if key == "packed" else [n])
        if wrong and rng.random() < 0.2:
            entry.datatype = rng.choice(["FP16", "BF16", "UINT8", "BYTES", "", "nothing", "INT64"])
        if wrong and rng.random() < 0.2:
            entry.shape[:] = rng.choice([[], [0], [-1], [2**62, 4], [n, n, n], [n + 1]])
        if raw:
            data = _raw(rng, kind, n * (5 if key == "packed" else 1))
            request.raw_input_contents.append(spoil_bytes(rng, data) if wrong and rng.random() < 0.3 else data)
        if not raw or (wrong and rng.random() < 0.1):
            field = rng.choice(["fp64_contents", "fp32_contents", "int64_contents", "uint_contents", "bool_contents"])
            getattr(entry.contents, field).extend([1] * rng.choice([n, n, 0, n + 1]))
    if wrong and rng.random() < 0.2:
        key = rng.choice(["priority", "timeout", "binary_data_output", "sequence_id", "classification"])
        request.parameters[key].int64_param = rng.choice([-1, 0, 1, 2**62])
    if wrong and rng.random() < 0.2:
        request.outputs.add(name=rng.choice(["y", "echo", "none", ""]))
    return request


def _raw(rng: random.Random, kind: str, count: int) -> bytes:
    if kind == "BYTES":
        return b"".join(struct.pack("<I", 2) + b"ab" for _ in range(count))
    if kind == "FP64":
        return struct.pack(f"<{count}d", *(rng.random() for _ in range(count)))
    return bytes(rng.randrange(2) for _ in range(count * (1 if kind == "BOOL" else 8)))


def _no_http2(port: int, rng: random.Random) -> None:
    """Bytes that are no HTTP/2, or begin as such; whatever comes back, the next canary must be answered."""
    beginning = rng.choice(
        [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"]
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
        link.sendall(beginning + bytes(rng.randrange(256) for _ in range(rng.randint(1, 64))))
