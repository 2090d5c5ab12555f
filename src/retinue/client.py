"""The Python client: predictions, inference and metadata over HTTP, errors as Retinue's own."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from retinue.core.errors import (
    ForbiddenError,
    InferenceError,
    RequestError,
    RetinueError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)

Json = Any
_ERRORS: Mapping[int, type[RetinueError]] = {
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: UnknownModelError,
    413: TooLargeError,
    429: UnavailableError,
    500: InferenceError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}
_DATATYPES = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}


class Client:
    """Talks to a served stage at `url`; `timeout` in seconds. Close it, or use it as a context manager.

    `key` is the client's API key, where the server asks for one. `verify` is what decides whom to trust over HTTPS:
    a file with certificates in SSL_CERT_FILE, or a context of your own.

    Every method raises UnavailableError when nobody answers in time, else the error the server's status says,
    with the server's text.
    """

    def __init__(
        self, url: str, timeout: float = 30.0, *, key: str | None = None, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self._url, timeout=timeout, headers=headers, verify=verify)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, endpoint: str, rows: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
        """Ask an endpoint or model for rows: `{"predictions": […], "ids": […], "release": n, "models": […]}`.

        A row that failed has `{"error": …}` for its prediction; an error is raised only when all rows failed.
        """
        return self._object("POST", f"/predict/{quote(endpoint, safe='')}", {"rows": [dict(row) for row in rows]})

    def infer(
        self, model: str, columns: Mapping[str, Sequence[Json]], outputs: Sequence[str] | None = None
    ) -> dict[str, list[Json]]:
        """Ask over the Open Inference Protocol with one list per input; gives one list per output.

        An output with several values per row (the probabilities of many classes) is a list of lists.
        Raises RequestError for a column that mixes types or has no value at all.
        """
        body: dict[str, Json] = {"inputs": [_tensor(name, list(values)) for name, values in columns.items()]}
        if outputs is not None:
            body["outputs"] = [{"name": name} for name in outputs]
        answer = self._object("POST", f"/v2/models/{quote(model, safe='')}/infer", body)
        return {output["name"]: _rows(output["data"], output["shape"]) for output in answer["outputs"]}

    def models(self) -> list[str]:
        """Names of all endpoints and models of the release."""
        return [str(name) for name in self._object("GET", "/v2/models")["models"]]

    def metadata(self, model: str) -> dict[str, Json]:
        """Versions, inputs and outputs of a model or endpoint."""
        return self._object("GET", f"/v2/models/{quote(model, safe='')}")

    def ready(self, model: str | None = None) -> bool:
        """Whether the stage, or one model of it, can answer now; False also when nobody listens."""
        path = "/v2/health/ready" if model is None else f"/v2/models/{quote(model, safe='')}/ready"
        try:
            self._object("GET", path)
        except RetinueError:
            return False
        return True

    def _object(self, method: str, path: str, body: Json = None) -> dict[str, Json]:
        try:
            response = self._http.request(method, path, json=body)
        except ValueError as error:  # httpx refuses NaN and infinities: they are no JSON
            raise RequestError(f"the request cannot be written as JSON: {error}") from error
        except httpx.HTTPError as error:
            hint = "Is `retinue serve` running?"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                hint = "Set SSL_CERT_FILE to the PEM file of who signed the server's certificate."
            raise UnavailableError(f"no answer from {self._url}: {error}", hint=hint) from error
        try:
            document = response.json()
        except ValueError:
            document = None
        if response.status_code == 200 and isinstance(document, dict):
            return document
        text = document.get("error") if isinstance(document, dict) else None
        kind = _ERRORS.get(response.status_code, RequestError if response.is_client_error else UnavailableError)
        raise kind(str(text or f"status {response.status_code} from {self._url}{path}"))


def _tensor(name: str, values: list[Json]) -> dict[str, Json]:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) != 1 or not kinds <= _DATATYPES.keys():
        found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "no value"
        raise RequestError(f"column {name!r} must hold numbers, text or booleans, all alike; it holds {found}")
    datatype = _DATATYPES[kinds.pop()]
    return {"name": name, "shape": [len(values)], "datatype": datatype, "data": values}


def _rows(data: list[Json], shape: Sequence[int]) -> list[Json]:
    if len(shape) == 1:
        return data
    width = shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]
