"""A model that was made elsewhere: looked at in the environment it will run in, as a returned one would be."""

from __future__ import annotations

from typing import Any

from retinue_worker.artifact import _SAFE, _SHELLS, NonsenseError, keep


def adopt(request: dict[str, Any]) -> dict[str, Any]:
    """What is needed to load the file `request["artifact"]`: `container`, `trusted`, `classes`, `onnx`.

    Raises NonsenseError when it cannot be loaded, holds code, or is not what the request declares.
    """
    if request["format"] != "skops":
        raise NonsenseError(f"this worker does not adopt {request['format']} artifacts", "Export it to ONNX.")
    import skops.io

    path = request["artifact"]
    hint = "Save it with `skops.io.dump(model, 'model.skops')` under the environment's own scikit-learn."
    try:
        types = sorted(skops.io.get_untrusted_types(file=path))
    except Exception as error:
        raise NonsenseError(f"the artifact is no skops file: {type(error).__name__}: {error}", hint) from error
    strange = [name for name in types if name.split(".")[0] not in _SAFE and name not in _SHELLS]
    if strange:
        raise NonsenseError(
            f"the artifact holds {strange[0]}, which is code and not only numbers",
            "Build it from scikit-learn's own parts, or export it to ONNX.",
        )
    try:
        model = skops.io.load(path, trusted=types)
    except Exception as error:
        raise NonsenseError(f"the artifact cannot be loaded: {type(error).__name__}: {error}", hint) from error
    if not hasattr(type(model), "predict"):
        raise NonsenseError(f"the artifact holds a {type(model).__name__}, which predicts nothing", hint)
    kept = keep(model, request)
    return {"container": kept["container"], "trusted": types, "classes": kept["classes"], "onnx": None}
