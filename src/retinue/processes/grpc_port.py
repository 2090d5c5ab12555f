"""The port of gRPC: reserved by the supervisor, listened on by each gateway with SO_REUSEPORT.

grpcio takes no socket that another process has opened, so gateways open their own; a socket that is bound and does not
listen keeps the port ours while they come and go.
"""

from __future__ import annotations

import importlib.util
import socket

from retinue.core.errors import UnavailableError, UsageError

_CHANGE = "set [serve] grpc_port in retinue.toml (RETINUE_GRPC_PORT)."


def reserve_grpc(host: str, port: int) -> socket.socket:
    """A socket that holds the port (0: one the system chooses) for gateways to share.

    Raises UsageError without the packages of gRPC, UnavailableError when the port is taken.
    """
    if not all(map(_installed, ("grpc", "google.protobuf"))):
        raise UsageError(
            "[serve] grpc_port is set, but gRPC is not installed",
            hint="Install it with `pip install retinue[grpc]`, or remove grpc_port.",
        )
    held: socket.socket | None = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.create_server(address[:2], family=family) as trial:  # would share a port that others share too
            port = trial.getsockname()[1]
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((address[0], port))
    except OSError as error:
        if held is not None:
            held.close()
        raise UnavailableError(
            f"cannot listen on {host}:{port} for gRPC: {error.strerror or error}",
            hint=f"Stop what uses it, or {_CHANGE}",
        ) from error
    return held


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent is not
        return False
