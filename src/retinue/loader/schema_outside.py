"""The shape of a model that comes from outside, and the types of features where no table tells them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Tag, model_validator

from retinue.core.contract import DType, Task
from retinue.loader.schema import ForEachValue, ModelFields, PortfolioFile
from retinue.loader.shape import needed, opt
from retinue.loader.types import Scalar, SomeTexts, Text, one_or_many, wrong


def _some_types(value: dict[str, DType]) -> dict[str, DType]:
    if not value:
        raise wrong("expected at least one, found an empty mapping", "Write {feature: FP64, …}.")
    return value


Typed = Annotated[
    Annotated[SomeTexts, Tag("<list>")] | Annotated[dict[Text, DType], AfterValidator(_some_types), Tag("<mapping>")],
    Discriminator(
        one_or_many,
        custom_error_type="retinue",
        custom_error_message="expected a list of columns, or {feature: FP64 | INT64 | BOOL | BYTES}",
    ),
]


def _classes(values: list[Any]) -> list[Any]:
    if len(values) < 2 or len({repr(value) for value in values}) != len(values) or None in values:
        raise wrong("expected two or more different classes", "List them as the model numbers them: [false, true].")
    return values


class OutsideModel(ModelFields):
    """A model that comes from outside instead of `train:`; gates, releases and serving are the same."""

    artifact: Text = needed(
        "File relative to the portfolio, s3://…, or `published`: handed over by `retinue publish`.", "yes"
    )
    format: Literal["onnx", "skops", "xgboost", "lightgbm", "catboost"] | None = opt(
        "How the artifact is read; default: as its ending tells.", "yes"
    )
    task: Task = needed("regression, forecast, quantiles, binary or multiclass.", "yes")
    features: Typed = needed(  # type: ignore[assignment]  # wider on purpose: without data, types are declared
        "Inputs in order. Without `data`, with their types: {amount: FP64, country: BYTES}.", "yes"
    )
    classes: Annotated[list[Scalar], AfterValidator(_classes)] | None = opt(
        "Without `data`: the classes in the model's order, e.g. [false, true].", "yes"
    )
    for_each: ForEachValue | None = opt("How members are found; `artifact` may hold {placeholders}.")
    override: dict[Text, ModelFields] = opt("Other values for some members.", default={})
    was: Text | None = opt("Old name of a renamed model.")

    @model_validator(mode="after")
    def _not_trained(self) -> OutsideModel:
        if self.train is not None:
            raise wrong("expected either `train` or `artifact`", "A model is trained here, or comes from outside.")
        return self


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a portfolio file, for editors."""
    schema = PortfolioFile.model_json_schema()
    outside = OutsideModel.model_json_schema()
    schema["$defs"] |= {**outside.pop("$defs"), "OutsideModel": outside}
    arms = [{"$ref": "#/$defs/Model"}, {"$ref": "#/$defs/OutsideModel"}]
    schema["properties"]["models"]["additionalProperties"] = {"anyOf": arms}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Retinue portfolio"
    return schema
