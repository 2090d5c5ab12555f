"""Times and tables in words."""

from __future__ import annotations

import doctest
from datetime import timedelta, timezone

import pytest

from retinue.cli import words


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        (timezone(timedelta(hours=-5), "EST"), "2026-01-31 07:00:00 EST (UTC-05:00)"),
        (timezone(timedelta(hours=5, minutes=30)), "2026-01-31 17:30:00 UTC+05:30"),
        (timezone(timedelta(0), "GMT"), "2026-01-31 12:00:00 UTC"),
    ],
)
def test_a_moment_is_local_with_zone_and_offset(zone: timezone, expected: str) -> None:
    assert words.moment("2026-01-31T12:00:00.000000Z", zone) == expected


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:00:00Z", "2026-01-31 13:00:00+01:00", "2026-01-31 12:00 UTC", "2026-01-31T12:00Z"]
)
def test_a_written_moment_is_taken_by_its_offset(text: str) -> None:
    assert words.utc(text) == "2026-01-31T12:00:00.000000Z"


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01"])
def test_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        words.utc(text)


def test_a_printed_moment_can_be_asked_for_again() -> None:
    assert words.utc(words.moment("2026-01-31T12:00:00.000000Z", timezone.utc)) == "2026-01-31T12:00:00.000000Z"  # noqa: UP017 - the name a person sees
