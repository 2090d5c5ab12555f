"""Shapes of what is said about serving: options of models and endpoints, all on the line of settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from retinue.loader.shape import Shape, opt
from retinue.loader.types import Duration, Tensors, Texts, above_nothing, wrong


class Serve(Shape):
    """How a model is served; a change acts at the next apply and builds nothing."""

    pinned: bool | None = opt("Loaded before its release serves, and never evicted; default false.")
    concurrency: Annotated[int, Field(ge=1, le=64)] | None = opt(
        "Batches of it that may run at once; default: as its execution allows."
    )


class Cache(Shape):
    """Answers that may be given again to the same question. Off unless asked for."""

    for_: Annotated[Duration, AfterValidator(above_nothing)] = Field(
        alias="for", description="How long an answer may be given again: `60s`."
    )
    answers: Annotated[int, Field(ge=1, le=10_000_000)] = opt("How many are kept, in each gateway.", default=10_000)


class Journal(Shape):
    """What the journal keeps of each request. Facts (who, when, which version, status) are always kept."""

    tensors: Tensors = opt("Inputs and outputs: `always`, `never`, or for a share of requests: 10%.", default=1.0)
    drop: Texts = opt("Fields whose values are left out.", default=[])
    hash: Texts = opt("Fields whose values are replaced by a keyed digest: equal values stay equal.", default=[])

    @model_validator(mode="after")
    def _one_way(self) -> Journal:
        both = sorted(set(self.drop) & set(self.hash))
        if both:
            raise wrong(f"{both[0]!r} is in both `drop` and `hash`", "Leave it in one of them.")
        return self
