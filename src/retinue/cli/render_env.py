"""Environments in words. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo

from retinue.build.environment import Stored
from retinue.cli.words import moment, size, table
from retinue.core.identity import short


def render_environments(
    declared: Mapping[str, Mapping[str, str | None]], stored: Sequence[Stored], zone: tzinfo | None = None
) -> str:
    """Declared ones with their lock, then those on disk with what they take."""
    on_disk = {s.digest for s in stored}
    rows = []
    for name, body in declared.items():
        digest = body["digest"]
        state = "not locked yet" if digest is None else "ready" if digest in on_disk else "not installed yet"
        rows.append((name, str(body["requirements"]), short(digest) if digest else "–", state))
    lines = ["Declared:", *table(rows)]
    names = {body["digest"]: name for name, body in declared.items()}
    disk = [
        (
            short(s.digest),
            f"{size(s.size)} ({size(s.own)} not shared)",
            f"used {moment(datetime.fromtimestamp(s.used, UTC).isoformat(), zone)}",
            names.get(s.digest.partition(".")[0], "of no declared environment"),
        )
        for s in stored
    ]
    return "\n".join([*lines, "On disk:", *(table(disk) or ["  none"])]) + "\n"
