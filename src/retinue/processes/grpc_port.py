"""What the gRPC door needs to be installed."""

from __future__ import annotations

import importlib.util

from retinue.core.errors import UsageError


def require_grpc() -> None:
    """Raises UsageError without the packages of gRPC."""
    if not all(map(_installed, ("hpack", "google.protobuf"))):
        raise UsageError(
            "[serve] grpc_port is set, but gRPC is not installed",
            hint="Install it with `pip install retinue[grpc]`, or remove grpc_port.",
        )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent is not
        return False
