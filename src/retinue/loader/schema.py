"""The shapes a portfolio file may have, as pydantic models; editors and the reference page are fed from them.

Field descriptions are the reference. `rebuilds` says whether a change of the key makes a new version.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from retinue.core.contract import Task
from retinue.loader.schema_data import Listed, Table
from retinue.loader.schema_forecast import Backtest, Every, Horizon, Season
from retinue.loader.schema_gates import (
    Calibration,
    FairnessValue,
    Latency,
    OneOrMore,
    Robustness,
    SlicesValue,
)
from retinue.loader.schema_serving import Cache, Journal, Serve
from retinue.loader.shape import Shape, needed, opt
from retinue.loader.types import (
    Approval,
    Duration,
    Expected,
    Margin,
    Name,
    Percent,
    Scalar,
    Share,
    Size,
    SomeTexts,
    Text,
    Texts,
    Train,
    above_nothing,
    one_or_many,
    wrong,
)


class Environment(Shape):
    """A set of Python packages in which models train and run."""

    requirements: Text = needed("Requirements file, relative to the portfolio; locked beside it.", "yes")
    python: Annotated[str, Field(pattern=r"^3\.[0-9]+(\.[0-9]+)?$")] | None = opt(
        'Another Python version, e.g. "3.11".', "yes"
    )


class RolloutPolicy(Shape):
    """How a change takes over traffic. Parsed and versioned; the steps act in a later Retinue."""

    shadow: Annotated[str, Field(pattern=r"^[0-9]+ requests$")] | None = opt("Shadow first: `300 requests`.")
    steps: list[Percent] = opt("Shares of traffic, one after another: [5%, 25%, 50%].", default=[])
    deadline: Duration | None = opt("How long the rollout may take.")
    on_inconclusive: Literal["wait", "abort", "release"] = opt("When the evidence does not decide.", default="wait")


class RetrainPolicy(Shape):
    """When models are built again on newer data. Parsed and versioned; acts in a later Retinue."""

    when: list[Literal["schedule", "drift", "decay", "labels"]] = needed("What may trigger a retraining.")
    schedule: Annotated[str, Field(pattern=r"^\S+ \S+ \S+ \S+ \S+$")] | None = opt("Cron expression, five fields.")
    budget: Annotated[str, Field(pattern=r"^[0-9]+ per (hour|day|week|month)$")] | None = opt("`20 per day`.")
    cooldown: Duration | None = opt("Least time between two retrainings of a model.")

    @model_validator(mode="after")
    def _scheduled(self) -> RetrainPolicy:
        if "schedule" in self.when and self.schedule is None:
            raise wrong("`when` has schedule, but `schedule` is missing", 'Add `schedule: "0 2 * * SUN"`.')
        return self


class Policies(Shape):
    """Named policies that models refer to."""

    rollout: dict[Name, RolloutPolicy] = opt("Rollout policies by name.", default={})
    retrain: dict[Name, RetrainPolicy] = opt("Retrain policies by name.", default={})


class Metric(Shape):
    """Thresholds of one metric on the holdout."""

    min: float | None = opt("Least value that passes.")
    max: float | None = opt("Largest value that passes.")
    vs_champion: Literal["not_worse"] | None = opt("Paired non-inferiority against the live version.")
    margin: Margin | None = opt("How much worse still counts as not worse: `2%` or an absolute number.")
    on_inconclusive: Literal["pooled", "keep", "pass"] | None = opt(
        "Too little data to tell: test the family as one, keep the champion, or pass. "
        "Default: pooled in a family, keep alone."
    )

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, value: object) -> object:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            raise wrong(
                f"a threshold must say which side it is, found {value!r}",
                f"Write {{min: {value}}} or {{max: {value}}}.",
            )
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Metric:
        if self.min is None and self.max is None and self.vs_champion is None:
            raise wrong("expected `min`, `max` or `vs_champion`", "A gate without a threshold tests nothing.")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise wrong(f"min {self.min} is above max {self.max}", "Swap them.")
        if self.vs_champion is None and self.margin is not None:
            raise wrong("`margin` belongs to `vs_champion`", "Add `vs_champion: not_worse`, or remove `margin`.")
        return self


class Example(Shape):
    """A row the user wrote and what the model must answer."""

    input: dict[Text, Scalar] = needed("One row: feature → value.")
    expect: dict[Text, Expected] = needed("Output → exact value, or [low, high] for a number.")


class Gates(Shape):
    """Tests between a build and traffic. Every key that is not listed here is a metric's name."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, Metric | None] = Field(init=False)

    examples: list[Example] | None = opt("Rows with their expected answers.")
    size: Size | None = opt("Largest artifact that may serve: `20MB`.")
    memory: Size | None = opt("Most memory of a loaded copy: `64MB`.")
    slices: SlicesValue | None = opt("No group of rows much worse than the rest; one, or a list.")
    latency: Latency | None = opt("Time of a call with one row.")
    calibration: Calibration | None = opt("Probabilities mean what they say.")
    fairness: FairnessValue | None = opt("Rates of groups close to each other; one, or a list.")
    robustness: Robustness | None = opt("Noise and extremes move the answer little.")
    pytest: OneOrMore | None = opt("Test files of yours, relative to the portfolio.")


class LimitsShape(Shape):
    """Bounds of one training; over them it is stopped and said."""

    time: Annotated[Duration, AfterValidator(above_nothing)] | None = opt("Wall time; default 10m.")
    memory: Annotated[Size, AfterValidator(above_nothing)] | None = opt("Memory; default 4GiB.")


class Holdout(Shape):
    """For data without time: which rows are held out."""

    by: Text | None = opt("Column whose hash decides; default: the table's key.", "yes")
    share: Share | None = opt("Share of rows; default 20%.", "yes")


class DataUseShape(Shape):
    """How a model reads one table."""

    where: dict[Text, str] = opt(
        "Only rows whose columns equal these values; may hold {placeholders}.", "yes", default={}
    )


class NeedShape(Shape):
    """How an upstream's output becomes a column."""

    output: Text | None = opt("Upstream output; default: the regression target, or `probability`.", "yes")
    inputs: dict[Text, Text] = opt("Upstream feature → own field, where the names differ.", "yes", default={})
    column: Text | None = opt("Name of the column; default: the upstream's name.", "yes")


class Slo(Shape):
    """Service level objectives."""

    availability: Percent | None = opt("Share of requests answered: 99.9%.")
    latency: dict[Literal["p50", "p90", "p95", "p99"], Duration] = opt("Quantile → bound.", default={})


class Monitor(Shape):
    """What is watched. Parsed and versioned; acts in a later Retinue."""

    slo: Slo | None = opt("Objectives of this model.")


class Resources(Shape):
    """Serving resources. Parsed and versioned; acts in a later Retinue."""

    memory: Size | None = opt("A first guess; measured values replace it.")


DataItem = Annotated[
    Annotated[Text, Tag("<name>")] | Annotated[dict[Text, DataUseShape | None], Tag("<mapping>")],
    Discriminator(
        one_or_many,
        custom_error_type="retinue",
        custom_error_message="expected a table's name or {table: {where: …}}",
    ),
]
DataValue = Annotated[
    Annotated[Text, Tag("<name>")]
    | Annotated[list[DataItem], Tag("<list>")]
    | Annotated[dict[Text, DataUseShape | None], Tag("<mapping>")],
    Discriminator(
        one_or_many,
        custom_error_type="retinue",
        custom_error_message="expected a table's name, a list of names, or {table: {where: …}}",
    ),
]
NeedsValue = Annotated[
    Annotated[Texts, Tag("<list>")] | Annotated[dict[Text, NeedShape | None], Tag("<mapping>")],
    Discriminator(
        one_or_many,
        custom_error_type="retinue",
        custom_error_message="expected a list of models, or {model: {output: …, inputs: …, column: …}}",
    ),
]


class ModelFields(Shape):
    """Keys that a model, `defaults:` and `override:` share; all optional here."""

    train: Train | None = opt("Training entry point, `module:function`.", "yes")
    prepare: Train | None = opt(
        "Function over the features, `module:function`; it travels with the version and runs wherever the model does.",
        "yes",
    )
    environment: Text | None = opt("Name of an environment.", "yes")
    data: DataValue | None = opt("Table, list of tables (the first holds the rows), or {table: {where: …}}.", "yes")
    task: Task | None = opt("regression, forecast, quantiles, binary or multiclass.", "yes")
    features: SomeTexts | None = opt("Columns in order, those from `needs` too.", "yes")
    target: Text | None = opt("Column to predict.", "yes")
    needs: NeedsValue | None = opt("Upstream models whose output becomes a column.", "yes")
    params: dict[str, Any] | None = opt("Free parameters for the training function.", "yes")
    files: Texts | None = opt("Further files or globs the training reads, relative to the portfolio.", "yes")
    holdout: Holdout | None = opt("Rows held out where the data has no time.", "yes")
    gates: Gates | None = opt("Tests before any traffic.", "re-gate")
    limits: LimitsShape | None = opt("Bounds of one training.")
    semantics: Annotated[int, Field(ge=1)] | None = opt("Raise it when meaning changes but types don't.", "yes")
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] | None = opt("Of `task: quantiles`, rising.", "yes")
    horizon: Horizon | None = opt("Of `task: forecast`: how many steps ahead are predicted.", "yes")
    series: SomeTexts | None = opt("Of `task: forecast`: columns that tell series apart; default: one series.", "yes")
    season: Season | None = opt("Of `task: forecast`: steps after which the naive forecast repeats; default 1.", "yes")
    every: Every | None = opt("Of `task: forecast`: length of a step; default: a step is a row.", "yes")
    backtest: Backtest | None = opt("Of `task: forecast`: metrics per fold and step, in the evidence.", "yes")
    compile: Literal["auto", "require", "forbid"] | None = opt("Compilation to ONNX; default auto.", "yes")
    approval: Approval | None = opt("Who must approve each version before it lands: `required by GROUP`.")
    protect: bool | None = opt("Never removed unless named; default false.")
    rollout: Text | None = opt("Name of a rollout policy.")
    retrain: Text | None = opt("Name of a retrain policy.")
    monitor: Monitor | None = opt("What is watched; acts in a later Retinue.")
    resources: Resources | None = opt("Serving resources; acts in a later Retinue.")
    serve: Serve | None = opt("How it is served.")
    owner: Text | None = opt("Who is responsible.")
    description: Text | None = opt("What the model is for.")
    tags: Texts | None = opt("Labels for selectors: `tag:…`.")


Columns = Annotated[
    Annotated[SomeTexts, Tag("<list>")] | Annotated[dict[Text, Text], Tag("<mapping>")],
    Discriminator(
        one_or_many,
        custom_error_type="retinue",
        custom_error_message="expected a list of columns or {placeholder: column}",
    ),
]


class Distinct(Shape):
    """Members are the distinct values of columns of a table."""

    distinct: Columns = needed("Columns, or {placeholder: column}.")
    of: Text = needed("Table that holds the columns.")
    min_rows: Annotated[int, Field(ge=1)] = opt("Fewer rows: the key waits.", default=1)
    lapse: Literal["keep", "remove", "fail"] = opt("When a member falls below or disappears.", default="keep")
    exclude: list[str] = opt('Keys left out: "JFK,B6" or "JFK,*".', default=[])
    only: list[str] = opt("The only keys to take; patterns as in `exclude`.", default=[])


def _for_each(value: object) -> str | None:
    if isinstance(value, dict):
        if any(isinstance(value.get(key), str) for key in ("csv", "python")):
            return "<listed>"
        return "<distinct>" if {"distinct", "of"} & set(value) else "<lists>"
    if isinstance(value, list):
        return "<keys>" if any(isinstance(item, dict) for item in value) else "<values>"
    return None


ForEachValue = Annotated[
    Annotated[Distinct, Tag("<distinct>")]
    | Annotated[Listed, Tag("<listed>")]
    | Annotated[dict[str, SomeTexts], Tag("<lists>")]
    | Annotated[list[dict[str, str]], Tag("<keys>")]
    | Annotated[SomeTexts, Tag("<values>")],
    Discriminator(
        _for_each,
        custom_error_type="retinue",
        custom_error_message="expected {distinct: […], of: TABLE}, {csv: FILE}, {python: …}, "
        "{placeholder: [values]} or a list",
    ),
]


class Model(ModelFields):
    """A model, or a family when its name holds {placeholders}."""

    train: Train = needed("Training entry point, `module:function`.", "yes")
    environment: Text = needed("Name of an environment; usually from `defaults:`.", "yes")
    data: DataValue = needed(
        "Table, list of tables (the first holds the rows that are predicted), or {table: {where: {column: value}}}.",
        "yes",
    )
    task: Task = needed("regression, forecast, quantiles, binary or multiclass.", "yes")
    features: SomeTexts = needed("Columns in order; those from `needs` are listed too.", "yes")
    target: Text = needed("Column to predict.", "yes")
    for_each: ForEachValue | None = opt(
        "How members are found: {distinct: […], of: TABLE}, {placeholder: [values]}, or a list of values or keys."
    )
    override: dict[Text, ModelFields] = opt('Other values for some members: {"JFK,B6": {params: …}}.', default={})
    was: Text | None = opt("Old name of a renamed model; may hold the same {placeholders}.")


class Fallback(Shape):
    """Who answers when the selected model can't."""

    model: Text = needed("Name of the model that answers instead.")
    when: list[Literal["unknown", "unavailable", "stale_input"]] = opt(
        "Reasons; default [unknown, unavailable].", default=["unknown", "unavailable"]
    )


class Endpoint(Shape):
    """A public name that clients call."""

    select: Text = needed("Model's name; {fields} are filled from each row.")
    fallback: Fallback | None = opt("Who answers instead.")
    cache: Cache | None = opt("Answers that may be given again.")
    journal: Journal | None = opt("What the journal keeps.")


class PortfolioFile(Shape):
    """A portfolio file."""

    portfolio: Name = needed("Name of the portfolio: the namespace of its models.")
    format: Literal[1] = opt("Version of this file format.", default=1)
    include: SomeTexts = opt("Further files with data, environments, policies, models or endpoints.", default=[])
    cutoff: str = opt("Where training ends: `last 20%` of rows in time, or a date.", "yes", default="last 20%")
    data: dict[Name, Table] = opt("Tables and views by name.", default={})
    environments: dict[Name, Environment] = opt("Environments by name.", default={})
    policies: Policies = opt("Named policies.", default=Policies())
    defaults: ModelFields = opt("Merged under every model.", default=ModelFields())
    models: dict[str, Model] = opt("Models and families by name.", default={})
    endpoints: dict[Name, Endpoint] = opt("Public names.", default={})


class Main(Shape):
    """The top-level keys of the main file, sections unchecked: each of their entries is checked on its own."""

    portfolio: Name = needed("Write the name of the portfolio: portfolio: NAME.")
    format: Literal[1] = 1
    include: SomeTexts = Field(default=[])
    cutoff: str = "last 20%"
    data: dict[str, Any] = Field(default={})
    environments: dict[str, Any] = Field(default={})
    policies: dict[str, Any] = Field(default={})
    defaults: dict[str, Any] = Field(default={})
    models: dict[str, Any] = Field(default={})
    endpoints: dict[str, Any] = Field(default={})
