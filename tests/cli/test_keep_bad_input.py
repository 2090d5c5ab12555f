"""What is wrong with backup, restore, gc, doctor, db, logs and score is told with its place and a next step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.control.kept import add, land, opened

from retinue.cli.main import run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A portfolio with a state of one release, a folder, garbage, and a backup that was cut off."""
    made = tmp_path / "shop"
    made.mkdir()
    (made / "portfolio.yaml").write_text("portfolio: shop\nformat: 1\n")
    state = opened(made)
    with closing(state.registry):
        land(state, "prod", 1, {"late": add(state, "late", 1, 1)})
    (made / "folder").mkdir()
    (made / "garbage").write_bytes(bytes(range(256)) * 40)
    (made / "text").write_text("hello")
    (made / "empty").write_bytes(b"")
    return made


def nothing(root: Path) -> None:
    """The state as it is."""


def setting(text: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / "retinue.toml").write_text(text)

    return spoil


def garbage_database(root: Path) -> None:
    (root / ".retinue" / "state.db").write_bytes(bytes(range(256)) * 40)


def folder_database(root: Path) -> None:
    (root / ".retinue" / "state.db").unlink()
    (root / ".retinue" / "state.db").mkdir()


def garbage_release(root: Path) -> None:
    (root / ".retinue/releases/shop/prod/1.release").write_bytes(b"junk")


SERVER = '[state]\ndatabase = "postgresql://ann@127.0.0.1:1/retinue"\n'
CASES: dict[str, tuple[list[str], Callable[[Path], None], int, str]] = {
    "backup to a folder": (["backup", "{root}/folder"], nothing, 1, "folder"),
    "backup below a file": (["backup", "{root}/text/b.tar"], nothing, 1, "text"),
    "backup on a full disk": (["backup", "/dev/full/b.tar"], nothing, 1, "/dev/full"),
    "backup without a file": (["backup"], nothing, 64, "FILE"),
    "backup with a wrong option": (["backup", "x", "--jurnal"], nothing, 64, "--journal"),
    "backup of a garbage database": (["backup", "{root}/b.tar"], garbage_database, 1, "state.db"),
    "backup of a folder as database": (["backup", "{root}/b.tar"], folder_database, 1, "state.db"),
    "restore of nothing": (["restore", "{root}/none.tar"], nothing, 1, "none.tar"),
    "restore of a folder": (["restore", "{root}/folder"], nothing, 1, "folder"),
    "restore of garbage": (["restore", "{root}/garbage"], nothing, 1, "garbage"),
    "restore of an empty file": (["restore", "{root}/empty"], nothing, 1, "empty"),
    "restore with a wrong option": (["restore", "x", "--forse"], nothing, 64, "--force"),
    "gc of a garbage database": (["gc"], garbage_database, 1, "state.db"),
    "gc beside a garbage release": (["gc", "--yes"], garbage_release, 1, "1.release"),
    "gc with both": (["gc", "--yes", "--dry-run"], nothing, 64, "--dry-run"),
    "gc with a wrong option": (["gc", "--dry-rum"], nothing, 64, "--dry-run"),
    "gc with a wrong setting": (["gc"], setting("[gc]\nrelases = 3\n"), 1, "releases"),
    "gc with a negative setting": (["gc"], setting("[gc]\nreleases = 0\n"), 1, "at least 1"),
    "gc with a server that is not there": (["gc"], setting(SERVER), 1, "127.0.0.1"),
    "doctor with a wrong option": (["doctor", "--deap"], nothing, 64, "--deep"),
    "db status of garbage": (["db", "status"], garbage_database, 1, "state.db"),
    "db status of a folder": (["db", "status"], folder_database, 1, "state.db"),
    "db status of a wrong URL": (["db", "status"], setting('[state]\ndatabase = "mysequel"\n'), 1, "database"),
    "db upgrade of a server that is not there": (["db", "upgrade"], setting(SERVER), 1, "127.0.0.1"),
    "db of a wrong word": (["db", "upgrad"], nothing, 64, "upgrad"),
    "logs of nothing": (["logs", "gateway"], nothing, 1, "retinue serve"),
    "logs of no such model": (["logs", "latte"], nothing, 64, "late"),
    "logs of no such version": (["logs", "late@zzz"], nothing, 64, "retinue history late"),
    "logs with a wrong option": (["logs", "late", "--folow"], nothing, 64, "--follow"),
    "logs with wrong lines": (["logs", "gateway", "--lines", "many"], nothing, 64, "valid integer"),
    "history of no such model": (["history", "latte"], nothing, 64, "late"),
    "score of a table of no known format": (
        ["score", "late", "--in", "{root}/text", "--out", "{root}/o"], nothing, 1, "format: parquet",
    ),
    "score without a table": (["score", "late", "--out", "{root}/o"], nothing, 64, "--in"),
    "score of a wrong journal": (
        ["score", "late", "--in", "x", "--out", "{root}/o", "--journal", "all"], nothing, 64, "summary",
    ),
    "score with both": (
        ["score", "late", "--in", "x", "--out", "{root}/o", "--resume", "--restart"], nothing, 64, "--restart",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_with_a_next_step(root: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    words, spoil, code, word = CASES[case]
    spoil(root)
    before = sorted(path.name for path in root.iterdir())
    got = run(["-f", str(root), *(part.replace("{root}", str(root)) for part in words)])
    err = capsys.readouterr().err
    assert got == code, err
    assert err.count("error: ") == 1, err
    assert "\nhint: " in err, err
    assert "bug in Retinue" not in err, err
    assert word in err, err
    assert sorted(path.name for path in root.iterdir()) == before  # nothing half-written is left


def test_doctor_tells_what_it_finds_and_goes_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    garbage_database(root)
    code = run(["-f", str(root), "doctor"])
    out = capsys.readouterr().out
    assert code == 1, out
    assert "fail  database" in out
    assert "→" in out
