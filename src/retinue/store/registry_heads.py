"""Reading without unpacking: columns that a plan compares, for any number of versions in one query each."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text

from retinue.core.state import Evidence

Json = Any

_EVIDENCE = """
select version, upstreams, gates, verdict, champion, created, case verdict when 'pass' then '' else results end
from evidence where version in ({ids}) order by seq desc
"""
_IDS = {
    "sqlite": "select value from json_each(:ids)",
    "postgresql": "select json_array_elements_text(cast(:ids as json))",
}

_BEFORE = """
select c.model, c.old from ({pairs}) as p
join changes c on c.portfolio = :portfolio and c.stage = :stage and c.model = p.model and c.new = p.version
join releases r on r.portfolio = c.portfolio and r.stage = c.stage and r.number = c.release
where r.cause <> 'rollback' order by c.release
"""
_PAIRS = {
    "sqlite": "select key as model, value as version from json_each(:live)",
    "postgresql": "select key as model, value as version from json_each_text(cast(:live as json))",
}


class LateJson(Mapping[str, Json]):
    """A JSON object that is parsed when it is first looked into. `text` is canonical: equal texts, equal objects."""

    __slots__ = ("_body", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._body: dict[str, Json] | None = None

    def _parsed(self) -> dict[str, Json]:
        if self._body is None:
            self._body = json.loads(self.text)
        return self._body

    def __getitem__(self, key: str) -> Json:
        return self._parsed()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed())

    def __len__(self) -> int:
        return len(self._parsed())

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        if isinstance(other, LateJson):
            return self.text == other.text
        return self._parsed() == other

    __hash__ = None  # type: ignore[assignment]  # as a dict: what can be looked into late is still a mapping


def read_evidence(connection: Connection, versions: Collection[str]) -> dict[str, list[Evidence]]:
    """All evidence per version id, newest first, in one query; `results` are left out of what passed."""
    found: dict[str, list[Evidence]] = {version: [] for version in versions}
    same = {version: version for version in found}  # of equal texts one is kept, of ten thousand rows each
    query = text(_EVIDENCE.format(ids=_IDS[connection.dialect.name]))
    nothing: dict[str, str] = {}
    for version, upstreams, gates, verdict, champion, created, results in connection.execute(
        query, {"ids": json.dumps(sorted(found))}
    ):
        beside = nothing if upstreams == "{}" else json.loads(upstreams)
        told = tuple(json.loads(results)) if results else ()
        one = same.setdefault
        row = Evidence(same[version], beside, one(gates, gates), verdict, told, champion, created)
        found[version].append(row)
    return found


def read_before(connection: Connection, place: tuple[str, str], live: Mapping[str, str]) -> dict[str, str | None]:
    """As `RegistryReader.before`: by index, however many changes other models had."""
    query = text(_BEFORE.format(pairs=_PAIRS[connection.dialect.name]))
    asked = {"portfolio": place[0], "stage": place[1], "live": json.dumps(dict(live))}
    return {model: old for model, old in connection.execute(query, asked)}  # the newest overwrites
