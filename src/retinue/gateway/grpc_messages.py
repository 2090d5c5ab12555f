"""The messages of the gRPC door, made at import from the descriptors that `make proto` compiled.

They live in a descriptor pool of their own, so a process may hold a client's or another server's `inference` package
beside ours; and as no code is generated, any protobuf runtime from 5.29 on will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DESCRIPTORS = Path(__file__).parent / "proto" / "descriptors.bin"


def _messages() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
    for file in files:
        pool.Add(file)
    found = {f"{file.package}.{message.name}" for file in files for message in file.message_type}
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in found}


_found = _messages()


def message(name: str) -> Any:
    """The class of a message of package `inference`, or of another one by its full name."""
    return _found.get(f"inference.{name}") or _found[name]


ModelInferRequest: Any = message("ModelInferRequest")
ModelInferResponse: Any = message("ModelInferResponse")
ModelStreamInferResponse: Any = message("ModelStreamInferResponse")
HealthCheckRequest: Any = message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse: Any = message("grpc.health.v1.HealthCheckResponse")
