"""Where a cutoff falls, and moments in the one form in which data moments are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from retinue.core.errors import DataError
from retinue.core.portfolio import CutoffSpec


def moment(text: str) -> str:
    """An ISO 8601 moment as DuckDB prints a TIMESTAMP; a zone is taken to UTC. Raises DataError.

    >>> moment("2013-04-01"), moment("2013-04-01T02:30:00.500+02:00")
    ('2013-04-01 00:00:00', '2013-04-01 00:30:00.5')
    """
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(
            f"{text!r} is not a moment", hint="Write it as 2013-04-30 or 2013-04-30 18:00:00, in the data's own zone."
        ) from error
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    whole = value.replace(microsecond=0).isoformat(sep=" ")
    return whole + (f".{value.microsecond:06d}".rstrip("0") if value.microsecond else "")


def cutoff_of(spec: CutoffSpec, counts: Mapping[str, int], tables: Sequence[str]) -> str:
    """The cutoff over moments with their rows. Raises DataError when no cutoff leaves rows on both sides."""
    named = ", ".join(tables)
    total = sum(counts.values())
    if not total:
        raise DataError(f"there are no rows with a time in {named}", hint="Check the files and the `time` columns.")
    order = sorted(counts)
    if spec.at is not None:
        at = moment(spec.at)
        before = sum(n for value, n in counts.items() if value < at)
        if before in (0, total):
            side = "before" if before == 0 else "at or after"
            raise DataError(
                f"the cutoff {at} leaves no rows {side} it: {named} reach from {order[0]} to {order[-1]}",
                hint="Choose a cutoff inside that span, or `cutoff: last 20%`.",
            )
        return at
    if len(order) < 2:
        raise DataError(
            f"all rows of {named} are at {order[0]}: no cutoff leaves rows on both sides",
            hint="Check the `time` column, or leave `time` out to hold rows out by their key.",
        )
    wanted = (spec.share if spec.share is not None else 0.2) * total
    after = 0
    for value in reversed(order[1:]):  # never the first: something must come before
        after += counts[value]
        if after >= wanted:
            return value
    return order[1]
