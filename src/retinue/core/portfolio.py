"""What a portfolio file declares, as frozen values. The loader makes them; nobody changes them afterwards.

A `ModelTemplate` is what stands in the file (a single model is a family of one without keys); `ModelSpec` is
one model, with every placeholder filled. `core/family.py` turns the first into the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retinue.core.checks import CheckSpec
from retinue.core.contract import DType, Task
from retinue.core.errors import Location
from retinue.core.forecast import NONE, ForecastSpec
from retinue.core.gate_specs import (
    CalibrationGate,
    FairnessGate,
    LatencyGate,
    RobustnessGate,
    SliceGate,
    TestFile,
)
from retinue.core.state import ServedCache, ServedJournal

Json = Any  # a JSON value; kept as such because user params are free-form
Key = tuple[tuple[str, str], ...]
"""A member's key: ((placeholder, value), …) in the template's order; values are always strings."""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table or a view (SQL over other tables). `path` is as written; `available` in seconds.

    A table comes from files (`path`, maybe a URL), from a database (`query` through `connection`), from dbt (`dbt`) or
    from a function (`python`, run in `environment`). `version` asks cheaply whether it has moved.
    """

    name: str
    where: Location
    path: str | None = None
    sql: str | None = None
    format: Literal["parquet", "csv"] | None = None
    time: str | None = None
    key: str | None = None
    available: tuple[tuple[str, float], ...] = ()
    connection: str | None = None  # a name of retinue.toml, never its URL
    query: str | None = None
    version: str | None = None  # a query, or for `python` a function
    dbt: str | None = None
    python: str | None = None  # "package.module:function"
    environment: str | None = None  # in which `python` runs
    code: str | None = None  # digest of the function's import closure, filled in when it is read
    checks: tuple[CheckSpec, ...] = ()  # before training; in no definition

    @property
    def is_view(self) -> bool:
        """Whether this is SQL over other tables."""
        return self.sql is not None


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """A set of packages: a requirements file beside the portfolio and, if named, a Python version."""

    name: str
    where: Location
    requirements: str
    python: str | None = None


@dataclass(frozen=True, slots=True)
class CutoffSpec:
    """Where training ends and the holdout begins: the last share of rows in time, or a fixed moment (ISO)."""

    share: float | None = 0.2
    at: str | None = None


@dataclass(frozen=True, slots=True)
class HoldoutSpec:
    """For data without time: the share of rows held out, by hash of a column (the table's key by default)."""

    by: str | None = None
    share: float = 0.2


@dataclass(frozen=True, slots=True)
class DataUse:
    """One table a model reads, with bound equality filters (column, value)."""

    table: str
    filters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """An upstream model: its `output` becomes column `column`; `inputs` maps upstream feature → own field."""

    model: str
    output: str
    column: str
    inputs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class MetricGate:
    """One metric's thresholds. `margin` is relative when `margin_relative`, else in the metric's own unit."""

    metric: str
    minimum: float | None = None
    maximum: float | None = None
    vs_champion: bool = False
    margin: float = 0.02
    margin_relative: bool = True
    on_inconclusive: Literal["pooled", "keep", "pass"] = "keep"


@dataclass(frozen=True, slots=True)
class ExampleGate:
    """A row the user wrote and what the model must answer: per output an exact value or (low, high)."""

    inputs: tuple[tuple[str, Json], ...]
    expect: tuple[tuple[str, Json], ...]


@dataclass(frozen=True, slots=True)
class Gates:
    """All tests a version must pass before traffic; the contract test is always on."""

    metrics: tuple[MetricGate, ...] = ()
    examples: tuple[ExampleGate, ...] = ()
    size: int | None = None  # bytes of the artifact that would serve
    slices: tuple[SliceGate, ...] = ()
    latency: LatencyGate | None = None
    memory: int | None = None  # bytes of a loaded copy
    calibration: CalibrationGate | None = None
    fairness: tuple[FairnessGate, ...] = ()
    robustness: RobustnessGate | None = None
    pytest: tuple[TestFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one training: seconds of wall time, bytes of memory."""

    time: float = 600.0
    memory: int = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Metadata:
    """What never rebuilds anything."""

    owner: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as declared. In a template every string may hold `{placeholder}`."""

    name: str
    where: Location
    train: str  # "package.module:function"
    environment: str
    data: tuple[DataUse, ...]  # the first one holds the rows that are predicted
    features: tuple[str, ...]  # in order; columns from `needs` are listed here too
    target: str
    task: Task
    params: Mapping[str, Json] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    files: tuple[str, ...] = ()
    holdout: HoldoutSpec = HoldoutSpec()
    gates: Gates = Gates()
    limits: Limits = Limits()
    semantics: int = 1
    compile: Literal["auto", "require", "forbid"] = "auto"
    protect: bool = False
    metadata: Metadata = Metadata()
    family: str | None = None
    key: Key = ()
    was: str | None = None
    rollout: str | None = None  # policy names; what they say is in Portfolio.policies
    retrain: str | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)  # serve acts; monitor, resources act later
    artifact: str | None = None  # a model from outside: its path; `train` is empty then
    format: str | None = None
    types: tuple[tuple[str, DType], ...] = ()  # declared types of features, where no table tells them
    classes: tuple[Json, ...] = ()  # declared classes, where no table tells them
    quantiles: tuple[float, ...] = ()  # of `task: quantiles`, rising
    prepare: str | None = None  # "package.module:function" over the features, wherever the model runs
    forecast: ForecastSpec = NONE
    approval: str | None = None  # the group that must approve each version before it lands


@dataclass(frozen=True, slots=True)
class ForEach:
    """How members are found: written out as `keys`, the distinct values of columns of a table, or by a function."""

    placeholders: tuple[str, ...]
    keys: tuple[Key, ...] = ()
    table: str | None = None
    columns: tuple[str, ...] = ()  # same order as placeholders
    min_rows: int = 1
    lapse: Literal["keep", "remove", "fail"] = "keep"
    python: str | None = None  # "package.module:function" that gives the keys, run in the model's environment


@dataclass(frozen=True, slots=True)
class Override:
    """Replacements for members whose key values match (`*` matches any), e.g. {"params": {…}}."""

    match: tuple[str, ...]
    values: Mapping[str, Json]
    where: Location


@dataclass(frozen=True, slots=True)
class ModelTemplate:
    """A model or family as it stands in the file."""

    spec: ModelSpec
    for_each: ForEach | None = None
    overrides: tuple[Override, ...] = ()
    exclude: tuple[tuple[str, ...], ...] = ()
    only: tuple[tuple[str, ...], ...] = ()  # patterns of keys; empty: all


FallbackReason = Literal["unknown", "unavailable", "stale_input"]


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """A public name. `select` is a model name, possibly with `{field}`s that are filled from each row."""

    name: str
    where: Location
    select: str
    fallback: str | None = None
    fallback_when: tuple[FallbackReason, ...] = ("unknown", "unavailable")
    cache: ServedCache | None = None  # with `journal` on the line of settings: no rollback of models touches them
    journal: ServedJournal = field(default_factory=ServedJournal)


@dataclass(frozen=True, slots=True)
class Portfolio:
    """Everything one file declares. `root` is the folder that relative paths start from."""

    name: str
    root: str
    file: str
    cutoff: CutoffSpec
    tables: Mapping[str, TableSpec]
    environments: Mapping[str, EnvironmentSpec]
    policies: Mapping[str, Mapping[str, Json]]  # kind ("rollout", "retrain") → name → body
    models: Mapping[str, ModelTemplate]  # by name as written (with placeholders)
    endpoints: Mapping[str, EndpointSpec]
    notes: tuple[str, ...] = ()  # what is parsed and versioned but acts only in a later Retinue
