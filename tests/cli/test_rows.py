"""Rows to predict, as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.cli.commands_serve import _first_number
from retinue.cli.render_predictions import render_predictions
from retinue.cli.rows import read_rows
from retinue.core.errors import UsageError


def test_rows_come_from_texts_and_files_in_order(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"a": 2}\n\n{"a": 3}\n')
    assert read_rows(['{"a": 1}'], lines) == [{"a": 1}, {"a": 2}, {"a": 3}]
    for text in ('[{"a": 1}]', '{"rows": [{"a": 1}]}', '{"a": 1}'):
        file = tmp_path / "rows.json"
        file.write_text(text)
        assert read_rows([], file) == [{"a": 1}]


def test_cells_of_a_csv_become_numbers_booleans_text_or_missing(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("\ufeffn,x,b,t,zip,none,word\n-3,2.5,True,JFK,007,,nan\n", encoding="utf-8")
    expected = {"n": -3, "x": 2.5, "b": True, "t": "JFK", "zip": "007", "none": None, "word": "nan"}
    assert read_rows([], file) == [expected]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[1, 2]"),
        ("a.json", "{"),
        ("a.jsonl", '{"a": 1}\n[2]\n'),
        ("a.csv", "a,b\n1\n"),
        ("a.csv", "a,b\n1,2,3\n"),
        ("a.txt", "a"),
        ("a.json", "[]"),
    ],
)
def test_what_is_no_row_is_refused_with_a_hint(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_rows([], file)
    assert caught.value.hint


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "none.csv", tmp_path / "b.csv"):
        with pytest.raises(UsageError, match="cannot read"):
            read_rows([], file)


def test_the_place_of_wrong_json_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        read_rows(['{"a": }'], None)
    assert caught.value.where == "--row:1:7"


def test_rows_of_a_csv_are_numbered_as_its_lines_in_answers_and_in_errors() -> None:
    assert (_first_number([], Path("a.csv")), _first_number([], Path("a.jsonl")), _first_number([], None)) == (2, 1, 1)
    answers = {"predictions": [1.5, {"error": "row 1: 'origin' is missing"}], "release": 1}
    told = render_predictions(answers, 2).splitlines()
    assert told[0].split() == ["row", "2", "1.5"]
    assert told[1].split("   ")[:2] == ["row 3", "error: row 3: 'origin' is missing"]
