"""The gRPC door: the protocol's service with Triton's messages, and the health service; the same data plane as HTTP.

It speaks HTTP/2 itself (`h2_connection`), on the gateway's loop, with the HTTP door's clock, flush and drain: answers
of one turn leave together, after what `before_flush` does, so that an answer that was given is in the journal.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from retinue import telemetry
from retinue.core.errors import InferenceError, RequestError, RetinueError
from retinue.gateway import describe, grpc_describe, grpc_infer, grpc_line
from retinue.gateway.access import Access
from retinue.gateway.calls import Call
from retinue.gateway.dataplane import DataPlane
from retinue.gateway.doors import status_of
from retinue.gateway.exchange import Server
from retinue.gateway.grpc_describe import Describer
from retinue.gateway.grpc_messages import message
from retinue.gateway.grpc_status import INTERNAL, INVALID_ARGUMENT, NOT_FOUND, UNAVAILABLE, UNIMPLEMENTED
from retinue.gateway.grpc_stream import Asked, Pieces
from retinue.gateway.h2_connection import H2Connection
from retinue.gateway.h2_heads import CallHead
from retinue.gateway.h2_stream import Stream
from retinue.gateway.http import HttpServer
from retinue.gateway.meter import Meter
from retinue.gateway.quick import QuickPath
from retinue.gateway.tls import HANDSHAKE

_SERVICE = "inference.GRPCInferenceService"
_HEALTH = "grpc.health.v1.Health"
HEADROOM = 64 * 1024  # bytes of a message beside its tensors
LOOK = 1.0  # seconds between two looks at a health that is watched

Take = Callable[[Stream, bytes], None]


class Method(NamedTuple):
    """How a method begins: `take` gets a unary call's message; `stream` a call of many."""

    take: Take | None = None
    stream: Callable[[Stream], None] | None = None
    refusal: tuple[int, str] | None = None


class GrpcServer:
    """One gateway's gRPC door, beside its HTTP door, whose clock, flush and drain it shares."""

    def __init__(self, plane: DataPlane, meter: Meter, access: Access, describer: Describer, http: HttpServer) -> None:
        self.server: Server = http
        self.max_message = http.limits.body + HEADROOM
        self._plane = plane
        self._meter = meter
        self._access = access
        self._describer = describer
        self._loop = asyncio.get_running_loop()
        self._short = QuickPath(plane, meter.answered)
        self._lines = grpc_line.GrpcLines(self._answered)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self._health_response = message("grpc.health.v1.HealthCheckResponse")
        self._request = message("ModelInferRequest")
        self._methods = self._known()

    async def start(self, listener: socket.socket, context: ssl.SSLContext | None = None) -> None:
        """Take connections."""
        self._listening = await self._loop.create_server(
            lambda: H2Connection(self),
            sock=listener,
            backlog=1024,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE if context is not None else None,
        )

    def close(self) -> None:
        """Take no new connections; the HTTP door's drain ends those there are."""
        if self._listening is not None:
            self._listening.close()

    # ---------------------------------------------------------------------------------------------------- a call
    def begin(self, stream: Stream) -> None:
        """A call begins: say who takes its messages, or refuse it."""
        head = stream.head
        method: Method = head.method or self._find(head)
        if method.refusal is not None:
            stream.finish(*method.refusal)
        elif method.stream is not None:
            method.stream(stream)
        else:
            stream.on_message = method.take

    def _find(self, head: CallHead) -> Method:
        if head.method_name != b"POST" or not head.content.startswith(b"application/grpc"):
            found = Method(refusal=(INTERNAL, "gRPC calls are POST with content-type application/grpc"))
        elif head.bad_timeout:
            found = Method(refusal=(INVALID_ARGUMENT, "grpc-timeout is no time"))
        else:
            missing = Method(refusal=(UNIMPLEMENTED, f"there is no method {head.path.decode('latin-1'):.200}"))
            found = self._methods.get(head.path, missing)
        head.method = found
        return found

    def _known(self) -> dict[bytes, Method]:
        service = {
            "ModelInfer": Method(take=self._unary),
            "ModelStreamInfer": Method(stream=lambda stream: _pieces(stream, self)),
            **{name: Method(take=self._asks(name)) for name in grpc_describe.NAMES},
            **{name: Method(refusal=(UNIMPLEMENTED, why)) for name, why in grpc_describe.ABSENT.items()},
        }
        health = {"Check": Method(take=self._check), "Watch": Method(stream=self._watch)}
        return {
            f"/{kind}/{name}".encode(): method
            for kind, methods in ((_SERVICE, service), (_HEALTH, health))
            for name, method in methods.items()
        }

    # -------------------------------------------------------------------------------------------------- inference
    def _unary(self, stream: Stream, data: bytes) -> None:
        """ModelInfer."""
        self.infer(stream, data)

    def infer(self, asked: Asked, data: bytes) -> None:
        """One request through the data plane; `asked` is answered now or later. Never raises."""
        label = telemetry.DIRECT
        try:
            try:
                found = self._request.FromString(data)
            except Exception as error:  # what the runtime raises differs between its versions
                raise RequestError("the message is no ModelInferRequest") from error
            name = found.model_name
            client = self._access.client(asked.head.key, name)
            release = self._plane.admit()
            if name in release.routes:
                label = name
            describe.check_version(release, name, found.model_version or None)
            fields, outputs = release.fields(name)
            request = grpc_infer.parse(found, fields, outputs)
            timeout = asked.head.timeout
            if (
                (timeout is None or timeout >= self._plane.timeout)
                and grpc_line.plain(request)
                and self._short.line(asked, client, release, name, request.table, self._lines, request, request.id)
            ):
                return
            call = Call(release, name, request.rows, self._answered, asked, partial=False)
            call.table, call.request, call.label = request.table, request, label
            call.client_id, call.client = request.id, client.name
            call.priority = client.priority if request.priority is None else max(client.priority, request.priority)
            call.timeout = min(request.timeout or timeout or 0.0, timeout or request.timeout or 0.0)
            asked.cancel = call.cancel
            self._plane.infer(call)
        except RetinueError as error:
            self._meter.answered(label, status_of(error), monotonic() - asked.started, 0, 0)
            asked.fail(error)
        except Exception as error:  # noqa: BLE001  the loop and all other calls must go on
            asked.fail(InferenceError(f"{type(error).__name__}: {error}"))

    def _answered(self, call: Call) -> None:
        """The data plane has the answer: it leaves at the end of this turn."""
        asked: Asked = call.to
        try:
            if call.errors:
                raise call.errors[min(call.errors)]
            data = grpc_infer.answer(call, call.request, call.release.fields(call.name)[1]).SerializeToString()
        except Exception as fault:  # noqa: BLE001  outputs that cannot be told are a model's fault, and an answer
            error = fault if isinstance(fault, RetinueError) else InferenceError(f"{type(fault).__name__}: {fault}")
            if not call.errors:
                call.errors = dict.fromkeys(range(call.rows), error)
            self._plane.answered(call, status_of(error))
            asked.fail(error)
            return
        self._plane.answered(call, 200)
        asked.reply(200, data)

    # ---------------------------------------------------------------------------------------------------- the rest
    def _asks(self, name: str) -> Take:
        def take(stream: Stream, data: bytes) -> None:
            task = self._loop.create_task(self._ask(name, stream, data))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            stream.cancel = partial(_cancel, task)

        return take

    async def _ask(self, name: str, stream: Stream, data: bytes) -> None:
        """Every other call of the service."""
        try:
            found = await self._describer.answer(name, data, stream.head.key)
        except RetinueError as error:
            stream.fail(error)
        except Exception as error:  # noqa: BLE001  it is this call's alone
            stream.finish(INTERNAL, f"{type(error).__name__}: {error}")
        else:
            stream.reply(200, found)

    def _check(self, stream: Stream, data: bytes) -> None:
        """Health.Check of the whole ("") or of a service or model by name."""
        status = self._health(stream, data)
        if status == grpc_describe.SERVICE_UNKNOWN:
            stream.finish(NOT_FOUND, "unknown service")
        elif status is not None:
            stream.reply(200, self._health_response(status=status).SerializeToString())

    def _health(self, stream: Stream, data: bytes) -> int | None:
        """A service's health; None when the call has been refused."""
        try:
            service = message("grpc.health.v1.HealthCheckRequest").FromString(data).service
        except Exception:  # noqa: BLE001  what the runtime raises differs between its versions
            return grpc_describe.SERVICE_UNKNOWN
        try:
            return self._describer.probe(service, stream.head.key)
        except RetinueError as error:
            stream.fail(error)
            return None

    def _watch(self, stream: Stream) -> None:
        """Health.Watch: the status now, and whenever it changes."""
        stream.streaming = True
        stream.on_message = self._watched
        stream.on_leave = lambda: stream.finish(UNAVAILABLE, "the server is about to end")

    def _watched(self, stream: Stream, data: bytes) -> None:
        if stream.cancel is not None:
            stream.cancel()
            stream.finish(INTERNAL, "the request has more than one message")
            return
        told: int | None = None

        def look() -> None:
            nonlocal told
            status = None if stream.over else self._health(stream, data)
            if status is None:
                return
            if status != told:
                stream.send(self._health_response(status=status).SerializeToString())
                told = status
            stream.cancel = self._loop.call_later(LOOK, look).cancel

        look()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _pieces(stream: Stream, server: GrpcServer) -> Any:
    return Pieces(stream, server.infer, server.server.now)
