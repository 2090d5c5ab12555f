"""The doors of a gateway: which path asks for what, and which error is which status. No logic of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from urllib.parse import unquote_to_bytes

import orjson

from retinue import telemetry
from retinue.core.access import ANONYMOUS, Client
from retinue.core.errors import (
    DeadlineError,
    ForbiddenError,
    InferenceError,
    RequestError,
    RetinueError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)
from retinue.gateway import describe, oip, oip_line, page, rows
from retinue.gateway.access import Access
from retinue.gateway.calls import Call
from retinue.gateway.dataplane import DataPlane
from retinue.gateway.extensions import Beside, Extensions
from retinue.gateway.heads import Head
from retinue.gateway.http import Exchange
from retinue.gateway.logs import Log
from retinue.gateway.meter import Meter
from retinue.gateway.quick import Quick, QuickPath

_STATUS: tuple[tuple[type[RetinueError], int], ...] = (
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (UnknownModelError, 404),
    (TooLargeError, 413),
    (RequestError, 400),
    (UnavailableError, 503),
    (DeadlineError, 504),
    (InferenceError, 500),
)
_GET = (b"GET", b"HEAD")
_POST = (b"POST",)

Door = Callable[[Exchange], None]


class Doors:
    """Handles every exchange of a gateway's HTTP server."""

    def __init__(self, plane: DataPlane, meter: Meter, access: Access, log: Log, beside: Beside) -> None:
        self._plane = plane
        self._meter = meter
        self._access = access
        self._log = log
        self._short = QuickPath(plane, meter.answered)
        self._rows = _Rows(self._predicted)
        self._lines = oip_line.Lines(self._inferred)
        self._extensions = Extensions(plane.release, access, beside, self._refuse)

    def __call__(self, exchange: Exchange) -> None:
        """Answer, now or when the data plane has. Never raises."""
        try:
            head = exchange.head
            methods, door = head.door or self._find(head)
            if head.method not in methods:
                allowed = b", ".join(methods)
                exchange.refuse(405, f"use {methods[0].decode()} here", b"\r\nallow: " + allowed)
                return
            door(exchange)
        except RetinueError as error:
            self._refuse(exchange, error)
        except Exception as error:  # noqa: BLE001  the loop and all other connections must go on
            self._log.bug(error)
            exchange.refuse(500, f"{type(error).__name__}: {error}")

    def _find(self, head: Head) -> tuple[tuple[bytes, ...], Door]:
        found = self._resolve(head.path)
        head.door = found
        return found

    def _resolve(self, path: bytes) -> tuple[tuple[bytes, ...], Door]:
        """The methods and the door of a path. Raises UnknownModelError when there is nothing at it."""
        try:
            parts = path.split(b"/")
            words = tuple(unquote_to_bytes(part).decode() for part in parts[1:] if part)
        except UnicodeDecodeError as error:
            raise RequestError("the path is not UTF-8") from error
        beside = self._extensions.resolve(words)
        if beside is not None:
            return beside
        match words:
            case ("predict", name):
                return _POST, partial(self._predict, name=name)
            case ("v2", "models", name, "infer"):
                return _POST, partial(self._infer, name=name, version=None)
            case ("v2", "models", name, "versions", version, "infer"):
                return _POST, partial(self._infer, name=name, version=version)
            case ("v2",) | ("v2", "health", "live" | "ready") | ("v2", "models") | ("openapi.json",):
                return _GET, partial(self._describe, words=words)
            case ("v2", "models", _) | ("v2", "models", _, "ready"):
                return _GET, partial(self._describe, words=words)
            case ("v2", "models", _, "versions", _) | ("v2", "models", _, "versions", _, "ready"):
                return _GET, partial(self._describe, words=words)
        hint = _ADMIN if words in (("metrics",), ("status",)) else _PATHS
        raise UnknownModelError(f"nothing is served at {path.decode('latin-1')!r:.200}", hint=hint)

    # -------------------------------------------------------------------------------------------------- inference
    def _predict(self, exchange: Exchange, name: str) -> None:
        client = self._access.client(exchange.head.key, name)
        release = self._plane.admit()
        document = oip.read_object(exchange.body)
        row = rows.only(document)
        if row is not None and self._short.row(exchange, client, release, name, row, self._rows):
            return
        table = rows.table(document)
        rows.check_names(table, release.known(name))
        call = Call(release, name, len(table.rows), self._predicted, exchange, partial=True)
        call.table = table
        call.client, call.priority = client.name, client.priority
        self._label(call)
        exchange.cancel = call.cancel
        self._plane.infer(call)

    def _predicted(self, call: Call) -> None:
        exchange: Exchange = call.to
        if len(call.errors) == call.rows:
            self._refuse_call(call, rows.first_error(call))
            return
        try:
            body = rows.answer(call)
        except Exception as error:  # noqa: BLE001  outputs that cannot be told are a model's fault, and an answer
            self._refuse_call(call, _untold(error))
            return
        self._plane.answered(call, 200)
        exchange.reply(200, body, call.release.header)

    def _infer(self, exchange: Exchange, name: str, version: str | None) -> None:
        client = self._access.client(exchange.head.key, name)
        release = self._plane.admit()
        describe.check_version(release, name, version)
        fields, outputs = release.fields(name)
        request = oip.parse(exchange.body, fields, outputs, exchange.head.header_length)
        line = oip_line.plain(request) if request.rows == 1 else None
        if line is not None and self._short.line(
            exchange, client, release, name, line, self._lines, request, request.id
        ):
            return
        call = Call(release, name, request.rows, self._inferred, exchange, partial=False)
        call.table = request.table
        call.request = request
        call.client_id = request.id
        call.client = client.name
        call.priority = max(client.priority, request.priority or 0)  # a request may wait longer than its client's class
        call.timeout = request.timeout or 0.0
        self._label(call)
        exchange.cancel = call.cancel
        self._plane.infer(call)

    def _inferred(self, call: Call) -> None:
        exchange: Exchange = call.to
        try:
            if call.errors:
                raise call.errors[0]
            reply = oip.answer(call, call.request, call.release.fields(call.name)[1])
        except Exception as error:  # noqa: BLE001  as above
            self._refuse_call(call, error if isinstance(error, RetinueError) else _untold(error))
            return
        self._plane.answered(call, 200)
        oip.send(exchange, reply, call.release.header)

    def _label(self, call: Call) -> None:
        if call.name not in call.release.routes:
            call.label = telemetry.DIRECT

    def _refuse_call(self, call: Call, error: RetinueError) -> None:
        """The answer of a call is an error."""
        if not call.errors:
            call.errors = dict.fromkeys(range(call.rows), error)
        status = status_of(error)
        self._plane.answered(call, status)
        headers = _headers(status) + call.release.header
        call.to.refuse(status, _text(error), headers)

    def _refuse(self, exchange: Exchange, error: RetinueError) -> None:
        """A request that never became a call."""
        status = status_of(error)
        if status in (401, 403):
            self._log.rarely("request.rejected", error.message, status=status)
        self._meter.answered(telemetry.DIRECT, status, monotonic() - exchange.started, 0, 0)
        exchange.refuse(status, _text(error), _headers(status))

    # ---------------------------------------------------------------------------------------------------- metadata
    def _describe(self, exchange: Exchange, words: tuple[str, ...]) -> None:
        client = self._reader(exchange, words)
        match words:
            case ("v2",):
                body: object = {"name": "retinue", "version": oip.VERSION, "extensions": oip.EXTENSIONS}
            case ("v2", "health", "live"):
                body = {"live": True}
            case ("v2", "health", "ready"):
                self._plane.release()
                body = {"ready": True}
            case ("v2", "models"):
                body = {"models": [name for name in self._plane.release().names if client.may(name)]}
            case ("v2", "models", name, "ready") | ("v2", "models", name, "versions", _, "ready"):
                release = self._plane.release()
                describe.check_version(release, name, words[4] if len(words) == 6 else None)
                describe.check_ready(release, name)
                body = {"name": name, "ready": True}
            case ("v2", "models", name) | ("v2", "models", name, "versions", _):
                release = self._plane.release()
                describe.check_version(release, name, words[4] if len(words) == 5 else None)
                body = describe.metadata(release, name)
            case ("openapi.json",):
                exchange.reply(200, page.openapi(self._plane.release(), client.may))
                return
            case _:
                raise AssertionError(words)  # `_resolve` lets no other in
        exchange.reply(200, orjson.dumps(body))

    def _reader(self, exchange: Exchange, words: tuple[str, ...]) -> Client:
        """Who reads metadata: the server's own and its health are for everybody, models for those who may call them."""
        if words == ("v2",) or words[:2] == ("v2", "health"):
            return ANONYMOUS
        if len(words) > 2:
            return self._access.client(exchange.head.key, words[2])
        return self._access.who(exchange.head.key)


_ADMIN = "It is on the admin port: [serve] admin_port in retinue.toml, 8081 unless said; `retinue status` names it."
_PATHS = "GET /v2/models lists the models; POST /predict/NAME or /v2/models/NAME/infer asks one."


class _Rows:
    """How the friendly door answers a request of the short way."""

    body = staticmethod(rows.answer_one)

    def __init__(self, done: Callable[[Call], None]) -> None:
        self._done = done

    def long(self, request: Quick) -> Call:
        """The same request as a call of the long way."""
        call = Call(request.release, request.name, 1, self._done, request.exchange, partial=True)
        call.table = rows.RowTable((request.asked,))
        call.route = request.release.routes.get(request.name)
        if call.route is None:
            call.label = telemetry.DIRECT
        return call


def status_of(error: RetinueError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def _untold(error: Exception) -> InferenceError:
    return InferenceError(f"the models' outputs cannot be told together: {type(error).__name__}: {error}")


def _headers(status: int) -> bytes:
    if status == 401:
        return b"\r\nwww-authenticate: Bearer"
    return b"\r\nretry-after: 1" if status in (429, 503) else b""


def _text(error: RetinueError) -> str:
    return error.message if error.hint == error.remedy else f"{error.message}. {error.hint}"
