"""XGBoost, LightGBM and CatBoost in their own formats, which hold trees and no code: loaded, checked and run.

    "xgboost"   UBJSON or JSON, as `Booster.save_model` writes      "catboost"  cbm
    "lightgbm"  text, as `Booster.save_model` writes

What a model needs to be asked rightly lies in its own file: the order of features, the categories it was trained on.
A text that training did not know is asked as missing (XGBoost, LightGBM; CatBoost has an own way with it); a missing
text is asked of CatBoost as the empty string.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FRAMEWORKS = ("xgboost", "lightgbm", "catboost")
_GENERIC = re.compile(r"Column_\d+|f\d+|\d+")  # what frameworks call the columns of an array


class BoosterError(Exception):
    """The file is no model of this framework, or the model does not fit its declaration. The text says why."""


@dataclass(frozen=True)
class Booster:
    """A booster of any of the three, and what it says of itself.

    `names` are its features in order, None if it was trained on an array of `width` columns. `kind` is "value",
    "binary", "multiclass" or "margin" (a classification without probabilities); `outputs` are the numbers it gives
    for a row. `categories` has per feature the values whose place is their code, None for a number. `quantiles`
    are those it was trained for, `classes` its own, where it knows them. `predict` takes the rows of a `feed`.
    """

    framework: str
    native: Any
    names: list[str] | None
    width: int
    kind: str
    objective: str
    outputs: int
    categories: list[list[Any] | None]
    predict: Callable[[Any], Any]
    classes: list[Any] | None = None
    quantiles: list[float] | None = None
    texts: frozenset[int] = frozenset()  # features that are asked as text (CatBoost)


def framework_of(model: Any) -> str | None:
    """The framework of a booster or of its scikit-learn wrapper, None for anything else."""
    for kind in type(model).__mro__:
        name = kind.__module__.split(".")[0]
        if name in FRAMEWORKS and kind.__name__ in ("Booster", "XGBModel", "LGBMModel", "CatBoost"):
            return name
    return None


def read(path: str, framework: str) -> Booster:
    """The booster in a file. Raises BoosterError when it is none, torn or empty."""
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise BoosterError("the file is empty")
    try:
        return {"xgboost": _read_xgboost, "lightgbm": _read_lightgbm, "catboost": _read_catboost}[framework](data)
    except BoosterError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BoosterError(f"not a {framework} model: {lines[0] if lines else type(error).__name__}") from error


def load(path: str, framework: str, signature: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from columns to raw outputs by contract name. Raises BoosterError."""
    booster = read(path, framework)
    names = [field["name"] for field in signature["inputs"]]
    wrong = misfit(booster, signature["task"], names, signature.get("quantiles") or signature.get("steps"))
    if wrong is None:
        wrong = _misfit_classes(booster, signature)
    if wrong is not None:
        raise BoosterError(wrong)
    order = class_order(booster, signature.get("classes"))
    feed = _feeder(booster, signature["inputs"])

    def run(columns: dict[str, Any]) -> dict[str, Any]:
        return _outputs(booster.predict(feed(columns)), signature, order)

    return run


def misfit(booster: Booster, task: str, features: list[str], quantiles: list[Any] | None) -> str | None:
    """Why a booster does not fit a declaration, None when it does; `quantiles` are the steps of a forecast."""
    if booster.width != len(features):
        return f"the booster was trained on {booster.width} columns, but there are {len(features)} features"
    if booster.names is not None and [_plain(name) for name in booster.names] != [_plain(name) for name in features]:
        return f"the booster was trained on {', '.join(booster.names)}, but the features are {', '.join(features)}"
    if task in ("regression", "quantiles", "forecast"):
        wanted = 1 if task == "regression" else len(quantiles or ())
        if booster.kind != "value":
            return f"the task is {task}, but the booster's objective is {booster.objective}"
        if booster.outputs != wanted:
            return f"the task is {task}, but the booster gives {booster.outputs} numbers a row, not {wanted}"
        own = booster.quantiles
        if task == "quantiles" and own is not None and [float(q) for q in quantiles or ()] != own:
            return f"the booster was trained for the quantiles {own}, but {quantiles} are declared"
        return None
    if booster.kind == "margin":
        return f"the objective {booster.objective} gives no probabilities"
    if booster.kind != task:
        return f"the task is {task}, but the booster's objective is {booster.objective}"
    return None


def _plain(name: str) -> str:
    return re.sub(r"\s", "_", name)  # LightGBM writes names without blanks


def _misfit_classes(booster: Booster, signature: dict[str, Any]) -> str | None:
    if signature["task"] not in ("binary", "multiclass"):
        return None
    found = len(signature.get("classes") or ())
    return None if found == booster.outputs else f"the booster knows {booster.outputs} classes, {found} are declared"


def class_order(booster: Booster, classes: list[Any] | None) -> list[int] | None:
    """Where each declared class is among the booster's, None when they agree or it has none of its own."""
    own = booster.classes
    if own is None or not classes or own == list(classes):
        return None
    texts = [str(value).lower() for value in own]
    wanted = [str(value).lower() for value in classes]
    if sorted(texts) != sorted(wanted):
        raise BoosterError(f"the booster knows the classes {own}, its signature says {classes}")
    return [texts.index(value) for value in wanted]


def _outputs(raw: Any, signature: dict[str, Any], order: list[int] | None) -> dict[str, Any]:
    """Outputs by contract name from values [n], [n, quantiles] or probabilities [n], [n, classes]."""
    import numpy as np

    raw = np.asarray(raw)
    if signature["task"] in ("regression", "quantiles", "forecast"):
        return {signature["target"]: raw}
    probability = np.stack([1 - raw, raw], axis=1) if raw.ndim == 1 else raw
    if order is not None:
        probability = probability[:, order]
    classes = np.empty(len(signature["classes"]), dtype=object)
    classes[:] = signature["classes"]
    return {"label": classes[probability.argmax(axis=1)], "probability": probability}


# ------------------------------------------------------------------------------------------------------------ feeding
def _feeder(booster: Booster, inputs: list[dict[str, Any]]) -> Callable[[dict[str, Any]], Any]:
    """From columns to the array that the booster takes: numbers and codes, or values where it takes text itself."""
    import numpy as np

    if booster.texts:
        return lambda columns: _mixed(columns, inputs, booster.texts)
    codes: list[dict[Any, int] | None] = []
    for field, values in zip(inputs, booster.categories):  # noqa: B905  Python 3.9 has no strict
        if values is None and field["dtype"] == "BYTES":
            raise BoosterError(f"{field['name']} is text, but the booster knows no categories for it")
        codes.append(None if values is None else {value: code for code, value in enumerate(values)})

    def feed(columns: dict[str, Any]) -> Any:
        matrix = np.empty((len(columns[inputs[0]["name"]]), len(inputs)), dtype=np.float64)
        for place, (field, known) in enumerate(zip(inputs, codes)):  # noqa: B905
            values = columns[field["name"]]
            if known is not None:
                values = [known.get(value, np.nan) for value in values.tolist()]
            matrix[:, place] = values
        return matrix

    return feed


def _mixed(columns: dict[str, Any], inputs: list[dict[str, Any]], texts: frozenset[int]) -> Any:
    """An object array [n, k] for CatBoost: numbers as floats, categories as text or whole numbers."""
    import numpy as np

    table = np.empty((len(columns[inputs[0]["name"]]), len(inputs)), dtype=object)
    for place, field in enumerate(inputs):
        values = columns[field["name"]]
        if place not in texts:
            if field["dtype"] == "BYTES":
                raise BoosterError(f"{field['name']} is text, but the booster takes it as a number")
            table[:, place] = values.astype(np.float64)
        elif field["dtype"] == "BYTES":
            table[:, place] = ["" if value is None else value for value in values.tolist()]
        elif values.dtype.kind == "f" and np.isnan(values).any():
            raise BoosterError(f"{field['name']} is missing, and CatBoost takes no missing category")
        else:
            table[:, place] = values.astype(np.int64)
    return table


# ------------------------------------------------------------------------------------------------------------ xgboost
def _read_xgboost(data: bytes) -> Booster:
    if data[:1] != b"{" or data.rstrip()[-1:] != b"}":  # it ends the process when it is given some other bytes
        raise BoosterError("not a whole XGBoost model: neither UBJSON nor JSON from the first byte to the last")
    import xgboost

    native = xgboost.Booster({"nthread": 1})
    native.load_model(bytearray(data))
    native.set_param({"nthread": 1})
    return of_xgboost(native)


def of_xgboost(native: Any) -> Booster:
    """What an `xgboost.Booster` says of itself."""
    import xgboost

    learner = json.loads(native.save_config())["learner"]
    parameters, objective = learner["learner_model_param"], learner["objective"]["name"]
    names, width = native.feature_names, int(native.num_features())
    kinds = {"binary:logistic": "binary", "multi:softprob": "multiclass"}
    kind = kinds.get(objective) or ("margin" if objective.startswith(("binary:", "multi:", "rank:")) else "value")
    quantiles = None
    outputs = max(1, int(parameters["num_target"]))
    if objective == "reg:quantileerror":
        quantiles = _numbers(learner["objective"]["quantile_loss_param"]["quantile_alpha"])
        outputs = len(quantiles)
    elif kind != "value":
        outputs = max(2, int(parameters["num_class"]))
    types = native.feature_types
    best = native.attr("best_iteration")  # what a wrapper that stopped early answers with; see `xgboost_bytes`
    trees = (0, int(best) + 1 if best is not None else 0)

    def predict(matrix: Any) -> Any:
        rows = xgboost.DMatrix(matrix, feature_names=names, feature_types=types, enable_categorical=True, nthread=1)
        return native.predict(rows, iteration_range=trees)

    return Booster("xgboost", native, _named(names), width, kind, objective, outputs,
                   _xgboost_categories(native, width), predict, quantiles=quantiles)  # fmt: skip


def xgboost_bytes(model: Any) -> bytes:
    """A booster's or wrapper's bytes. A wrapper answers with its best iteration, a bare booster with all its trees."""
    if hasattr(model, "get_booster"):
        return bytes(model.get_booster().save_raw("ubj"))
    native = model.copy()
    native.set_attr(best_iteration=None, best_score=None)
    return bytes(native.save_raw("ubj"))


def _xgboost_categories(native: Any, width: int) -> list[list[Any] | None]:
    """Per feature the categories that training saw; older models do not hold them."""
    if "c" not in (native.feature_types or ()) or not hasattr(native, "get_categories"):
        return [None] * width
    kept = native.get_categories(export_to_arrow=True).to_arrow()
    return [None] * width if not kept else [None if array is None else array.to_pylist() for _, array in kept]


# ----------------------------------------------------------------------------------------------------------- lightgbm
def _read_lightgbm(data: bytes) -> Booster:
    text = data.decode("utf-8", "replace")
    if not text.startswith("tree\n") or "end of trees" not in text or "\npandas_categorical:" not in text[-(1 << 20) :]:
        # it ends the process when trees are missing
        raise BoosterError("not a whole LightGBM model: text from `tree` to `pandas_categorical:`")
    import lightgbm

    return of_lightgbm(lightgbm.Booster(model_str=text), text)


def of_lightgbm(native: Any, text: str) -> Booster:
    """What a `lightgbm.Booster`, whose model text is `text`, says of itself."""
    head = dict(line.partition("=")[::2] for line in text.partition("\nTree=")[0].splitlines())
    words = head.get("objective", "custom").split()
    outputs, names = int(native.num_model_per_iteration()), native.feature_name()
    kinds = {"binary": "binary", "cross_entropy": "binary", "multiclass": "multiclass", "multiclassova": "multiclass"}
    kind = kinds.get(words[0], "value")
    quantiles = None
    if words[0] == "quantile":
        found = re.search(r"^\[alpha: (.*)\]$", text, re.M)
        quantiles = [float(found[1])] if found else None

    def predict(matrix: Any) -> Any:
        return native.predict(matrix, num_threads=1)

    return Booster("lightgbm", native, _named(names), len(names), kind, words[0], 2 if kind == "binary" else outputs,
                   _lightgbm_categories(native, head["feature_infos"].split()), predict,
                   quantiles=quantiles)  # fmt: skip


def _lightgbm_categories(native: Any, infos: list[str]) -> list[list[Any] | None]:
    """Per feature its categories: the model lists them in the order of the columns that were categorical."""
    kept = list(native.pandas_categorical or ())
    categorical = [info[:1] != "[" for info in infos]  # ranges are in brackets; a constant column says `none`
    if kept and sum(categorical) > len(kept):
        categorical = [info[:1] not in ("[", "n") for info in infos]
    if kept and sum(categorical) != len(kept):
        raise BoosterError("a column was the same in every training row, so whose categories are whose is unknown")
    left = iter(kept)
    return [next(left) if kept and is_one else None for is_one in categorical]


# ----------------------------------------------------------------------------------------------------------- catboost
def _read_catboost(data: bytes) -> Booster:
    import catboost

    # magic, length, so many bytes: CatBoost itself reads on beyond the end of a torn blob, into whatever lies there
    if data[:4] != b"CBM1" or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise BoosterError("not a catboost model: it does not begin with CBM1, or its end is missing")
    native = catboost.CatBoost()
    native.load_model(blob=data)
    return of_catboost(native)


def of_catboost(native: Any) -> Booster:
    """What a `catboost.CatBoost` says of itself."""
    import catboost

    loss = json.loads(native.get_metadata()["params"])["loss_function"]
    names, objective = native.feature_names_, loss["type"]
    kinds = {"Logloss": "binary", "CrossEntropy": "binary", "MultiClass": "multiclass",
             "MultiClassOneVsAll": "multiclass"}  # fmt: skip
    kind = kinds.get(objective, "value")
    parameters = loss["params"] or {}
    alpha = parameters.get("alpha")
    quantiles = _numbers(alpha) if objective in ("Quantile", "MultiQuantile") and alpha else None
    classes = None if kind == "value" else [getattr(value, "item", lambda v=value: v)() for value in native.classes_]
    outputs = len(quantiles) if objective == "MultiQuantile" and quantiles else 1
    texts, documents = list(native.get_cat_feature_indices()), list(native.get_text_feature_indices())
    wanted = "RawFormulaVal" if kind == "value" else "Probability"
    if objective in ("Poisson", "Tweedie"):
        wanted = "Exponent"

    def predict(table: Any) -> Any:
        pool = catboost.Pool(table, cat_features=texts, text_features=documents, thread_count=1) \
            if table.dtype == object else table  # fmt: skip
        return native.predict(pool, prediction_type=wanted, thread_count=1)

    return Booster("catboost", native, _named(names), len(names), kind, objective,
                   outputs if kind == "value" else len(classes or ()), [None] * len(names), predict, classes,
                   quantiles, frozenset(texts + documents))  # fmt: skip


def cbm(native: Any) -> bytes:
    """A CatBoost model's bytes, the same whenever the same model was trained: without its number and its hour."""
    import catboost

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.cbm")
        native.save_model(path)
        copy = catboost.CatBoost()
        copy.load_model(path)
        metadata = copy.get_metadata()
        metadata["model_guid"], metadata["train_finish_time"] = "", ""
        copy.save_model(path)
        with open(path, "rb") as file:
            return file.read()


def _named(names: list[str] | None) -> list[str] | None:
    return None if not names or all(_GENERIC.fullmatch(name) for name in names) else list(names)


def _numbers(text: Any) -> list[float]:
    parts = text if isinstance(text, list) else str(text).strip("[]()").split(",")
    return [float(part) for part in parts]
