"""A plan: what will change in a stage, why, in typed steps. One value; `cli/render` tells it, `control/apply` does it.

Steps name models in an order that upstreams come first. Nothing here looks at the world: `core/planner` makes
plans from a wish (the file) and the actual state (the registry), both given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retinue.core.portfolio import EndpointSpec, ModelSpec, TableSpec

Json = Any
Reason = Literal[
    "ADD",
    "ARTIFACT",
    "CODE",
    "PARAMS",
    "FEATURES",
    "ENVIRONMENT",
    "UPSTREAM",
    "DATA",
    "GATES",
    "POLICY",
    "METADATA",
    "RENAME",
]


@dataclass(frozen=True, slots=True)
class Why:
    """One reason for a step with the smallest text that shows it, e.g. PARAMS "max_iter 60 → 120"."""

    reason: Reason
    text: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """Train, test and propose a version of a definition on a snapshot.

    `data` is the snapshot without its upstream versions, which may only be known once those are built;
    `snapshot` is the whole snapshot's hash when it is known now. `reuse` names a version that is already
    registered for the pair: nothing is trained then. `live` is the champion, if any.
    """

    model: str
    why: tuple[Why, ...]
    definition: str
    data: Mapping[str, Json]
    family: str | None = None
    snapshot: str | None = None
    reuse: str | None = None
    live: str | None = None
    sibling: bool = False  # a deliberate rebuild of a pair that has a version


@dataclass(frozen=True, slots=True)
class Regate:
    """Test the live version again (its upstreams or its gates changed); with `else_build`, rebuild it if it fails."""

    model: str
    why: tuple[Why, ...]
    version: str
    definition: str
    data: Mapping[str, Json]
    else_build: bool
    family: str | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a model out of the release; its versions stay."""

    model: str
    version: str
    family: str | None = None
    protect: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    """The same version under a new name."""

    model: str
    was: str
    version: str
    family: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Add, change or remove an endpoint."""

    endpoint: str
    change: Literal["add", "change", "remove"]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Configure:
    """Write a settings revision (owners, descriptions, tags, policies, gates on record): builds nothing."""

    models: tuple[str, ...]
    why: tuple[Why, ...]


Step = Build | Regate | Remove | Rename | Route | Configure


@dataclass(frozen=True, slots=True)
class Held:
    """A wish that is not tried, because of a hold on it or on a model it hangs together with."""

    model: str
    cause: str
    detail: str
    hold: int
    family: str | None = None
    release: int | None = None
    why: tuple[Why, ...] = ()  # what of the file waits with it


@dataclass(frozen=True, slots=True)
class Danger:
    """Something a person must see first. With `flag`, the plan is blocked until that flag is given."""

    text: str
    flag: str | None = None
    where: str | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A member that has too few rows to be built, or had enough once and is kept (`lapsed`)."""

    model: str
    rows: int
    min_rows: int
    lapsed: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an applier needs and a person should know, for one stage of one portfolio."""

    portfolio: str
    stage: str
    base: int | None  # the release this was planned against
    steps: tuple[Step, ...]
    held: tuple[Held, ...] = ()
    dangers: tuple[Danger, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    newer_data: tuple[str, ...] = ()  # models whose data has rows beyond their snapshot
    notes: tuple[str, ...] = ()
    affected: Mapping[str, str | None] = field(default_factory=dict)  # model → version when planned
    specs: Mapping[str, ModelSpec] = field(default_factory=dict)  # of models that are built or re-gated, and upstreams
    definitions: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)  # definition hash → hashed body
    bundles: Mapping[str, str] = field(default_factory=dict)  # definition hash → bundle digest
    tables: Mapping[str, TableSpec] = field(default_factory=dict)
    endpoints: Mapping[str, EndpointSpec | None] = field(default_factory=dict)  # what Route steps set
    settings: Mapping[str, Json] | None = None  # the next settings revision's body
    settings_base: int = 0
    retries: tuple[int, ...] = ()  # holds that this plan overrides
    forecast: float | None = None  # seconds of building, from past builds

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.steps

    @property
    def blocked(self) -> tuple[Danger, ...]:
        """Dangers that must be named by a flag first."""
        return tuple(d for d in self.dangers if d.flag)
