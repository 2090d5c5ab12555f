"""A real state with artifacts made of random histories: for gc, backup and restore."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from retinue.control.publish import publish
from retinue.core.state import Definition, Entry, Hold, Landing, Snapshot, Version
from retinue.settings import Settings, load_settings
from retinue.store.artifacts import FsspecArtifacts
from retinue.store.registry import SqlRegistry
from retinue.store.registry_dump import Dump

START = datetime(2026, 1, 1, tzinfo=UTC)


def moment(day: float) -> str:
    return (START + timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class State:
    """A state folder with its registry and artifacts."""

    settings: Settings
    registry: SqlRegistry
    artifacts: FsspecArtifacts

    @property
    def dump(self) -> Dump:
        return Dump(self.registry)

    def folder(self, stage: str) -> Path:
        return self.settings.releases("shop", stage)

    def needed(self, ids: set[str]) -> set[str]:
        """Digests that these versions need: what serves and the bundle."""
        versions = self.registry.versions(ids)
        definitions = self.registry.definitions({v.definition for v in versions.values()})
        return {v.manifest["artifact"]["digest"] for v in versions.values()} | {d.bundle for d in definitions.values()}


def opened(root: Path, url: str | None = None) -> State:
    root.mkdir(exist_ok=True)
    settings = load_settings(root, {"RETINUE_DATABASE": url} if url else {})
    settings.directory.mkdir(exist_ok=True)
    return State(
        settings, SqlRegistry(settings.database), FsspecArtifacts(settings.artifacts, settings.cache / "artifacts")
    )


def add(state: State, model: str, number: int, day: float, environment: str = "e") -> str:
    """Register a version with an artifact and a bundle of its own; its id."""
    artifact = state.artifacts.put(f"{model} {number}".encode() * 20)
    bundle = state.artifacts.put(f"bundle {model} {number}".encode())
    state.registry.put_snapshots([Snapshot("s", {})])
    state.registry.put_definitions([Definition(f"d-{model}-{number}", model, {}, bundle)])
    manifest: dict[str, object] = {
        "artifact": {"digest": artifact, "format": "onnx", "signature": {}},
        "environment": environment,
        "needs": [],
        "family": None,
    }
    version = Version(f"{model}-{number}", "shop", model, f"d-{model}-{number}", "s", manifest, moment(day))
    return state.registry.register(version).id


def land(state: State, stage: str, day: float, changes: dict[str, str | None], cause: str = "apply") -> None:
    current = state.registry.current("shop", stage)
    live = {m: e.version for m, e in current.models.items()} if current else {}
    models = {m: Entry(v) if v else None for m, v in changes.items() if live.get(m) != v}
    if models:
        expected = {m: live.get(m) for m in models}
        groups = (tuple(models),)
        state.registry.land(Landing("shop", stage, expected, models, {}, groups, cause, "w", "ann", moment(day)))
        publish(state.registry, state.folder(stage), "shop", stage)


def history(state: State, seed: int, length: int) -> None:
    """Random versions, landings, rollbacks and holds in two stages, some days apart."""
    chance = random.Random(seed)
    made: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    day = 0.0
    for number in range(length):
        day += chance.choice((0.1, 1, 20))
        model = chance.choice("abc")
        stage = chance.choice(("prod", "prod", "dev"))
        act = chance.random()
        if act < 0.6 or not made[model]:
            made[model].append(add(state, model, number, day))
            if act < 0.5:
                land(state, stage, day, {model: made[model][-1]})
        elif act < 0.75:
            land(state, stage, day, {model: chance.choice(made[model])}, "rollback")
        elif act < 0.85:
            version = chance.choice(made[model])
            definition = f"d-{version}"
            hold = Hold("shop", stage, model, definition, "s", version, "rollback", "x", "g", moment(day))
            state.registry.hold([hold])
        else:
            current = state.registry.current("shop", stage)
            if current is not None and model in current.models and len(current.models) > 1:
                land(state, stage, day, {model: None})
