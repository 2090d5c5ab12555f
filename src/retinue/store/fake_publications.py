"""The part of the registry in memory that keeps publications."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from retinue.core.publication import Publication
from retinue.core.state import AuditRow
from retinue.store import registry_rows as rows


class MemoryPublications(ABC):
    """Publications of all portfolios; what is audited is recorded by the registry."""

    _lock: threading.RLock

    def __init__(self) -> None:
        self._publications: list[tuple[str, str]] = []  # (portfolio, row as JSON)

    @abstractmethod
    def record(self, portfolio: str, row: AuditRow) -> None:
        """Append an audit row."""

    def published(self, portfolio: str) -> dict[str, Publication]:
        """The newest publication of each model that has any."""
        with self._lock:
            mine = [rows.unpack(row) for owner, row in self._publications if owner == portfolio]
            newest = {row["model"]: rows.publication_of(row) for row in mine}
            return {model: newest[model] for model in sorted(newest)}

    def publications(self, portfolio: str, model: str, limit: int = 50) -> list[Publication]:
        """What was published for a model, newest first."""
        with self._lock:
            mine = [rows.unpack(row) for owner, row in self._publications if owner == portfolio]
            return [rows.publication_of(row) for row in reversed(mine) if row["model"] == model][:limit]

    def publish(self, portfolio: str, publication: Publication, *, audit: AuditRow) -> bool:
        """As `Registry.publish`."""
        with self._lock:
            newest = self.publications(portfolio, publication.model, limit=1)
            if newest and newest[0].says() == publication.says():
                return False
            self._publications.append((portfolio, rows.pack(rows.publication_row(portfolio, publication))))
            self.record(portfolio, audit)
            return True
