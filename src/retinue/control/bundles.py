"""Stores the bundle of every definition that a plan builds, so that it can be trained without the checkout."""

from __future__ import annotations

import msgspec

from retinue.build.bundle import make_bundle
from retinue.control.wish import Wisher
from retinue.core.plan import Build, Plan, Regate
from retinue.store.base import Artifacts


def bundle_definitions(plan: Plan, wisher: Wisher, artifacts: Artifacts) -> dict[str, str]:
    """Definition hash → digest of its stored bundle, for the definitions that the plan carries."""
    found: dict[str, str] = {}
    for step in plan.steps:
        if not isinstance(step, Build | Regate) or step.definition not in plan.definitions:
            continue
        if step.definition not in found:
            spec = plan.specs[step.model]
            code, files = wisher.code(spec)
            declaration = {"model": msgspec.to_builtins(spec), "hashed": plan.definitions[step.definition]}
            lock_text = wisher.locks[spec.environment].text
            found[step.definition] = artifacts.put(make_bundle(declaration, code, files, lock_text))
    return found
