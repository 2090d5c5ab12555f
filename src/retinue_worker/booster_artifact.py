"""A booster that a training function returned: checked against its declaration and kept in its own format."""

from __future__ import annotations

from typing import Any

from retinue_worker import boosters

_RETRAIN = "Train on `df[job.features]`, in that order."


class MisfitError(Exception):
    """The booster cannot be kept. `hint` says what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def keep(model: Any, framework: str, request: dict[str, Any], seen: list[Any]) -> dict[str, Any]:
    """What `retinue_worker.artifact.keep` gives, for a booster or its wrapper. Raises MisfitError.

    `seen` are the sorted distinct targets in training: class i of a booster that was trained on numbers 0, 1, … is
    the i-th of them.
    """
    name = type(model).__name__
    if not _fitted(model, framework):
        raise MisfitError(f"the {name} that was returned is not fitted", "Call its `fit` before returning it.")
    data, found = _parts(model, framework)
    wrong = boosters.misfit(
        found, request["task"], list(request["features"]), request.get("quantiles") or request.get("steps")
    )
    if wrong is not None:
        raise MisfitError(wrong, _hint(found, wrong))
    lost = [
        field["name"]
        for place, field in enumerate(request["inputs"])
        if field["dtype"] == "BYTES" and found.categories[place] is None and place not in found.texts
    ]
    if lost:
        raise MisfitError(
            f"{lost[0]} is text, but the {name} holds no categories for it",
            f"Train on a DataFrame whose {lost[0]} has pandas' `category` type, not on codes of your own.",
        )
    classes = None
    if request["task"] in ("binary", "multiclass"):
        classes = _classes(model, found, seen, name)
    return {
        "data": data,
        "format": framework,
        "container": "dataframe" if found.names else "array",
        "trusted": [],
        "classes": classes,
        "onnx": None,
    }


def _fitted(model: Any, framework: str) -> bool:
    if framework == "catboost":
        return bool(model.is_fitted())
    asked = getattr(model, "__sklearn_is_fitted__", None)
    return bool(asked()) if asked is not None else True


def _parts(model: Any, framework: str) -> tuple[bytes, boosters.Booster]:
    if framework == "xgboost":
        native = model.get_booster() if hasattr(model, "get_booster") else model
        return boosters.xgboost_bytes(model), boosters.of_xgboost(native)
    if framework == "lightgbm":
        native = getattr(model, "booster_", model)
        text = native.model_to_string()  # of a model that stopped early, up to its best iteration
        return text.encode(), boosters.of_lightgbm(native, text)
    return boosters.cbm(model), boosters.of_catboost(model)


def _hint(found: boosters.Booster, wrong: str) -> str:
    if "features" in wrong:
        return _RETRAIN
    if "no probabilities" in wrong:
        better = "multi:softprob" if found.objective.startswith("multi") else "binary:logistic"
        return f"Train with an objective that gives them, as {better} does."
    return "Correct `task:` (and `quantiles:`), or train with an objective of that task."


def _classes(model: Any, found: boosters.Booster, seen: list[Any], name: str) -> list[Any]:
    """The classes in the order of the booster's probabilities."""
    own = found.classes
    if own is None and found.framework == "lightgbm" and hasattr(model, "classes_"):
        own = model.classes_.tolist()
    if own is not None and own != list(range(len(own))):
        return own
    if len(seen) != found.outputs:
        raise MisfitError(
            f"the {name} gives probabilities of {found.outputs} classes, but the training rows hold {len(seen)}",
            "Train on all classes of the target: class i is the i-th of its sorted values.",
        )
    return list(seen)
