"""The doors of a gateway: which path asks for what, and which error is which status. No logic of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from urllib.parse import unquote_to_bytes

import orjson

from retinue import telemetry
from retinue.core.errors import (
    InferenceError,
    RequestError,
    RetinueError,
    TooLargeError,
    UnavailableError,
    UnknownModelError,
)
from retinue.gateway import oip, rows
from retinue.gateway.dataplane import Call, DataPlane
from retinue.gateway.http import Exchange
from retinue.gateway.meter import Meter
from retinue.gateway.release import PinnedRelease

_STATUS: tuple[tuple[type[RetinueError], int], ...] = (
    (UnknownModelError, 404),
    (TooLargeError, 413),
    (RequestError, 400),
    (UnavailableError, 503),
    (InferenceError, 500),
)
_GET = (b"GET", b"HEAD")
_POST = (b"POST",)

MAX_KNOWN = 512  # bytes of a path that is worth remembering

Door = Callable[[Exchange], None]


class Doors:
    """Handles every exchange of a gateway's HTTP server."""

    def __init__(self, plane: DataPlane, meter: Meter) -> None:
        self._plane = plane
        self._meter = meter
        self._known: dict[bytes, tuple[tuple[bytes, ...], Door]] = {}  # paths that were taken apart already

    def __call__(self, exchange: Exchange) -> None:
        """Answer, now or when the data plane has. Never raises."""
        try:
            self._dispatch(exchange)
        except RetinueError as error:
            self._refuse(exchange, telemetry.DIRECT, error)
        except Exception as error:  # noqa: BLE001  the loop and all other connections must go on
            exchange.refuse(500, f"{type(error).__name__}: {error}")

    def _dispatch(self, exchange: Exchange) -> None:
        found = self._known.get(exchange.path)
        if found is None:
            found = self._resolve(exchange.path)
            if len(self._known) < 20_000 and len(exchange.path) <= MAX_KNOWN:
                self._known[exchange.path] = found
        methods, door = found
        if exchange.method not in methods:
            allowed = b", ".join(methods)
            exchange.refuse(405, f"use {methods[0].decode()} here", b"\r\nallow: " + allowed)
            return
        door(exchange)

    def _resolve(self, path: bytes) -> tuple[tuple[bytes, ...], Door]:
        """The methods and the door of a path. Raises UnknownModelError when there is nothing at it."""
        try:
            parts = path.partition(b"?")[0].split(b"/")
            words = tuple(unquote_to_bytes(part).decode() for part in parts[1:] if part)
        except UnicodeDecodeError as error:
            raise RequestError("the path is not UTF-8") from error
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
        raise UnknownModelError(f"nothing is served at {path.decode('latin-1')!r:.200}", hint=_PATHS)

    # -------------------------------------------------------------------------------------------------- inference
    def _predict(self, exchange: Exchange, name: str) -> None:
        release = self._plane.admit()
        table = rows.parse(exchange.body)
        rows.check_names(table, release.known(name))
        call = Call(release, name, table, len(table.rows), partial=True)

        def done(call: Call) -> None:
            if len(call.errors) == call.rows:
                self._refuse(exchange, _label(call), rows.first_error(call), call.release)
            else:
                self._reply(exchange, call, rows.answer(call))

        exchange.cancel = partial(self._plane.cancel, call)
        self._plane.infer(call, done)

    def _infer(self, exchange: Exchange, name: str, version: str | None) -> None:
        release = self._plane.admit()
        _check_version(release, name, version)
        fields, outputs = release.fields(name)
        request = oip.parse(exchange.body, fields, outputs)
        call = Call(release, name, request.table, request.rows, partial=False)

        def done(call: Call) -> None:
            try:
                if call.errors:
                    raise call.errors[0]
                self._reply(exchange, call, oip.answer(call, request, outputs))
            except RetinueError as error:
                self._refuse(exchange, _label(call), error, call.release)

        exchange.cancel = partial(self._plane.cancel, call)
        self._plane.infer(call, done)

    def _reply(self, exchange: Exchange, call: Call, body: bytes) -> None:
        label = _label(call)
        by_fallback = sum(len(part.rows) for part in call.parts if part.fallback)
        self._meter.rows(label, call.rows - len(call.errors), by_fallback)
        self._count(exchange, label, 200)
        exchange.reply(200, body, b"\r\nretinue-release: %d" % call.release.number)

    def _refuse(
        self, exchange: Exchange, label: str, error: RetinueError, release: PinnedRelease | None = None
    ) -> None:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        headers = b"\r\nretry-after: 1" if status == 503 else b""
        if release is not None:
            headers += b"\r\nretinue-release: %d" % release.number
        self._count(exchange, label, status)
        text = error.message if error.hint == error.remedy else f"{error.message}. {error.hint}"
        exchange.refuse(status, text, headers)

    def _count(self, exchange: Exchange, label: str, status: int) -> None:
        self._meter.request(label, status, exchange.connection.server.loop.time() - exchange.started)

    # ---------------------------------------------------------------------------------------------------- metadata
    def _describe(self, exchange: Exchange, words: tuple[str, ...]) -> None:
        match words:
            case ("v2",):
                body: object = {"name": "retinue", "version": oip.VERSION, "extensions": []}
            case ("v2", "health", "live"):
                body = {"live": True}
            case ("v2", "health", "ready"):
                self._plane.release()
                body = {"ready": True}
            case ("v2", "models"):
                body = {"models": self._plane.release().names}
            case ("v2", "models", name, "ready") | ("v2", "models", name, "versions", _, "ready"):
                release = self._plane.release()
                _check_version(release, name, words[4] if len(words) == 6 else None)
                release.fields(name)  # raises when nothing of it can answer
                body = {"name": name, "ready": True}
            case ("v2", "models", name) | ("v2", "models", name, "versions", _):
                release = self._plane.release()
                _check_version(release, name, words[4] if len(words) == 5 else None)
                body = _metadata(release, name)
            case ("openapi.json",):
                exchange.reply(200, rows.openapi(self._plane.release()))
                return
            case _:
                raise AssertionError(words)  # `_resolve` lets no other in
        exchange.reply(200, orjson.dumps(body))


_PATHS = "GET /v2/models lists the models; POST /predict/NAME or /v2/models/NAME/infer asks one."


def _metadata(release: PinnedRelease, name: str) -> dict[str, object]:
    fields, outputs = release.fields(name)
    if name in release.routes:
        versions, platform = [str(release.number)], "retinue_endpoint"
    else:
        served = release.models[name].served
        versions, platform = [served.version], "onnx_onnxv1" if served.format == "onnx" else f"sklearn_{served.format}"
    return {
        "name": name,
        "versions": versions,
        "platform": platform,
        "inputs": oip.tensors(fields),
        "outputs": oip.tensors(outputs),
    }


def _check_version(release: PinnedRelease, name: str, version: str | None) -> None:
    """A release has one version of each model; an endpoint's version is the release's number."""
    if name not in release.routes and name not in release.models:
        raise UnknownModelError(f"no model or endpoint {name!r} in release {release.number}")
    if version is None:
        return
    served = str(release.number) if name in release.routes else release.models[name].served.version
    if version != served:
        raise UnknownModelError(f"{name!r} has version {served} in release {release.number}, not {version!r:.80}")


def _label(call: Call) -> str:
    return call.name if call.route is not None else telemetry.DIRECT
