"""Settings of the doors: keys, TLS, logs, telemetry."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.core.errors import PortfolioError
from retinue.settings import load_settings


def loaded(tmp_path: Path, text: str, **environ: str) -> object:
    (tmp_path / "retinue.toml").write_text(text, encoding="utf-8")
    return load_settings(tmp_path, environ)


def test_paths_are_beside_the_file_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "retinue.toml").write_text(
        '[serve]\ntls_certificate = "tls.crt"\ntls_key = "/etc/tls.key"\nanonymous = true\n'
        '[log]\nlevel = "info"\nfile = "serve.log"\nslow = 1\n[telemetry]\nendpoint = "http://c:4318"\nsample = 0.5\n',
        encoding="utf-8",
    )
    found = load_settings(tmp_path, {"RETINUE_LOG_LEVEL": "debug", "RETINUE_ANONYMOUS": "no"})
    assert (found.tls_certificate, found.tls_key) == (str(tmp_path / "tls.crt"), "/etc/tls.key")
    assert (found.log_level, found.log_file, found.log_slow) == ("debug", str(tmp_path / "serve.log"), 1)
    assert (found.telemetry_endpoint, found.telemetry_sample, found.anonymous) == ("http://c:4318", 0.5, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[serve]\ntls_certificate = "x"', "only one of"),
        ('[serve]\nanonymous = "yes"', "must be true or false"),
        ('[log]\nlevel = "loud"', "level in .log. is 'loud'"),
        ("[log]\nslow = -1", "slow in .log. is -1"),
        ("[telemetry]\nsample = 1.5", "sample in .telemetry. is 1.5"),
        ("[telemetry]\nendpoint = 7", "must be text in quotes"),
        ("[telemetri]\n", "unknown section"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PortfolioError, match=words) as refused:
        loaded(tmp_path, text)
    assert "retinue.toml" in str(refused.value.where)
    assert "portfolio" not in refused.value.hint


def test_a_bad_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PortfolioError, match="RETINUE_ANONYMOUS='maybe' is not true or false"):
        load_settings(tmp_path, {"RETINUE_ANONYMOUS": "maybe"})


@pytest.mark.parametrize(("section", "key", "value"), [
    ("serve", "port", 70000), ("serve", "gateways", 0), ("serve", "max_rows", -1), ("serve", "request_timeout", 0.0),
    ("journal", "rotate_bytes", 0), ("journal", "retain_days", -1),
])  # fmt: skip
def test_numbers_that_no_server_could_use_are_refused(tmp_path: Path, section: str, key: str, value: float) -> None:
    (tmp_path / "retinue.toml").write_text(f"[{section}]\n{key} = {value}\n")
    with pytest.raises(PortfolioError, match=f"{key} is {value:g}"):
        load_settings(tmp_path, {})
