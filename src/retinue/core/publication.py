"""A publication: the result of a training that ran elsewhere, handed over for a model of `artifact: published`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retinue.core.errors import UsageError

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Publication:
    """What was handed over. Attested by Retinue: digest, size, who, when. `claimed` is what the publisher says."""

    model: str
    digest: str  # SHA-256 of the artifact's bytes, which the artifact store holds
    format: str
    size: int
    claimed: Mapping[str, str]  # lineage that Retinue did not see happen: run, data, commit, …
    why: str
    who: str
    created: str

    def says(self) -> tuple[str, str, dict[str, str]]:
        """What makes another publication another one: bytes, their format and the lineage."""
        return self.digest, self.format, dict(self.claimed)


def lineage(pairs: Sequence[str]) -> dict[str, str]:
    """`key=value` pairs as a mapping. Raises UsageError for what is none, an odd key, a key given twice.

    >>> lineage(["run=manual__2026-05-01", "data=s3://lake/x?v=3"])
    {'run': 'manual__2026-05-01', 'data': 's3://lake/x?v=3'}
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not _KEY.fullmatch(key) or not value.strip():
            raise UsageError(f"--lineage {pair!r} is no key=value", hint="For example: --lineage run=airflow-812")
        if key in found:
            raise UsageError(f"--lineage names {key} twice", hint="Give each key once.")
        found[key] = value
    return found
