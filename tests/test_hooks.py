"""What the hooks of `.pre-commit-config.yaml` find."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import hooks

STORE = hooks.ROOT / "src" / "retinue" / "store"


def test_a_private_key_is_found_and_a_certificate_is_none(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_text("-----BEGIN EC " + "PRIVATE KEY-----\n")
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    assert hooks.keys([key, certificate]) == [f"{key}: holds a private key"]


def test_a_large_file_is_found(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(bytes(hooks.LARGEST))
    large.write_bytes(bytes(hooks.LARGEST + 1))
    assert len(hooks.large([small, large])) == 1


def test_the_migrations_are_numbered() -> None:
    assert hooks.migrations(STORE) == []


def test_a_gap_in_the_migrations_is_found(tmp_path: Path) -> None:
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "registry_mark.py").write_text('REVISION = "0002"\n')
    (tmp_path / "migrations" / "versions" / "0003_third.py").touch()
    assert "0003_third.py: should begin with 0001_" in hooks.migrations(tmp_path)
    (tmp_path / "migrations" / "versions" / "0002_second.py").touch()
    (tmp_path / "migrations" / "versions" / "0001_first.py").touch()
    assert any("REVISION" in problem for problem in hooks.migrations(tmp_path))


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(SystemExit, match="no check small"):
        hooks.main(["small"])
