"""What the gRPC door says beside inference: health, metadata, configuration, statistics, the repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from retinue.core.access import ANONYMOUS, Client
from retinue.core.errors import RequestError, RetinueError
from retinue.gateway import describe, oip
from retinue.gateway.access import Access
from retinue.gateway.dataplane import DataPlane
from retinue.gateway.extensions import Beside
from retinue.gateway.grpc_infer import plain
from retinue.gateway.grpc_messages import message

OPEN = frozenset(("ServerLive", "ServerReady", "ServerMetadata"))
"""What needs no key: a probe has none."""

_MEMORY = "shared memory is not served; send the tensors' bytes"
ABSENT: Mapping[str, str] = {
    **{f"{kind}SharedMemory{act}": _MEMORY
       for kind in ("System", "Cuda") for act in ("Status", "Register", "Unregister")},
    "TraceSetting": "traces are set in retinue.toml, section [telemetry]",
    "LogSettings": "logs are set in retinue.toml, section [log]",
}  # fmt: skip
UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
_SERVICES = ("", "inference.GRPCInferenceService")

NAMES = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics",
    "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
)  # fmt: skip


class Describer:
    """Answers what is no inference; bytes in, bytes out."""

    def __init__(self, plane: DataPlane, access: Access, beside: Beside) -> None:
        self._plane = plane
        self._access = access
        self._statistics = beside.statistics
        self._repository = beside.repository
        self._asks: dict[str, Callable[[Any, Client], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    async def answer(self, name: str, data: bytes, key: bytes | None) -> bytes:
        """The answer to that call. Raises RetinueError."""
        kind = message(f"{name}Request")
        try:
            request = kind.FromString(data)
        except Exception as error:  # what the runtime raises differs between its versions
            raise RequestError(f"the message is no {name}Request") from error
        client = ANONYMOUS if name in OPEN else self._client(key, request)
        return bytes((await self._asks[name](request, client)).SerializeToString())

    def _client(self, key: bytes | None, request: Any) -> Client:
        """Who asks; of a model, if they may call it."""
        names = [getattr(request, field, "") for field in ("name", "model_name", "repository_name")]
        name = next(filter(None, names), None) if not hasattr(request, "ready") else None
        return self._access.who(key) if name is None else self._access.client(key, name)

    def probe(self, service: str, key: bytes | None) -> int:
        """`health` for whoever asks: the server's is for everybody, a model's for those who may call it. Raises."""
        if service not in _SERVICES:
            self._access.client(key, service)
        return self.health(service)

    def health(self, service: str) -> int:
        """Of the server, of its service, or of a model or endpoint by name."""
        try:
            release = self._plane.release()
            if service in _SERVICES:
                return SERVING
            if service not in release.routes and service not in release.models:
                return SERVICE_UNKNOWN
            describe.check_ready(release, service)
        except RetinueError:
            return NOT_SERVING
        return SERVING

    async def _server_live(self, request: Any, client: Client) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _server_ready(self, request: Any, client: Client) -> Any:
        return message("ServerReadyResponse")(ready=self.health("") == SERVING)

    async def _model_ready(self, request: Any, client: Client) -> Any:
        release = self._plane.release()
        describe.check_version(release, request.name, request.version or None)
        return message("ModelReadyResponse")(ready=self.health(request.name) == SERVING)

    async def _server_metadata(self, request: Any, client: Client) -> Any:
        return message("ServerMetadataResponse")(name="retinue", version=oip.VERSION, extensions=oip.EXTENSIONS)

    async def _model_metadata(self, request: Any, client: Client) -> Any:
        release = self._plane.release()
        describe.check_version(release, request.name, request.version or None)
        return _filled("ModelMetadataResponse", describe.metadata(release, request.name))

    async def _model_config(self, request: Any, client: Client) -> Any:
        release = self._plane.release()
        describe.check_version(release, request.name, request.version or None)
        return _filled("ModelConfigResponse", {"config": describe.config(release, request.name)})

    async def _model_statistics(self, request: Any, client: Client) -> Any:
        release = self._plane.release()
        if request.name:
            describe.check_version(release, request.name, request.version or None)
        found = self._statistics.of(release, request.name or None)
        told = {"model_stats": [one for one in found if client.may(one["name"])]}
        return _filled("ModelStatisticsResponse", told)

    async def _index(self, request: Any, client: Client) -> Any:
        rows = await self._repository.index(self._plane.release(), client.may, ready=request.ready)
        return _filled("RepositoryIndexResponse", {"models": rows})

    async def _load(self, request: Any, client: Client) -> Any:
        name = request.model_name or request.repository_name  # KServe's message has the name in the first field
        await self._repository.load(self._plane.release(), name, plain(request.parameters))
        return message("RepositoryModelLoadResponse")(model_name=name, isLoaded=True)

    async def _unload(self, request: Any, client: Client) -> Any:
        name = request.model_name or request.repository_name
        await self._repository.unload(self._plane.release(), name)
        return message("RepositoryModelUnloadResponse")(model_name=name, isUnloaded=True)


def _filled(name: str, values: dict[str, Any]) -> Any:
    from google.protobuf import json_format

    return json_format.ParseDict(values, message(name)())
