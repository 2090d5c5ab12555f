"""`retinue serve`: owns the sockets and the admin port, keeps gateways alive until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from retinue.core.errors import UnavailableError
from retinue.gateway.admin import Admin
from retinue.gateway.fleet import PROGRAM
from retinue.gateway.http import HttpServer, Limits
from retinue.gateway.logs import check_log
from retinue.gateway.memory import machine
from retinue.gateway.record import RecordKeeper, ServeRecord
from retinue.gateway.tls import certificate_of
from retinue.gateway.tracing import check_telemetry
from retinue.processes.controller import Controller
from retinue.processes.grpc_port import require_grpc
from retinue.processes.supervisor import Supervisor
from retinue.settings import Settings, parse_memory


def serve(
    settings: Settings,
    portfolio: str,
    stage: str,
    *,
    host: str | None = None,
    port: int | None = None,
    announce: Callable[[str], None] | None = None,
) -> int:
    """Serve a stage until SIGTERM or SIGINT; returns the exit code, 0 after a graceful end.

    `announce` gets one line when all gateways answer (default: standard output). Port 0 lets the system choose.
    Raises UnavailableError when the port is taken or the stage is served already, UsageError for a certificate
    that cannot be used.
    """
    settings = replace(
        settings,
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        memory=str(parse_memory(settings.memory, machine())),  # once: a gateway that starts later finds less available
    )
    return asyncio.run(run_supervisor(settings, portfolio, stage, announce or _say))


async def run_supervisor(
    settings: Settings,
    portfolio: str,
    stage: str,
    announce: Callable[[str], None],
    program: Sequence[str] = PROGRAM,
) -> int:
    """Own the sockets, run the gateways, follow the release pointer; returns the exit code.

    `program` is what Python runs as a gateway.
    """
    certificate_of(settings)  # both refuse what no gateway could start with
    check_telemetry(settings)
    check_log(settings)
    keeper = RecordKeeper(settings.releases(portfolio, stage))
    with contextlib.ExitStack() as owned:
        owned.callback(keeper.close)
        listener = owned.enter_context(_listen(settings.host, settings.port, "port"))
        listeners = [listener]
        admin_socket = owned.enter_context(_listen("127.0.0.1", settings.admin_port, "admin_port"))
        if settings.grpc_port is not None:
            require_grpc()
            listeners.append(owned.enter_context(_listen(settings.host, settings.grpc_port, "grpc_port")))
            settings = replace(settings, grpc_port=listeners[1].getsockname()[1])
        supervisor = Supervisor(settings, portfolio, stage, listeners, program)
        owned.callback(supervisor.close)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stopping.set)
        admin = HttpServer(Admin(supervisor.fleet, supervisor.status), Limits(body=64 * 1024))
        server = await loop.create_server(admin.connection, sock=admin_socket)
        ports = (listener.getsockname()[1], admin_socket.getsockname()[1])
        controller = Controller(settings, portfolio, stage, lambda text: supervisor.log.say("controller", text))
        try:
            if settings.journal_enabled:
                controller.start()
            await _attend(supervisor, settings, ports, keeper, announce)
        finally:
            for each in listeners:
                each.close()
            await supervisor.fleet.stop(settings.request_timeout + 5)
            await controller.stop()
            server.close()
            admin.stop()
    return 0


async def _attend(
    supervisor: Supervisor,
    settings: Settings,
    ports: tuple[int, int],
    keeper: RecordKeeper,
    announce: Callable[[str], None],
) -> None:
    supervisor.read_pointer()  # gateways that join must know whether there is something to wait for
    for _ in range(max(1, settings.gateways)):
        await supervisor.fleet.start()
    watching = asyncio.create_task(supervisor.watch())
    polling = asyncio.create_task(supervisor.poll())
    try:
        await supervisor.all_serving()
        told: ServeRecord | None = None
        while not supervisor.stopping.is_set():
            pids = tuple(gateway.process.pid for gateway in supervisor.fleet.members)
            record = ServeRecord(
                os.getpid(), settings.host, *ports, pids, bool(settings.tls_certificate), settings.grpc_port
            )
            if record != told:
                keeper.write(record)
                if told is None:
                    announce(_ready(supervisor, record))
                    supervisor.log.say("server.started", f"serving at {record.url}", gateways=len(pids))
                told = record
            for task in (watching, polling):
                if task.done():
                    task.result()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await supervisor.stopping.wait()
    finally:
        supervisor.stopping.set()
        supervisor.log.say("server.stopping", "no new connections; what is in flight is answered")
        await asyncio.gather(watching, polling, return_exceptions=True)


def _ready(supervisor: Supervisor, record: ServeRecord) -> str:
    status = supervisor.status()
    if status["release"] is None:
        why = status["refused"]["why"] if status["refused"] else "run `retinue apply`"
        return f"Serving {status['stage']} at {record.url}, but there is no release to serve yet: {why}"
    failed = len(status["unavailable"])
    return (
        f"Serving {status['stage']} at {record.url}: release {status['release']}, "
        + ("1 model" if status["models"] == 1 else f"{status['models']} models")
        + (f" ({failed} unavailable)" if failed else "")
        + (f"; gRPC at {record.host}:{record.grpc_port}" if record.grpc_port is not None else "")
        + f"; status at {record.admin_url}/status"
    )


def _listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket. Raises UnavailableError saying which setting to change."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(
            f"cannot listen on {host}:{port}: {_why(error)}", hint=_change(error, setting)
        ) from error
    listener.setblocking(False)
    return listener


def _why(error: OSError | UnicodeError) -> str:
    """What the system says, once: Python's own text of it names the address again."""
    if isinstance(error, UnicodeError):
        return "that is no host"
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _change(error: OSError | UnicodeError, setting: str) -> str:
    """What to change: the host when the fault is its, else the port."""
    foreign = isinstance(error, UnicodeError | socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
    if foreign and setting != "admin_port":
        return "Set [serve] host in retinue.toml (RETINUE_HOST) to an address of this machine, or 0.0.0.0 for all."
    change = f"set [serve] {setting} in retinue.toml (RETINUE_{setting.upper()})"
    if isinstance(error, PermissionError):
        return f"Ports below 1024 need a privilege; {change}."
    return f"Stop what uses it, or {change}."


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
