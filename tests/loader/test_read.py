"""YAML 1.2 core schema, with places."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.core.errors import Location, PortfolioError
from retinue.loader import units
from retinue.loader.read import Node, parse, resolve


@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "12:30", "1_000", "0b1", "2013-04-01", "N", "+", "."])
def test_what_yaml_1_1_converts_stays_text(text: str) -> None:
    assert resolve(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("-3", -3),
        ("1.5e3", 1500.0),
        ("TRUE", True),
        ("Null", None),
        ("", None),
    ],
)
def test_numbers_truth_and_null_are_those_of_the_core_schema(text: str, value: object) -> None:
    assert resolve(text) == value


def test_quoted_scalars_are_text_and_tags_decide() -> None:
    node = parse("a: '1'\nb: !!str 1\nc: !!float 1\nd: |\n  1\n", "f")
    assert node.plain() == {"a": "1", "b": "1", "c": 1.0, "d": "1\n"}


def test_keys_are_text_as_written() -> None:
    assert parse("01: a\non: b\ntrue: c\n", "f").plain() == {"01": "a", "on": "b", "true": "c"}


def test_every_key_and_value_knows_its_place_and_text() -> None:
    node = parse("a:\n  b: [x, 01]\n", "p.yaml")
    assert node.entries is not None
    inner = node.entries["a"].node.get("b")
    assert inner is not None
    assert inner.items is not None
    assert node.entries["a"].at == Location("p.yaml", 1, 1)
    assert (inner.items[1].at, inner.items[1].text, inner.items[1].value) == (Location("p.yaml", 2, 10), "01", 1)


def test_aliases_repeat_the_anchored_value() -> None:
    assert parse("a: &x [1, 2]\nb: *x\n", "f").plain() == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (r'a: "x\ud800"', "f.yaml:1:4: character U+D800 is not allowed in text"),
        (r'"a\0b": 1', "f.yaml:1:1: character U+0000 is not allowed in text"),
        (r'a: "\UFFFFFFFF"', "not valid YAML"),
        ("a: 0x" + "f" * 3_900, "a number of more than 3,000 digits"),
    ],
)
def test_what_no_text_and_no_number_can_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(PortfolioError) as caught:
        parse(text, "f.yaml")
    assert said in str(caught.value)


def test_a_mark_at_the_begin_of_the_file_is_not_seen() -> None:
    assert parse("# c\n---\na: 1\n...\n", "f").plain() == {"a": 1}


@given(st.text(max_size=200))
def test_any_text_is_either_read_or_refused_with_words(text: str) -> None:
    _read_or_refuse(text)


@given(st.text(alphabet="{}[]:,&*!|>'\"%@`#-?~ \n\tab1" + string.punctuation, max_size=80))
def test_any_punctuation_is_either_read_or_refused_with_words(text: str) -> None:
    _read_or_refuse(text)


def _read_or_refuse(text: str) -> None:
    refused: PortfolioError | None = None
    try:
        assert isinstance(parse(text, "f"), Node)
    except PortfolioError as error:
        refused = error
    assert refused is None or (refused.hint and refused.where)


@pytest.mark.parametrize("text", ["3", "3 h", "h", "-3h", "3y", " ", "1h-3m"])
def test_a_duration_has_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text) + "$"):
        units.duration(text)


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600.0), ("6d", 518400.0), ("1h30m", 5400.0), ("0.5s", 0.5)])
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize(("text", "number"), [("64MB", 64_000_000), ("4GiB", 4 * 1024**3), ("1.5kB", 1500), ("7B", 7)])
def test_sizes_are_bytes(text: str, number: int) -> None:
    assert units.size(text) == number


@given(st.integers(0, 1000))
def test_percents_are_the_nearest_share(tenths: int) -> None:
    assert units.percent(f"{tenths / 10}%") == float(f"{tenths}e-3")
