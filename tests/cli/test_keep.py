"""backup, restore, gc, doctor, db and a lost database, as commands."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from tests.control.kept import add, land, opened

from retinue.cli.main import run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A portfolio file, and a state of the same name with a release of one model."""
    made = tmp_path / "shop"
    made.mkdir()
    (made / "portfolio.yaml").write_text("portfolio: shop\nformat: 1\n")
    (made / "retinue.toml").write_text("[serve]\nport = 0\nadmin_port = 0\n")
    state = opened(made)
    with closing(state.registry):
        for number in range(3):
            land(state, "prod", number, {"a": add(state, "a", number, number)})
    return made


def told(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, str, str]:
    code = run(["-f", str(root), *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_backup_and_restore_speak_and_refuse_to_overwrite(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "b.tar")
    code, out, _ = told(capsys, root, "backup", file)
    assert (code, out.split(":")[0]) == (0, f"Wrote {file}")
    code, out, err = told(capsys, root, "restore", file, "-o", "json")
    assert code == 1
    assert "there is a state already" in json.loads(out)["error"]["message"]
    assert "--force" in err
    assert told(capsys, root, "restore", file, "--force")[0] == 0


def test_gc_lists_first_and_removes_only_with_yes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, root, "gc")
    assert (code, out.splitlines()[-1]) == (0, "Nothing to remove; 3 versions kept.")
    code, out, _ = told(capsys, root, "gc", "--yes", "-o", "json")
    assert (code, json.loads(out)["removed"]) == (0, 0)
    assert told(capsys, root, "gc", "--yes", "--dry-run")[0] == 64


def test_db_says_which_schema_there_is_and_upgrading_twice_is_harmless(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, root, "db", "status")[0] == 0
    assert "already" in told(capsys, root, "db", "upgrade")[1]


def test_a_lost_database_is_told_by_status_and_doctor_and_doctor_fails(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = told(capsys, root, "doctor", "--deep", "-o", "json")
    findings = {f["check"]: f for f in json.loads(out)["findings"]}
    assert findings["releases"]["level"] == findings["artifacts"]["level"] == "ok"
    for file in (root / ".retinue").glob("state.db*"):
        file.unlink()
    _, out, _ = told(capsys, root, "status")
    assert "gateways serve release 3, which the database does not know" in out
    assert "no release yet" not in out
    code, out, _ = told(capsys, root, "doctor")
    assert code == 1
    assert "fail  releases" in out
    assert "→ The database was lost" in out


def test_doctor_finds_a_damaged_artifact_only_when_it_looks_deep(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / ".retinue" / "artifacts").glob("??/*"):
        path.write_bytes(b"rust")
    assert "1 live one there" in told(capsys, root, "doctor")[1]
    code, out, _ = told(capsys, root, "doctor", "--deep")
    assert code == 1
    assert "1 damaged" in out
