"""Where `prepare:` cannot be: it is Python, and the training of its model is Retinue's."""

from __future__ import annotations

from collections.abc import Callable

from retinue.core.portfolio import ModelSpec

Note = Callable[[str, str, str | None], None]
"""(what is wrong, key, what to do)"""


def check(spec: ModelSpec, prefix: str, changed: frozenset[str] | None, note: Note) -> None:
    """Notes what does not fit; for an override (`changed` is what it sets) only what that can break."""
    if spec.prepare is None or not (changed is None or changed & {"prepare", "compile"}):
        return
    if spec.artifact is not None:
        hint = "Prepare the columns in a view, or train the model here: `train: module:function`."
        note("a model from outside takes its features as they are", f"{prefix}prepare", hint)
    elif spec.compile == "require":
        hint = "Remove `compile: require`, or move the preparation into a view or the model's Pipeline."
        note("a preparation is Python, which cannot be compiled", f"{prefix}prepare", hint)
