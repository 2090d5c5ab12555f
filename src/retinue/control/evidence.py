"""Looks evidence up: has this version passed beside these upstreams? Answers `core/landing`'s two questions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from retinue.core.state import Evidence, Version
from retinue.store.base import RegistryReader


class EvidenceBook:
    """Versions and evidence held in memory: loaded once per act, extended while it runs."""

    def __init__(self, versions: Mapping[str, Version], evidence: Mapping[str, Iterable[Evidence]]) -> None:
        self._needs = {v.id: tuple(sorted({n["model"] for n in v.manifest["needs"]})) for v in versions.values()}
        self._evidence = {version: list(rows) for version, rows in evidence.items()}

    @classmethod
    def load(cls, registry: RegistryReader, versions: Collection[str]) -> EvidenceBook:
        """The book for these version ids, in two queries."""
        return cls(registry.versions(versions), registry.evidence(versions))

    def add(self, version: Version, evidence: Evidence | None) -> None:
        """Note a version that was just built or tested."""
        self._needs[version.id] = tuple(sorted({n["model"] for n in version.manifest["needs"]}))
        if evidence is not None:
            self._evidence.setdefault(version.id, []).insert(0, evidence)

    def needs(self, version: str) -> tuple[str, ...]:
        """Names of the upstream models a version reads."""
        return self._needs[version]

    def passed(self, version: str, upstreams: Mapping[str, str]) -> bool:
        """Whether the newest evidence of this version beside these upstreams is a pass."""
        found = self.find(version, upstreams)
        return found is not None and found.verdict == "pass"

    def ever_passed(self, version: str, upstreams: Mapping[str, str]) -> bool:
        """Whether this version passed beside these upstreams at any time, under whatever gates were asked then."""
        rows = self._evidence.get(version, ())
        return any(row.verdict == "pass" and dict(row.upstreams) == dict(upstreams) for row in rows)

    def find(self, version: str, upstreams: Mapping[str, str], gates: str | None = None) -> Evidence | None:
        """The newest evidence of a version beside these upstreams (under these gate settings, if given)."""
        for row in self._evidence.get(version, ()):
            if dict(row.upstreams) == dict(upstreams) and (gates is None or row.gates == gates):
                return row
        return None
