"""A model that was made elsewhere: looked at in the environment it will run in, as a returned one would be."""

from __future__ import annotations

from typing import Any

from retinue_worker import boosters
from retinue_worker.artifact import _SAFE, _SHELLS, NonsenseError, keep


def adopt(request: dict[str, Any]) -> dict[str, Any]:
    """What is needed to load the file `request["artifact"]`: `container`, `trusted`, `classes`, `onnx`.

    Raises NonsenseError when it cannot be loaded, holds code, or is not what the request declares.
    """
    if request["format"] in boosters.FRAMEWORKS:
        return _booster(request)
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


def _booster(request: dict[str, Any]) -> dict[str, Any]:
    """As `adopt`, for a booster in its framework's own format."""
    framework = request["format"]
    try:
        found = boosters.read(request["artifact"], framework)
    except ImportError as error:
        hint = f"Add {framework} to the requirements of the model's environment, in the release that saved the model."
        raise NonsenseError(f"the environment has no {error.name or framework}", hint) from error
    except boosters.BoosterError as error:
        raise NonsenseError(f"the artifact is refused: {error}", "Save the whole model again, uncompressed.") from error
    wrong = boosters.misfit(found, request["task"], list(request["features"]), request.get("quantiles"))
    if wrong is not None:
        raise NonsenseError(wrong, "Correct `features`, their order or the `task`, or bring the model that fits.")
    for place, field in enumerate(request["inputs"]):
        if field["dtype"] == "BYTES" and found.categories[place] is None and place not in found.texts:
            raise NonsenseError(
                f"{field['name']} is text, but the booster holds no categories for it",
                "Train on a DataFrame whose column has pandas' `category` type, not on codes of your own.",
            )
    classes = None
    if request["task"] in ("binary", "multiclass"):
        classes = request["classes"]
        if len(classes or ()) != found.outputs:
            raise NonsenseError(
                f"the booster knows {found.outputs} classes, but there are {len(classes or ())}: {classes}",
                "Declare `classes` in the order of the codes that the booster was trained on.",
            )
        try:
            boosters.class_order(found, classes)
        except boosters.BoosterError as error:
            raise NonsenseError(f"the booster knows the classes {found.classes}, not {classes}",
                                "Declare `classes` as the booster knows them.") from error  # fmt: skip
    return {"container": "dataframe" if found.names else "array", "trusted": [], "classes": classes, "onnx": None}
