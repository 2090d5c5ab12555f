"""The gRPC door: the protocol's service with Triton's messages, and the health service; the same data plane as HTTP.

It runs on the gateway's own loop. Answers of one turn of the loop are completed together, after what `before_flush`
does, so that an answer that was given is in the journal. Each gateway listens on the same port by SO_REUSEPORT: the
kernel spreads new connections over them, and one that dies takes only its own with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

from retinue import telemetry
from retinue.core.errors import (
    DeadlineError,
    ForbiddenError,
    InferenceError,
    RequestError,
    RetinueError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)
from retinue.gateway import describe, grpc_describe, grpc_infer
from retinue.gateway.access import Access, key_of_metadata
from retinue.gateway.calls import Call
from retinue.gateway.dataplane import DataPlane
from retinue.gateway.doors import status_of
from retinue.gateway.grpc_describe import Describer
from retinue.gateway.grpc_messages import message
from retinue.gateway.meter import Meter

_SERVICE = "inference.GRPCInferenceService"
_HEALTH = "grpc.health.v1.Health"
_CODES: tuple[tuple[type[RetinueError], str], ...] = (
    (UnauthenticatedError, "UNAUTHENTICATED"),
    (ForbiddenError, "PERMISSION_DENIED"),
    (UnknownModelError, "NOT_FOUND"),
    (RequestError, "INVALID_ARGUMENT"),
    (UnavailableError, "UNAVAILABLE"),
    (DeadlineError, "DEADLINE_EXCEEDED"),
    (InferenceError, "INTERNAL"),
)
STREAMED = 128  # requests of one stream that are under way before no more are read from it
HEADROOM = 64 * 1024  # bytes of a message beside its tensors

Flush = Sequence[Callable[[], None]]
Context = Any  # grpc.aio.ServicerContext of raw bytes


class GrpcServer:
    """One gateway's gRPC server. `flush` is called before answers leave, as for HTTP."""

    def __init__(self, plane: DataPlane, meter: Meter, access: Access, describer: Describer, flush: Flush) -> None:
        self._plane = plane
        self._meter = meter
        self._access = access
        self._describer = describer
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._done: list[tuple[asyncio.Future[Any], Any]] = []
        self._server: Any = None
        self._health_response = message("grpc.health.v1.HealthCheckResponse")

    async def start(self, address: str, max_message: int, credentials: Any = None) -> int:
        """Listen; returns the port. Raises UnavailableError when the address is taken."""
        from grpc import aio

        server = aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", max_message + HEADROOM),
                ("grpc.max_send_message_length", -1),
            )
        )
        server.add_generic_rpc_handlers(_handlers(self))
        try:
            add = server.add_insecure_port
            port: int = server.add_secure_port(address, credentials) if credentials else add(address)
            await server.start()
        except RuntimeError as error:
            raise UnavailableError(f"gRPC cannot listen on {address}: {error}") from error
        self._server = server
        return port

    async def stop(self, grace: float) -> None:
        """Take nothing new, answer what is under way within so many seconds."""
        if self._server is not None:
            await self._server.stop(grace)

    # -------------------------------------------------------------------------------------------------- inference
    async def infer(self, data: bytes, context: Context) -> bytes:
        """ModelInfer."""
        try:
            found = await self._infer(data, context)
        except RetinueError as error:
            await context.abort(code_of(error), text_of(error))
            raise AssertionError from error  # abort always raises
        return bytes(found.SerializeToString())

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """ModelStreamInfer: answers as they are ready; a failed request is told of and does not end the stream.

        With metadata `triton_grpc_error: true` it does, with its gRPC status.
        """
        strict = ("triton_grpc_error", "true") in (context.invocation_metadata() or ())
        room, writing = asyncio.Semaphore(STREAMED), asyncio.Lock()
        under_way: set[asyncio.Task[None]] = set()
        failed: asyncio.Future[RetinueError] = self._loop.create_future()

        async def one(data: bytes) -> None:
            try:
                found = await self._streamed(data, context, strict=strict)
                async with writing:  # grpcio takes one message of a stream at a time
                    await context.write(found)
            except RetinueError as error:
                if not failed.done():
                    failed.set_result(error)
            finally:
                room.release()

        async def read() -> None:
            async for data in requests:
                await room.acquire()
                task = self._loop.create_task(one(data))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            while under_way:
                await asyncio.wait(under_way)

        reader = self._loop.create_task(read())
        try:
            await asyncio.wait((reader, failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, *under_way):
                task.cancel()
        if failed.done():
            await context.abort(code_of(failed.result()), text_of(failed.result()))

    async def _streamed(self, data: bytes, context: Context, *, strict: bool) -> bytes:
        """The answer to one request of a stream, errors in it unless `strict`."""
        answer = message("ModelStreamInferResponse")
        try:
            found = answer(infer_response=await self._infer(data, context))
        except RetinueError as error:
            if strict:
                raise
            found = answer(error_message=text_of(error))
            found.infer_response.id = _id_of(data)
            return bytes(found.SerializeToString())
        if _asks_for_final(data):
            found.infer_response.parameters["triton_final_response"].bool_param = True
        return bytes(found.SerializeToString())

    async def _infer(self, data: bytes, context: Context) -> Any:
        """One request through the data plane. Raises RetinueError."""
        began = monotonic()
        label = telemetry.DIRECT
        try:
            asked = _parsed(data)
            client = self._access.client(key_of_metadata(context.invocation_metadata() or ()), asked.model_name)
            release = self._plane.admit()
            if asked.model_name in release.routes:
                label = asked.model_name
            describe.check_version(release, asked.model_name, asked.model_version or None)
            fields, outputs = release.fields(asked.model_name)
            request = grpc_infer.parse(asked, fields, outputs)
        except RetinueError as error:
            self._meter.answered(label, status_of(error), monotonic() - began, 0, 0)
            raise
        future: asyncio.Future[Any] = self._loop.create_future()
        call = Call(release, asked.model_name, request.rows, self._answered, future, partial=False)
        call.table, call.request, call.label = request.table, request, label
        call.client_id, call.client = request.id, client.name
        call.priority = client.priority if request.priority is None else max(client.priority, request.priority)
        left = context.time_remaining()
        call.timeout = min(request.timeout or left or 0.0, left or request.timeout or 0.0)
        try:
            self._plane.infer(call)
            return await future
        except asyncio.CancelledError:
            call.cancel()
            raise

    def _answered(self, call: Call) -> None:
        """The data plane has the answer: it leaves at the end of this turn."""
        future: asyncio.Future[Any] = call.to
        found: Any
        status = 200
        try:
            if call.errors:
                raise call.errors[min(call.errors)]
            found = grpc_infer.answer(call, call.request, call.release.fields(call.name)[1])
        except Exception as error:  # noqa: BLE001  outputs that cannot be told are a model's fault, and an answer
            found = error if isinstance(error, RetinueError) else InferenceError(f"{type(error).__name__}: {error}")
            status = status_of(found)
            if not call.errors:
                call.errors = dict.fromkeys(range(call.rows), found)
        self._plane.answered(call, status)
        if not self._done:
            self._loop.call_soon(self._complete)
        self._done.append((future, found))

    def _complete(self) -> None:
        done, self._done = self._done, []
        for step in self._flush:
            step()
        for future, found in done:
            if future.done():
                continue  # the client has gone
            if isinstance(found, RetinueError):
                future.set_exception(found)
            else:
                future.set_result(found)

    # ---------------------------------------------------------------------------------------------------- the rest
    async def ask(self, name: str, data: bytes, context: Context) -> bytes:
        """Every other call of the service."""
        try:
            return await self._describer.answer(name, data, key_of_metadata(context.invocation_metadata() or ()))
        except RetinueError as error:
            await context.abort(code_of(error), text_of(error))
            raise AssertionError from error  # abort always raises

    async def check(self, data: bytes, context: Context) -> bytes:
        """Health.Check of the whole ("") or of a service or model by name."""
        status = await self._health(data, context)
        if status == grpc_describe.SERVICE_UNKNOWN:
            await context.abort(_code("NOT_FOUND"), "unknown service")
        return bytes(self._health_response(status=status).SerializeToString())

    async def watch(self, data: bytes, context: Context) -> None:
        """Health.Watch: the status now, and whenever it changes."""
        told = None
        while True:
            status = await self._health(data, context)
            if status != told:
                await context.write(self._health_response(status=status).SerializeToString())
                told = status
            await asyncio.sleep(1.0)

    async def _health(self, data: bytes, context: Context) -> int:
        try:
            service = message("grpc.health.v1.HealthCheckRequest").FromString(data).service
        except Exception:  # noqa: BLE001  what the runtime raises differs between its versions
            return grpc_describe.SERVICE_UNKNOWN
        try:
            return self._describer.probe(service, key_of_metadata(context.invocation_metadata() or ()))
        except RetinueError as error:
            await context.abort(code_of(error), text_of(error))
            raise AssertionError from error  # abort always raises


def _handlers(server: GrpcServer) -> list[Any]:
    """Which method is handled how: bytes in, bytes out, so that only our rooms know the messages."""
    import grpc

    def asks(name: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def ask(data: bytes, context: Context) -> bytes:
            return await server.ask(name, data, context)

        return ask

    unary = grpc.unary_unary_rpc_method_handler
    service = {
        "ModelInfer": unary(server.infer),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(server.stream),
        **{name: unary(asks(name)) for name in grpc_describe.NAMES},
        **{name: unary(_refuses(why)) for name, why in grpc_describe.ABSENT.items()},
    }
    health = {"Check": unary(server.check), "Watch": grpc.unary_stream_rpc_method_handler(server.watch)}
    return [
        grpc.method_handlers_generic_handler(_SERVICE, service),
        grpc.method_handlers_generic_handler(_HEALTH, health),
    ]


def _code(name: str) -> Any:
    import grpc

    return grpc.StatusCode[name]


def code_of(error: RetinueError) -> Any:
    """The gRPC status of an error."""
    return _code(next((code for kind, code in _CODES if isinstance(error, kind)), "INTERNAL"))


def text_of(error: RetinueError) -> str:
    """What a client is told of an error."""
    return error.message if error.hint == error.remedy else f"{error.message}. {error.hint}"


def _refuses(why: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def refuse(data: bytes, context: Context) -> bytes:
        await context.abort(_code("UNIMPLEMENTED"), why)
        raise AssertionError  # abort always raises

    return refuse


def _parsed(data: bytes) -> Any:
    try:
        return message("ModelInferRequest").FromString(data)
    except Exception as error:  # what the runtime raises differs between its versions
        raise RequestError("the message is no ModelInferRequest") from error


def _id_of(data: bytes) -> str:
    try:
        return str(message("ModelInferRequest").FromString(data).id)
    except Exception:  # noqa: BLE001  it was refused for that very reason
        return ""


def _asks_for_final(data: bytes) -> bool:
    found = message("ModelInferRequest").FromString(data).parameters
    return "triton_enable_empty_final_response" in found and bool(
        found["triton_enable_empty_final_response"].bool_param
    )
