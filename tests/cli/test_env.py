"""env build, show and prune, as commands; gc keeps the file's environments."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
from tests.control.kept import add, land, opened

from retinue.build import environment
from retinue.build.environment import _STAMP
from retinue.cli.main import run

FILE = "portfolio: shop\nformat: 1\nenvironments:\n  base: {requirements: base.txt}\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environment, "IMPLIED", ())
    (tmp_path / "portfolio.yaml").write_text(FILE)
    (tmp_path / "base.txt").write_text("# nothing\n")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, str, str]:
    code = run(["-f", str(root), *words])
    return code, *capsys.readouterr()


@pytest.mark.e2e
def test_an_environment_is_built_and_shown_and_gc_keeps_it_for_the_file(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not locked yet" in told(capsys, root, "env", "show", "base")[1]
    code, out, err = told(capsys, root, "env", "build", "-o", "json")
    assert code == 0, err
    assert Path(json.loads(out)["base"]["python"]).exists()
    shown = json.loads(told(capsys, root, "env", "show", "base", "-o", "json")[1])
    assert (shown["ready"], shown["packages"]) == (True, {})
    digest = shown["digest"]
    os.utime(root / ".retinue" / "environments" / digest / _STAMP, (0, 0))
    assert told(capsys, root, "gc")[1].startswith("Nothing to remove")
    (root / "portfolio.yaml").write_text("portfolio: shop\nformat: 1\n")
    assert digest[8:] in told(capsys, root, "gc")[1]
    code, _, err = told(capsys, root, "env", "show", "bse")
    assert code == 64, err
    assert "base" in err or "None is declared" in err


def test_prune_keeps_what_a_rollback_would_need(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "retinue.toml").write_text("[gc]\nreleases = 1\ndays = 0\n[journal]\nenabled = false\n")
    state = opened(root)
    with closing(state.registry):
        for number in range(4):
            land(state, "prod", number, {"a": add(state, "a", number, number, environment=str(number) * 64)})
    for number in range(5):
        folder = root / ".retinue" / "environments" / (str(number) * 64)
        folder.mkdir(parents=True)
        (folder / _STAMP).touch()
        os.utime(folder / _STAMP, (0, 0))
    code, out, err = told(capsys, root, "env", "prune", "-o", "json")
    assert code == 0, err
    kept = {path.name[0] for path in (root / ".retinue" / "environments").glob("[0-9]*")}
    assert {"2", "3"} <= kept  # live, and what a rollback goes back to
    assert "4" * 64 in json.loads(out)["deleted"]
    assert "0" * 64 in json.loads(out)["deleted"]
