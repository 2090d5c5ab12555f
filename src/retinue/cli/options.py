"""The options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Format(StrEnum):
    """How a command prints."""

    text = "text"
    json = "json"


Output = Annotated[Format, Option("--output", "-o", help="text for people, json for programs: the same facts.")]
Stage = Annotated[str, Option("--to", "--stage", metavar="STAGE", help="The stage, e.g. dev, staging or prod.")]
Select = Annotated[
    list[str] | None,
    Option(
        "--select",
        "-s",
        metavar="SELECTOR",
        help="Only these: NAME, late-*, family:F, tag:T, owner:O, state:modified; +NAME, NAME+, 2+NAME, @NAME; a,b.",
    ),
]
Exclude = Annotated[
    list[str] | None, Option("--exclude", metavar="SELECTOR", help="Without these, chosen as --select chooses.")
]
Refresh = Annotated[bool, Option("--refresh-data", help="Build on today's data where it has newer rows.")]
AllowRemove = Annotated[
    list[str] | None, Option("--allow-remove", metavar="NAME", help="This model or endpoint may be removed.")
]
AllowWeaker = Annotated[
    list[str] | None, Option("--allow-weaker", metavar="NAME", help="The gates of this model may become weaker.")
]
Retry = Annotated[list[str] | None, Option("--retry", metavar="NAME", help="Try this held model again.")]
Why = Annotated[str, Option("--why", "--reason", metavar="TEXT", help="Why; kept in the release and the audit trail.")]
Reason = Annotated[str, Option("--reason", "--why", metavar="TEXT", help="Why; kept in the audit trail.")]
Yes = Annotated[bool, Option("--yes", "-y", help="Do not ask.")]
Every = Annotated[bool, Option("--all", help="List every model instead of totals by family.")]
Out = Annotated[Path | None, Option("--out", metavar="FILE", help="Save the plan, for `retinue apply FILE`.")]
Detailed = Annotated[bool, Option("--detailed-exitcode", help="Exit with 0: no changes, 1: failed, 2: changes.")]
Limit = Annotated[int, Option("--limit", "-n", min=1, help="At most so many, the newest first.")]
Model = Annotated[str, Argument(metavar="MODEL", help="The model's name.")]
Models = Annotated[list[str], Argument(metavar="MODEL", help="Names of models.")]
Selectors = Annotated[
    list[str],
    Argument(metavar="SELECTOR", help="As for plan, in quotes: NAME, 'late-*', 'NAME+', family:F, tag:T."),
]
MaybeModels = Annotated[list[str] | None, Argument(metavar="MODEL", help="Names of models.")]
VersionRef = Annotated[
    str, Argument(metavar="MODEL[@VERSION]", help="The live version, or the one whose id starts with VERSION.")
]
