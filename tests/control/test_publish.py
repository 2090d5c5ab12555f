"""The release file is compiled from the release and the settings on record, and anew when either moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retinue.control.publish import publish
from retinue.core.errors import Location
from retinue.core.portfolio import EndpointSpec
from retinue.core.settings_body import endpoint_options, merged, options_digest, what_changed
from retinue.core.state import Definition, Entry, Landing, ServedCache, ServedJournal, Snapshot, Version
from retinue.store.fake import MemoryRegistry
from retinue.store.releasefile import ReleaseFile, is_whole

NOW = "2026-01-31T12:00:00.000000Z"
WHERE = Location("portfolio.yaml", 1)
SECRET = EndpointSpec("arrival", WHERE, "m", cache=ServedCache(60.0), journal=ServedJournal(0.1, ("name",), ("id",)))


def body(*endpoints: EndpointSpec, serve: dict[str, Any] | None = None) -> dict[str, Any]:
    policies = {"rollout": None, "retrain": None, **({"serve": serve} if serve else {})}
    options = {spec.name: found for spec in endpoints if (found := endpoint_options(spec))}
    model = {"metadata": {}, "gates": {}, "policies": policies, "protect": False}
    return {"models": {"m": model}, "policies": {}, **({"endpoints": options} if options else {})}


@pytest.fixture
def registry() -> MemoryRegistry:
    made = MemoryRegistry()
    made.put_definitions([Definition("d", "m", {}, "b")])
    made.put_snapshots([Snapshot("s", {})])
    artifact = {"digest": "0" * 64, "format": "onnx", "signature": {}}
    manifest: dict[str, Any] = {"artifact": artifact, "environment": "e", "needs": [], "family": None}
    made.register(Version("v", "shop", "m", "d", "s", manifest, NOW))
    routes: dict[str, Any] = {
        name: {"select": "m", "fallback": None, "fallback_when": []} for name in ("arrival", "plain")
    }
    made.land(Landing("shop", "prod", {"m": None}, {"m": Entry("v")}, routes, (("m",),), "apply", "", "ann", NOW))
    return made


def put(registry: MemoryRegistry, wished: dict[str, Any], expected: int = 0) -> None:
    registry.put_settings("shop", wished, expected=expected, why="", who="ann", now=NOW)


def test_options_on_record_are_in_the_release_file(registry: MemoryRegistry, tmp_path: Path) -> None:
    wished = body(SECRET, EndpointSpec("plain", WHERE, "m"), serve={"pinned": True, "concurrency": 3})
    put(registry, wished)
    path = publish(registry, tmp_path, "shop", "prod")
    assert path is not None
    with ReleaseFile(path) as file:
        assert (file.endpoints["arrival"].cache, file.endpoints["arrival"].journal) == (SECRET.cache, SECRET.journal)
        assert (file.endpoints["plain"].cache, file.endpoints["plain"].journal) == (None, ServedJournal())
        model = file.model("m")
        assert model is not None
        assert (model.pinned, model.concurrency) == (True, 3)
        assert file.options == options_digest(wished)


def test_a_change_of_options_makes_the_file_stale_and_one_of_an_owner_does_not(
    registry: MemoryRegistry, tmp_path: Path
) -> None:
    put(registry, body(SECRET))
    publish(registry, tmp_path, "shop", "prod")
    owned = body(SECRET)
    owned["models"]["m"]["metadata"]["owner"] = "ann"
    assert is_whole(tmp_path, 1, options_digest(owned))
    assert not is_whole(tmp_path, 1, options_digest(body()))
    assert options_digest(body()) == ""


def test_what_is_about_to_be_recorded_holds_for_the_first_request(registry: MemoryRegistry, tmp_path: Path) -> None:
    path = publish(registry, tmp_path, "shop", "prod", body(SECRET))
    assert path is not None
    with ReleaseFile(path) as file:
        assert file.endpoints["arrival"].journal.drop == ("name",)


def test_options_are_a_change_of_settings_and_are_named() -> None:
    models, why = what_changed(body(), body(SECRET))
    assert models == ()
    assert [(w.reason, w.text) for w in why] == [("POLICY", "cache of endpoint arrival, journal of endpoint arrival")]
    models, why = what_changed(body(), body(serve={"pinned": True}))
    assert (models, [w.reason for w in why]) == (("m",), ["POLICY"])
    assert what_changed(body(SECRET), body(SECRET)) == ((), ())


def test_two_applies_keep_each_others_options() -> None:
    other = EndpointSpec("other", WHERE, "m", cache=ServedCache(5.0))
    assert merged(body(), body(SECRET), body(other)) == body(SECRET, other)
    assert merged(body(SECRET), body(), body(SECRET, other)) == body(other)
    assert merged(body(SECRET), body(), body(SECRET)) == body()
