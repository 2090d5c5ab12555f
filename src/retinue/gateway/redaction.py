"""What an endpoint's journal leaves out: fields dropped, fields replaced by a keyed digest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from retinue.core.state import ServedJournal
from retinue.store.journal_key import digest_of

Change = Callable[[Any], Any]

HIDDEN = "not kept: the endpoint's journal leaves fields out"


class Redaction:
    """How the blocks of one endpoint are changed before they are journalled."""

    def __init__(self, journal: ServedJournal, key: bytes | None) -> None:
        self._changes: dict[str, Change] = {field: _drop for field in journal.drop}
        if journal.hash:
            assert key is not None  # whoever reads the settings fetches it
            for field in journal.hash:
                self._changes.setdefault(field, lambda value: digest_of(key, value))

    def block(self, block: Any, names: Sequence[str], fields: Sequence[str]) -> Any:
        """A block of inputs without what must not be kept; `fields` tells where each of `names` comes from."""
        at = {index: self._changes[field] for index, field in enumerate(fields) if field in self._changes}
        if not at or block is None:
            return block
        if isinstance(block, dict):
            changed = {names[index]: change for index, change in at.items()}
            return {name: _column(column, changed.get(name)) for name, column in block.items()}
        if isinstance(block, np.ndarray):
            return {name: _column(block[:, index], at.get(index)) for index, name in enumerate(names)}
        return [[_cell(value, at.get(index)) for index, value in enumerate(row)] for row in block]


class Policy:
    """What one endpoint's journal keeps."""

    __slots__ = ("redaction", "tensors")

    def __init__(self, wish: ServedJournal, key: bytes | None) -> None:
        self.tensors = wish.tensors
        self.redaction = Redaction(wish, key) if wish.drop or wish.hash else None


class Policies(dict[str, Policy]):
    """The policies of a release's endpoints; those without a wish have none.

    A model that is asked by its own name has no endpoint that says what to keep of it: what any endpoint leaves out
    is left out there too, or a request past the endpoint would put into the journal what must not be in it.
    """

    def __init__(self, wishes: Mapping[str, ServedJournal], key: bytes | None, endpoints: Collection[str]) -> None:
        super().__init__({name: Policy(wish, key) for name, wish in wishes.items()})
        drop, hashed = ({f for wish in wishes.values() for f in getattr(wish, what)} for what in ("drop", "hash"))
        strict = ServedJournal(drop=tuple(sorted(drop)), hash=tuple(sorted(hashed - drop)))
        self._direct = Policy(strict, key) if drop or hashed else None
        self._endpoints = frozenset(endpoints)

    def get(self, key: str, default: Any = None) -> Any:
        """The policy of an endpoint, or of a model by its own name."""
        found = super().get(key)
        return self._direct if found is None and key not in self._endpoints else found

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None


def _drop(value: Any) -> None:
    return None


def _cell(value: Any, change: Change | None) -> Any:
    return value if change is None else change(value)


def _column(column: Any, change: Change | None) -> Any:
    if change is None:
        return column
    values = column.tolist() if isinstance(column, np.ndarray) else column
    return [None if value is None or (isinstance(value, float) and isnan(value)) else change(value) for value in values]


class _Withheld(dict[str, "Policy"]):
    """The policies of a release that is not known any more: tensors of none of its endpoints are kept."""

    def get(self, key: str, default: Any = None) -> Policy:
        """The same for all."""
        return _NO_TENSORS

    def __contains__(self, key: object) -> bool:
        return True


_NO_TENSORS = Policy(ServedJournal(tensors=0.0, drop=("",)), None)  # nor the texts of its errors
UNKNOWN = _Withheld()
