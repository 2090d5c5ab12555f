"""Durations, sizes and percents as people write them: "3h", "64MB", "20%"."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal

DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+$"
SIZE = r"^[0-9]+(\.[0-9]+)?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
PERCENT = r"^[0-9]+(\.[0-9]+)?%$"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES: dict[str, int] = {"B": 1} | {
    unit: int(base**power)
    for power, pair in enumerate((("kB", "KiB"), ("MB", "MiB"), ("GB", "GiB"), ("TB", "TiB")), start=1)
    for unit, base in zip(pair, (1000, 1024), strict=True)
}
_BYTES["KB"] = 1000


def duration(text: str) -> float:
    """Seconds. Raises ValueError.

    >>> duration("3h"), duration("1h30m"), duration("5ms")
    (10800.0, 5400.0, 0.005)
    """
    if not re.fullmatch(DURATION, text):
        raise ValueError(text)
    parts = re.findall(r"([0-9.]+)(ms|s|m|h|d|w)", text)
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def size(text: str) -> int:
    """Bytes; kB, MB, GB are powers of 1000, KiB, MiB, GiB of 1024. Raises ValueError.

    >>> size("64MB"), size("1GiB")
    (64000000, 1073741824)
    """
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", text)
    if not found or not re.fullmatch(SIZE, text):
        raise ValueError(text)
    return round(float(found[1]) * _BYTES[found[2]])


def percent(text: str) -> float:
    """A share of one. Raises ValueError.

    >>> percent("20%")
    0.2
    """
    if not re.fullmatch(PERCENT, text):
        raise ValueError(text)
    return float(Decimal(text[:-1]) / 100)


def moment(text: str) -> str:
    """A date or date-time without zone, as DuckDB prints a TIMESTAMP. Raises ValueError.

    >>> moment("2013-04-01"), moment("2013-04-01T06:30")
    ('2013-04-01 00:00:00', '2013-04-01 06:30:00')
    """
    value = datetime.fromisoformat(text)
    if value.tzinfo is not None:
        raise ValueError(f"{text} has a zone")
    shown = str(value)
    return shown.rstrip("0") if value.microsecond else shown
