"""A stage that was found to be as its file says, remembered: the same plan again without a look at any model.

Everything that a plan is made from is in the key: the file and what it includes, code, locks, the stamps of data,
what the registry records, Retinue itself. Where something is not known by a stamp (sources elsewhere, artifacts and
keys from outside), nothing is remembered. A file that is garbled is passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import msgspec

from retinue.control.kept_portfolio import code_stamp
from retinue.control.wish import Wisher
from retinue.core.family import amend
from retinue.core.identity import digest
from retinue.core.plan import Plan, Waiting
from retinue.sources.cache import write_whole

Json = Any
FORMAT = 1
ROOMS = ("build", "control", "core", "loader", "sources", "store")
"""The code that makes a plan."""


def settled_by(wisher: Wisher, loaded: str, recorded: tuple[str, str, str]) -> str | None:
    """What a plan with default options is known by; None when something that it is made from has no stamp.

    `loaded`: what the portfolio file is known by; `recorded`: stage, database and the mark of its registry. Raises
    PortfolioError and DataError as planning does, for code and files that are not there.
    """
    specs = []
    for template in wisher.portfolio.models.values():
        each = template.for_each
        found = [template.spec, *(amend(template.spec, override.values) for override in template.overrides)]
        if (each is not None and each.python is not None) or any(spec.artifact is not None for spec in found):
            return None
        specs += found
    stamps = wisher.tables.stamps()
    if stamps is None:
        return None
    code = {}
    for spec in {(s.train, s.prepare, s.files): s for s in specs}.values():
        closure, files = wisher.code(spec)
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        code[digest([spec.train, spec.prepare, spec.files])] = [closure.digest, closure.trees, sums]
    locks = {name: lock.digest for name, lock in wisher.locks.items()}
    notes = wisher.tables.notes()
    return digest([FORMAT, installed("retinue"), code_stamp(ROOMS), recorded, loaded, stamps, code, locks, notes])


class Settled:
    """The last plan without changes of a stage, in a file of its own."""

    def __init__(self, folder: Path, file: Path, stage: str) -> None:
        self.path = folder / "settled" / f"{digest([FORMAT, str(file), str(file.absolute()), stage])[:40]}.bin"

    def get(self, key: str) -> Plan | None:
        """The plan that was remembered under this very key."""
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            data = self.path.read_bytes()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                kept = msgspec.msgpack.decode(data[32:], type=_Kept)
                if kept.key == key:
                    return kept.plan()
        return None

    def put(self, key: str, plan: Plan) -> None:
        """Remember a plan if all it says is what `_Kept` holds."""
        kept = _Kept.of(key, plan)
        if kept.plan() != plan:
            return
        payload = msgspec.msgpack.encode(kept)
        with contextlib.suppress(OSError):  # a disk that refuses it costs the next plan time, never its answer
            write_whole(self.path, hashlib.sha256(payload).digest() + payload)


class _Kept(msgspec.Struct, array_like=True):
    key: str
    portfolio: str
    stage: str
    base: int | None
    waiting: tuple[tuple[str, int, int, bool], ...]
    newer_data: tuple[str, ...]
    notes: tuple[str, ...]
    settings_base: int

    @staticmethod
    def of(key: str, plan: Plan) -> _Kept:
        waiting = tuple((w.model, w.rows, w.min_rows, w.lapsed) for w in plan.waiting)
        whole = (plan.portfolio, plan.stage, plan.base, waiting, plan.newer_data, plan.notes, plan.settings_base)
        return _Kept(key, *whole)

    def plan(self) -> Plan:
        """The plan; what it does not hold is as in a plan that does nothing."""
        return Plan(
            self.portfolio,
            self.stage,
            self.base,
            (),
            waiting=tuple(Waiting(*w) for w in self.waiting),
            newer_data=self.newer_data,
            notes=self.notes,
            settings_base=self.settings_base,
        )
