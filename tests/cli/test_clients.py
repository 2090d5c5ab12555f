"""`retinue clients …`: the key is printed once and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retinue.cli.main import run
from retinue.store.accessfile import read_access


@pytest.fixture
def retinue(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    (tmp_path / "portfolio.yaml").write_text("portfolio: shop\n", encoding="utf-8")
    (tmp_path / ".retinue" / "releases" / "shop" / "prod").mkdir(parents=True)

    def call(*words: str) -> tuple[int, str, str]:
        code = run(["-f", str(tmp_path), *words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_the_life_of_a_key(retinue: Any, tmp_path: Path) -> None:
    code, out, err = retinue("clients", "list")
    assert (code, out) == (0, "No client is registered: whoever reaches the server may call every endpoint.\n")
    code, out, err = retinue("clients", "add", "web", "--allow", "late-*", "--allow", "arrival", "--tenant", "acme")
    key = out.strip()
    assert code == 0
    assert "shown only now" in err
    assert "requests need a key" in err
    file = tmp_path / ".retinue" / "releases" / "shop" / "prod" / "access"
    assert read_access(file).verify(key.encode(), 0.0) is not None

    code, out, err = retinue("clients", "list")
    assert out.startswith("web   acme   normal   late-* arrival   rtn_")
    assert key not in out
    code, out, err = retinue("clients", "rotate", "web", "--overlap", "12h", "-o", "json")
    told = json.loads(out)
    assert [k["live"] for k in told["client"]["keys"]] == [True, True]
    assert read_access(file).verify(told["key"].encode(), 0.0) is not None
    prefix = told["client"]["keys"][0]["prefix"]
    code, out, err = retinue("clients", "revoke", "web", "--key", prefix)
    assert out == f"Key {prefix} of web is revoked; 1 key of it left.\n"
    code, out, err = retinue("clients", "revoke", "web")
    assert out == "Client web is revoked with all its keys.\n"
    code, out, err = retinue("clients", "list", "-o", "json")
    assert "digest" not in out
    assert [k["live"] for k in json.loads(out)["clients"][0]["keys"]] == [False, False]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("add", "we b"), "name of a client"),
        (("add", "web", "--priority", "fast"), "fast"),
        (("add", "web", "--allow", "a b"), "no pattern"),
        (("rotate", "nobody"), "no client is named 'nobody'"),
        (("rotate", "nobody", "--overlap", "soon"), "no time span"),
        (("revoke", "nobody"), "no client is named 'nobody'"),
    ],
)
def test_wrong_words_are_usage_errors(retinue: Any, words: tuple[str, ...], told: str) -> None:
    code, _, err = retinue("clients", *words)
    assert code == 64
    assert told in err
