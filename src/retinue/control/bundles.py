"""Stores the bundle of every definition that a plan builds, so that it can be trained without the checkout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from retinue.build.bundle import make_bundle
from retinue.control.wish import Wisher
from retinue.core.errors import StateError
from retinue.core.plan import Build, Plan, Regate
from retinue.core.portfolio import ModelSpec
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
            lock_text = wisher.locks[spec.environment].text if spec.environment else ""
            wisher.outside.store(spec, artifacts)
            found[step.definition] = artifacts.put(make_bundle(declaration, code, files, lock_text))
    return found


def keep_tests(specs: Iterable[ModelSpec], root: Path, artifacts: Artifacts) -> None:
    """Store the test files that the gates of these models name, by content. Raises StateError if one was edited."""
    for test in sorted({t for spec in specs for t in spec.gates.pytest}, key=lambda t: t.path):
        path = root / test.path
        if artifacts.put(path.read_bytes() if path.is_file() else b"") != test.digest:
            raise StateError(f"{test.path} changed while this was planned", hint="Run `retinue plan` again.")
