"""Keys at the door of a real server: who is let in, where to, and how soon a change is in force."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace

import httpx
import pytest
from tests.e2e.serve.conftest import Running, Stage, until

from retinue.cli.main import run
from retinue.client import Client
from retinue.core import access
from retinue.core.access import ClientRecord
from retinue.core.errors import ForbiddenError, UnauthenticatedError
from retinue.core.state import ServedEndpoint
from retinue.store.accessfile import write_access

pytestmark = pytest.mark.e2e
NOW = "2026-01-31T12:00:00.000000Z"
ROW = {"rows": [{"x": 2.0}]}
V2 = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [2.0]}]}


def a_client(name: str, **changes: object) -> tuple[dict[str, str], ClientRecord]:
    """Headers with its key, and its record."""
    text, key = access.new_key(hashlib.sha512(name.encode()).digest()[:37], NOW)
    return {"authorization": f"Bearer {text}"}, replace(ClientRecord(name, keys=(key,), created=NOW), **changes)  # type: ignore[arg-type]


def ask(running: Running, headers: dict[str, str] | None = None, name: str = "arrival") -> int:
    return httpx.post(f"{running.url}/predict/{name}", json=ROW, headers=headers).status_code


def test_keys_are_asked_for_once_a_client_is_registered_and_changes_reach_every_gateway(stage: Stage) -> None:
    models = [stage.model("m", "v1")]
    stage.publish(1, models, {"arrival": ServedEndpoint("arrival", "m"), "late": ServedEndpoint("late", "m")})
    running = stage.start(gateways=2)
    assert ask(running) == 200  # nobody is registered: everybody may
    web, client = a_client("web", allow=("arrival",))
    write_access(stage.folder, "shop", [client])
    until(lambda: [ask(running) for _ in range(8)] == [401] * 8, 10, "both gateways to ask for keys")
    assert ask(running, web) == 200
    assert ask(running, {"retinue-key": web["authorization"].removeprefix("Bearer ")}) == 200
    assert ask(running, web, "late") == 403
    assert ask(running, web, "m") == 403
    assert ask(running, {"authorization": "Bearer rtn_aaaaaaaa_" + "b" * 52}) == 401
    assert ask(running, {"authorization": "Basic dXNlcjpwYXNz"}) == 401

    refused = httpx.post(f"{running.url}/v2/models/arrival/infer", json=V2)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "retinue clients add" not in refused.text  # a stranger is told how to send a key, not how to make one
    assert httpx.post(f"{running.url}/v2/models/arrival/infer", json=V2, headers=web).status_code == 200
    assert httpx.post(f"{running.url}/v2/models/late/infer", json=V2, headers=web).status_code == 403

    for path in ("/v2/health/live", "/v2/health/ready", "/v2"):
        assert httpx.get(running.url + path).status_code == 200, path
    for path in ("/v2/models", "/v2/models/arrival", "/openapi.json"):
        assert httpx.get(running.url + path).status_code == 401, path
    assert httpx.get(f"{running.url}/v2/models", headers=web).json() == {"models": ["arrival"]}
    assert httpx.get(f"{running.url}/v2/models/arrival", headers=web).status_code == 200
    assert httpx.get(f"{running.url}/v2/models/late", headers=web).status_code == 403

    write_access(stage.folder, "shop", [access.revoked(client, NOW)])
    until(lambda: [ask(running, web) for _ in range(8)] == [401] * 8, 10, "the revocation")


def test_the_python_client_and_the_command_line_send_their_key(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stage.publish(1, [stage.model("m", "v1")], {"arrival": ServedEndpoint("arrival", "m")})
    web, client = a_client("web", allow=("arrival",))
    write_access(stage.folder, "shop", [client])
    running = stage.start()
    key = web["authorization"].removeprefix("Bearer ")
    with Client(running.url, key=key) as mine, Client(running.url) as nobody:
        assert mine.predict("arrival", [{"x": 2.0}])["predictions"] == [{"y": 2.0}]
        with pytest.raises(ForbiddenError, match="may not call 'm'"):
            mine.predict("m", [{"x": 2.0}])
        with pytest.raises(UnauthenticatedError, match="asks for an API key"):
            nobody.predict("arrival", [{"x": 2.0}])
    words = ["predict", "arrival", "--url", running.url, "--row", '{"x": 2.0}', "-o", "json"]
    assert run(words) == 1
    assert "hint: Send a live key" in capfd.readouterr().err
    monkeypatch.setenv("RETINUE_KEY", key)
    assert run(words) == 0


def test_damaged_rights_keep_the_last_good_ones_and_are_told_in_the_status_also_after_a_restart(stage: Stage) -> None:
    stage.publish(1, [stage.model("m", "v1")], {"arrival": ServedEndpoint("arrival", "m")})
    web, client = a_client("web")
    write_access(stage.folder, "shop", [client])
    running = stage.start()
    assert (ask(running), ask(running, web)) == (401, 200)
    whole = (stage.folder / "access").read_bytes()
    (stage.folder / "access").write_bytes(whole[:-7])
    until(lambda: running.status()["gateways"][0]["trouble"], 10, "the trouble in the status")
    assert "damaged" in running.status()["gateways"][0]["trouble"][0]
    assert (ask(running), ask(running, web)) == (401, 200)

    pid = running.status()["gateways"][0]["pid"]
    os.kill(pid, signal.SIGKILL)  # the next one never had good rights: it lets nobody in
    until(
        lambda: [g["pid"] for g in running.status()["gateways"] if g["serving"] and g["pid"] != pid],
        15,
        "a new gateway",
    )
    assert (ask(running), ask(running, web)) == (503, 503)
    assert httpx.get(f"{running.url}/v2/health/live").status_code == 200
    (stage.folder / "access").write_bytes(whole)
    until(lambda: ask(running, web) == 200, 10, "good rights")
    assert ask(running) == 401
