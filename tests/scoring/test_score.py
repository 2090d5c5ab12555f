"""Tables through a release: partitions, what comes out, going on after a kill, bad input."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.scoring.world import listed, place, publish, read, rows, score, settings_of, write

from retinue.cli.main import run
from retinue.control.compact import compact
from retinue.control.query import query
from retinue.core.errors import (
    ConflictError,
    DataError,
    Location,
    RetinueError,
    StateUnavailableError,
    UnavailableError,
    UnknownModelError,
    UsageError,
)
from retinue.core.portfolio import TableSpec
from retinue.project import Project


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path)
    write(tmp_path)
    return tmp_path


def test_every_row_comes_once_with_its_model_or_its_error(root: Path) -> None:
    found = score(root)
    table = read(root / "out")
    assert table.column("row").to_pylist() == list(range(300))
    assert table.column("id").to_pylist() == rows(300).column("id").to_pylist()
    assert (found.rows, found.partitions, found.errors) == (300, 4, 0)
    by_row = table.to_pylist()
    assert [row["model"] for row in by_row[:6]] == ["area-oslo", "area-bergen", "all", "all", "all", "area-oslo"]
    assert [row["fallback"] for row in by_row[:6]] == [False, False, True, True, True, False]
    assert by_row[1]["y"] == 3 * (1 / 3) + 0.5 * (2 * (1 / 3) + 0.5) + 0.5
    assert by_row[0]["version"] == "area-oslo-v1"
    assert sum(rows for _, _, rows, _ in found.models) == 300


def test_rows_with_an_error_end_nothing(root: Path) -> None:
    found = score(root, endpoint="whole", out="whole")
    table = read(root / "whole").to_pylist()
    assert table[3]["error"] == "row 3: 'x' is missing; it may not be null"
    assert table[5]["error"] == "row 5: 'n' must be an integer, not a number 5.5"
    assert table[4]["error"] is None
    assert table[4]["y"] == 4 / 3 + 3 * 4 + 0.5
    assert found.errors == sum(row["error"] is not None for row in table)
    assert found.texts[0][0] == "'x' is missing; it may not be null"
    alone = score(root, endpoint="alone", out="alone")
    texts = {row["error"] for row in read(root / "alone").to_pylist()[:6]}
    assert "row 2: endpoint 'alone' has no model for town='nowhere'" in texts
    assert "row 3: 'town' is missing; endpoint 'alone' selects by it" in texts
    assert any("model 'area-lost' is not available" in (text or "") for text in texts)
    assert alone.errors == 150


@pytest.mark.parametrize("partition", ["", "1", "77", "300", "5000", "town"])
def test_however_it_is_cut_the_answers_are_the_same(root: Path, partition: str) -> None:
    score(root, out="one", partition="300")
    score(root, out="other", partition=partition, workers=2)
    assert listed(read(root / "other")) == listed(read(root / "one"))


def test_a_partition_by_a_column_has_a_folder_for_each_value(root: Path) -> None:
    score(root, partition="town", columns=None)
    folders = sorted(path.name for path in (root / "out").iterdir() if "=" in path.name)
    assert folders == ["town=__HIVE_DEFAULT_PARTITION__", "town=bergen", "town=lost", "town=nowhere", "town=oslo"]
    with pq.ParquetFile(root / "out/town=oslo/part.parquet") as file:
        assert set(file.read().column("town").to_pylist()) == {"oslo"}


def test_a_second_run_does_nothing_and_a_changed_one_is_refused(root: Path) -> None:
    first = score(root)
    again = score(root)
    assert (first.scored, again.scored, again.rows, again.models) == (300, 0, 300, first.models)
    publish(root, 2, slope=5.0)
    with pytest.raises(ConflictError, match=r"the release \(1 → 2\)") as refused:
        score(root)
    assert "--restart" in refused.value.hint
    assert score(root, resume=True).release == 1
    write(root, 301)
    with pytest.raises(ConflictError, match="the input's files"):
        score(root, resume=True)
    with pytest.raises(ConflictError, match="the partitioning"):
        score(root, partition="50")
    anew = score(root, restart=True)
    assert (anew.scored, anew.release) == (301, 2)
    assert len(read(root / "out")) == 301
    assert score(root, number=1, out="old").release == 1


def test_the_journal_sees_each_partition_once(root: Path) -> None:
    score(root)
    folder = settings_of(root).journal("shop", "prod")
    sql = "select sum(rows), count(distinct part), count(distinct run) from batches"
    assert query(folder, sql).rows == [(300, 4, 1)]
    compact(folder)
    assert query(folder, sql).rows == [(300, 4, 1)]
    facts = score(root, out="facts", journal="facts", endpoint="alone")
    assert query(folder, "select count(*), count(error) from predictions where arm = 'batch'").rows == [(150, 0)]
    assert query(folder, "select count(*) from predictions where model is null").rows == [(facts.errors,)]
    ids = {row[0] for row in query(folder, "select prediction_id from predictions").rows}
    assert set(read(root / "facts").column("prediction_id").to_pylist()) == ids


def test_csv_globs_folders_and_declared_tables_are_read(root: Path) -> None:
    score(root)
    wanted = listed(read(root / "out"), "id")
    from pyarrow import csv

    (root / "many").mkdir()
    for number in range(3):
        part = rows(300).slice(number * 100, 100)
        with gzip.open(root / f"many/{number}.csv.gz", "wb") as file:
            csv.write_csv(part, file)
    for index, source in enumerate(("many", "many/*.csv.gz")):
        score(root, out=f"csv{index}", source=source)
        assert listed(read(root / f"csv{index}"), "id") == wanted
    where = Location("portfolio.yaml", 3)
    tables = {
        "towns": TableSpec("towns", where, path="in.parquet", key="id"),
        "view": TableSpec("view", where, sql="select id, x * 2 as x, town from towns", key="id"),
    }
    score(root, out="declared", source="towns", tables=tables, columns=None)
    assert read(root / "declared").column("id").to_pylist() == rows(300).column("id").to_pylist()
    score(root, out="viewed", source="view", tables=tables, columns=None)
    viewed = {row["id"]: row["y"] for row in read(root / "viewed").to_pylist()}
    assert viewed["r2"] == 7 * (2 * 2 / 3) + 0.5
    with pytest.raises(UsageError, match="no table 'town'") as told:
        score(root, source="town", tables=tables)
    assert "'towns'" in told.value.hint


def _torn(root: Path) -> None:
    data = (root / "in.parquet").read_bytes()
    (root / "bad.parquet").write_bytes(data[: len(data) // 2])


def _without(root: Path, *names: str) -> None:
    pq.write_table(rows(9).drop_columns(list(names)).append_column("towm", pa.nulls(9)), root / "bad.parquet")


def _mistyped(root: Path) -> None:
    table = rows(9)
    pq.write_table(table.set_column(1, "x", pa.array(["?"] * 9)), root / "bad.parquet")


BAD: list[tuple[str, Any, dict[str, Any], type[RetinueError], str]] = [
    ("torn", _torn, {}, DataError, "not a whole Parquet file"),
    ("garbage", lambda r: (r / "bad.parquet").write_bytes(os.urandom(500)), {}, DataError, "not a whole"),
    ("no bytes", lambda r: (r / "bad.parquet").write_bytes(b""), {}, DataError, "not a whole"),
    ("no rows", lambda r: pq.write_table(rows(9).slice(0, 0), r / "bad.parquet"), {}, DataError, "has no rows"),
    ("no column", lambda r: _without(r, "town"), {}, DataError, "no column 'town'"),
    ("wrong type", _mistyped, {}, DataError, "column 'x' of bad.parquet is string"),
    ("missing", lambda r: None, {"source": "nothing.parquet"}, UsageError, "no file and no table"),
    ("no match", lambda r: None, {"source": "no*.parquet"}, DataError, "no file matches"),
    ("elsewhere", lambda r: None, {"source": "s3://b/c.parquet"}, UsageError, "not a local path"),
    ("unknown", lambda r: None, {"source": "in.parquet", "endpoint": "aera"}, UnknownModelError, "'aera'"),
    ("column", lambda r: None, {"source": "in.parquet", "columns": ("idd",)}, UsageError, "no column 'idd'"),
    ("part", lambda r: None, {"source": "in.parquet", "partition": "twon"}, UsageError, "'twon' to partition by"),
    ("zero", lambda r: None, {"source": "in.parquet", "partition": "0"}, UsageError, "at least one row"),
    ("inside", lambda r: None, {"source": "in.parquet", "out": "."}, UsageError, "where the input lies"),
    ("a file", lambda r: (r / "f").write_text(""), {"source": "in.parquet", "out": "f"}, UsageError, "is a file"),
    ("resume", lambda r: None, {"source": "in.parquet", "resume": True}, UsageError, "nothing to resume"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "ask", "kind", "text"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_told_before_a_row_is_scored(
    root: Path, make: Any, ask: dict[str, Any], kind: type[RetinueError], text: str
) -> None:
    make(root)
    with pytest.raises(kind, match=text) as told:
        score(root, **{"source": "bad.parquet", **ask})
    assert told.value.hint
    assert not (root / "out").exists()  # nothing is left behind, not even the lock


def test_did_you_mean_is_said_for_columns_and_endpoints(root: Path) -> None:
    _without(root, "town")
    with pytest.raises(DataError) as column:
        score(root, source="bad.parquet")
    assert column.value.hint == "Did you mean 'towm'?"
    with pytest.raises(UnknownModelError) as endpoint:
        score(root, endpoint="aera")
    assert endpoint.value.hint == "Did you mean 'area'?"


def test_a_folder_of_other_things_and_an_unwritable_one_are_left_alone(root: Path) -> None:
    (root / "mine").mkdir()
    (root / "mine/letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="did not write"):
        score(root, out="mine")
    if os.geteuid() == 0:  # nothing is unwritable for root but what is no folder
        (root / "file").write_text("")
        with pytest.raises(StateUnavailableError):
            score(root, out="file/out")
    else:
        (root / "shut").mkdir(mode=0o500)
        with pytest.raises(StateUnavailableError, match="cannot write"):
            score(root, out="shut/out")


def test_a_full_disk_is_told_and_the_next_run_goes_on(root: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from tests.scoring.world import score\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from retinue.core.errors import StateUnavailableError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try:\n    score(Path(sys.argv[1]), columns=('*',), partition='', endpoint='all', journal='none')\n"
        "except StateUnavailableError as error:\n    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=False)
    assert "cannot write" in done.stdout, done.stderr
    assert not list((root / "out").glob("*.parquet"))
    assert score(root, columns=("*",), partition="", endpoint="all", journal="none").scored == 300


def test_a_stage_without_release_says_so(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UnavailableError, match="no release yet"):
        score(tmp_path)


@pytest.mark.e2e
def test_killed_after_any_effect_and_run_again_no_row_is_there_twice_and_none_is_missing(root: Path) -> None:
    score(root, out="whole", journal="none")
    folder = settings_of(root).journal("shop", "prod")
    deaths = {}
    for number, last in enumerate((1, 1, 2, 3, 3)):  # each run goes on where the one before died
        program = [sys.executable, "-m", "tests.scoring.world", str(root), str(last)]
        subprocess.run(program, check=False, capture_output=True)
        deaths[number] = (root / "note").read_text().split()[-1]
        if number == 3:
            compact(folder)  # the journal has the partition, the run does not know it yet
    assert list(deaths.values()) == ["JOB_WRITTEN", "PART_WRITTEN", "PART_MOVED", "JOURNALLED", "PART_MARKED"]
    again = score(root, journal="facts")
    assert again.rows == 300
    found = read(root / "out")
    assert listed(found, "prediction_id") == listed(read(root / "whole"))
    assert len(set(found.column("prediction_id").to_pylist())) == 300
    assert query(folder, "select sum(rows), count(distinct part) from batches").rows == [(300, 4)]
    assert query(folder, "select count(*), count(distinct prediction_id) from predictions").rows == [(300, 300)]
    assert not list((root / "out").rglob(".part-*"))


def test_predict_gives_back_the_kind_of_frame_it_was_given(root: Path) -> None:
    score(root)
    wanted = listed(read(root / "out"), "id", "row")
    table = rows(300)
    with place(root).predictor("area") as model:
        assert listed(model.predict(table)) == wanted
        assert listed(model.predict(table.to_batches()[0])) == wanted
        pandas = pytest.importorskip("pandas")
        frame = table.to_pandas().set_index(pandas.Index(range(1000, 1300), name="at"))
        answers = model.predict(frame)
        assert list(answers.index) == list(range(1000, 1300))
        assert answers["y"].fillna(-1).tolist() == [-1 if row["y"] == "nan" else row["y"] for row in wanted]
        polars = pytest.importorskip("polars")
        assert model.predict(polars.from_arrow(table))["model"].to_list() == [row["model"] for row in wanted]
        assert model.predict(table.slice(0, 0)).num_rows == 0
        with pytest.raises(DataError, match="no column 'town'"):
            model.predict(frame.drop(columns=["town"]))
        with pytest.raises(UsageError, match="not dict"):
            model.predict({"x": 1})


def test_the_command_tells_what_it_did_and_what_is_wrong(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in {"portfolio.yaml": "portfolio: shop\nformat: 1\n", "retinue.toml": ""}.items():
        (root / key).write_text(value)
    monkeypatch.chdir(root)
    assert run(["score", "area", "--in", "in.parquet", "--out", "out", "--partition", "100", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["errors"], told["partitions"], told["by_fallback"]) == (300, 0, 3, 150)
    assert run(["score", "area", "--in", "in.parquet", "--out", "out", "--partition", "100"]) == 0
    assert "300 of them were there already" in capsys.readouterr().out
    assert run(["score", "alone", "--in", "in.parquet", "--out", "other"]) == 0
    assert "warning: 150 rows have no answer" in capsys.readouterr().out
    assert run(["score", "area", "--in", "in.parquet", "--out", "out", "--resume", "--restart"]) == 64
    assert run(["score", "area", "--in", "in.parquet", "--out", "out", "--partition", "7"]) == 1
    assert "the partitioning (100 → 7)" in capsys.readouterr().err
    project = Project(root)
    with project.endpoint("area") as area:
        assert area.predict(rows(12)).column("model").to_pylist()[:2] == ["area-oslo", "area-bergen"]
    project.close()
