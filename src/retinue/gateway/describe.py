"""What models and endpoints say of themselves: the protocol's metadata, and the configuration that tools read."""

from __future__ import annotations

from typing import Any

from retinue.core.errors import UnavailableError, UnknownModelError
from retinue.gateway.oip import tensors
from retinue.gateway.release import PinnedRelease

_TYPES = {"BOOL": "TYPE_BOOL", "INT64": "TYPE_INT64", "FP64": "TYPE_FP64", "BYTES": "TYPE_STRING"}


def check_version(release: PinnedRelease, name: str, version: str | None) -> None:
    """Raise UnknownModelError unless that version is served: of an endpoint, the release's number; None is any."""
    if name not in release.routes and name not in release.models:
        raise UnknownModelError(f"no model or endpoint {name!r:.200} in release {release.number}")
    if version is None:
        return
    served = version_of(release, name)
    if version != served:
        raise UnknownModelError(f"{name!r} has version {served} in release {release.number}, not {version!r:.80}")


def check_ready(release: PinnedRelease, name: str) -> None:
    """Raise UnknownModelError, or UnavailableError when nothing of it can answer, or its model did not load."""
    release.fields(name)
    route = release.routes.get(name)
    model = name if route is None else route.name
    if route is not None and route.keys:
        return
    for loaded in release.plan(model).models:
        reason = release.failed.get(loaded.served.name) if loaded.batcher is None else None
        if reason is not None:
            raise UnavailableError(f"model {loaded.served.name!r} is not available: {reason}")


def version_of(release: PinnedRelease, name: str) -> str:
    """The one version of a model or endpoint in a release."""
    return str(release.number) if name in release.routes else release.models[name].served.version


def metadata(release: PinnedRelease, name: str) -> dict[str, Any]:
    """Name, version, platform, inputs, outputs. Raises UnknownModelError or UnavailableError."""
    fields, outputs = release.fields(name)
    return {
        "name": name,
        "versions": [version_of(release, name)],
        "platform": platform(release, name),
        "inputs": tensors(fields),
        "outputs": tensors(outputs),
    }


def platform(release: PinnedRelease, name: str) -> str:
    """`<project>_<format>`."""
    if name in release.routes:
        return "retinue_endpoint"
    served = release.models[name].served
    known = {"onnx": "onnx_onnxv1", "skops": "sklearn_skops", "xgboost": "xgboost_ubj", "lightgbm": "lightgbm_txt",
             "catboost": "catboost_cbm", "prepared": "python_prepared"}  # fmt: skip
    return known.get(served.format, served.format)


def config(release: PinnedRelease, name: str) -> dict[str, Any]:
    """The model's configuration as ModelConfig of the model configuration extension, in JSON.

    `max_batch_size` 0 says that the shapes are whole: the number of rows is the first dimension, and variable.
    """
    fields, outputs = release.fields(name)
    return {
        "name": name,
        "platform": platform(release, name),
        "backend": "retinue",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [{"name": f.name, "data_type": _TYPES[f.dtype], "dims": [-1], "optional": f.nullable} for f in fields],
        "output": [
            {"name": f.name, "data_type": _TYPES[f.dtype], "dims": [-1] if f.width == 1 else [-1, f.width]}
            for f in outputs
        ],
        "dynamic_batching": {"priority_levels": 3, "default_priority_level": 2},
        "model_transaction_policy": {"decoupled": False},
    }
