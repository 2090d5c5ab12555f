"""The messages of the gRPC door, made when they are first asked for from the descriptors that `make proto` compiled.

They live in a descriptor pool of their own, so a process may hold a client's or another server's `inference` package
beside ours; and as no code is generated, any protobuf runtime from 5.29 on will do.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

DESCRIPTORS = Path(__file__).parent / "proto" / "descriptors.bin"


@cache
def message(name: str) -> Any:
    """The class of a message of package `inference`, or of another one by its full name."""
    from google.protobuf import message_factory

    full = name if "." in name else f"inference.{name}"
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
    return pool
