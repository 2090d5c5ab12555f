"""HTTPS with a real client: a certificate that is replaced while clients are at work, and one that cannot be used."""

from __future__ import annotations

import ssl
from dataclasses import replace

import httpx
import pytest
from tests.e2e.serve.conftest import Stage, until
from tests.gateway.certificates import make

pytestmark = pytest.mark.e2e


def test_https_is_served_and_a_new_certificate_reaches_new_connections_without_a_lost_one(stage: Stage) -> None:
    folder = stage.settings.directory
    certificate, key = folder / "tls.crt", folder / "tls.key"
    make(certificate, key, "first")
    stage.publish(1, [stage.model("m", "v1")])
    running = stage.start(tls_certificate=str(certificate), tls_key=str(key))
    assert running.url.startswith("https://")
    row = {"rows": [{"x": 2.0}]}
    with httpx.Client(base_url=running.url, verify=ssl.create_default_context(cafile=certificate)) as old:
        assert old.post("/predict/m", json=row).status_code == 200
        make(certificate, key, "second")
        trusted = ssl.create_default_context(cafile=certificate)

        def reached() -> bool:
            with httpx.Client(base_url=running.url, verify=trusted) as new:
                try:
                    return new.post("/predict/m", json=row).status_code == 200
                except httpx.ConnectError:
                    return False

        until(reached, 10, "the new certificate")
        assert old.post("/predict/m", json=row).status_code == 200  # on its old connection
        large = {"rows": [{"x": float(n)} for n in range(20_000)]}  # many TLS records, both ways
        answer = old.post("/predict/m", json=large, timeout=20)
        assert answer.json()["predictions"][19_999] == {"y": 19_999.0}
    with pytest.raises(httpx.TransportError):
        httpx.get(running.url.replace("https:", "http:") + "/v2/health/live")
    assert running.stop() == 0


def test_a_certificate_that_does_not_fit_its_key_is_refused_at_start(stage: Stage) -> None:
    folder = stage.settings.directory
    make(folder / "a.crt", folder / "a.key")
    make(folder / "b.crt", folder / "b.key")
    stage.settings = replace(stage.settings, tls_certificate=str(folder / "a.crt"), tls_key=str(folder / "b.key"))
    process = stage.launch()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "do not belong together" in err
    assert "hint: Correct [serve] tls_certificate and tls_key" in err
