"""Answers that are given again: for endpoints that ask for it, within their time, their number and a bound of bytes.

A question is the endpoint, the release (so every model's version, the routes and the options) and all values that the
request brings, by name and type, not its bytes: order, spaces and the client's `id` do not count, a value that no
model reads does, which costs a repetition and never gives a wrong answer. What is kept are the models' outputs, all
of them: which were asked for, and in which protocol, is decided when they are told. An answer does not depend on who
asks, so clients share them; the door has checked before that this one may ask. Errors and fallbacks are not kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

import numpy as np

from retinue import telemetry
from retinue.core.state import ServedCache
from retinue.gateway.calls import Kept, Part, Question
from retinue.gateway.recorder import NodeFacts, Ran

MAX_BYTES = 64 * 1024**2  # of all endpoints in one gateway
LARGEST = MAX_BYTES // 16  # of one answer: one large table must not push all others out
ARM = "cache"
"""The arm under which the journal has the nodes of an answer that was given again."""
_OVERHEAD = 600  # bytes of an entry beside its values, roughly
_PER_VALUE = 40  # bytes of a Python value in a list, roughly


class Answers:
    """The answers of one gateway, the ones that were used longest ago leave first. On the loop's thread only."""

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[Question, Kept] = OrderedDict()
        self._counts: dict[tuple[str, str], OrderedDict[Question, None]] = {}  # (release, endpoint) → oldest first
        self._marked: dict[str, dict[NodeFacts, NodeFacts]] = {}  # release → facts → the same under the arm "cache"
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.looks: dict[
            str, list[float]
        ] = {}  # endpoint → hits, their seconds, misses, theirs; of this process's life

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, question: Question) -> Kept | None:
        """The answer to this question, if it was given before and not too long ago."""
        found = self._kept.get(question)
        if found is not None and found.ends > self._clock():
            self._kept.move_to_end(question)
            self._counts[question[:2]].move_to_end(question)
            self.hits += 1
            return found
        if found is not None:
            self._drop(question)
        self.misses += 1
        return None

    def looked(self, endpoint: str, found: bool, seconds: float) -> None:
        """An endpoint's question was looked up."""
        counts = self.looks.setdefault(endpoint, [0, 0.0, 0, 0.0])
        at = 0 if found else 2
        counts[at] += 1
        counts[at + 1] += seconds

    def keep(self, question: Question, limits: ServedCache, parts: Iterable[Part], runs: Iterable[Ran]) -> None:
        """Keep an answer in which no row failed and none was answered by a fallback."""
        marked = self._marked.setdefault(question.release, {})
        own = _Own()
        mine = tuple(
            Ran(_mark(marked, run.facts), run.rows, own(run.inputs), own(run.outputs), 0.0, 0.0, run.fallback)
            for run in runs
        )
        held = tuple(Part(part.rows, part.served, own(part.outputs), part.fallback) for part in parts)
        size = _OVERHEAD + sum(_size(part.outputs) for part in held) + sum(_size(run.inputs) for run in mine)
        if size > min(LARGEST, self._max_bytes):
            return
        if question in self._kept:
            self._drop(question)
        self._kept[question] = Kept(held, mine, self._clock() + limits.seconds, size)
        same = self._counts.setdefault(question[:2], OrderedDict())
        same[question] = None
        self.bytes += size
        while len(same) > limits.answers:
            self._drop(next(iter(same)))
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def retire(self, releases: Iterable[str]) -> None:
        """Forget all but these releases (by digest)."""
        stay = set(releases)
        for question in [question for question in self._kept if question.release not in stay]:
            self._drop(question)
        self._marked = {release: facts for release, facts in self._marked.items() if release in stay}

    def metrics(self) -> dict[str, Any]:
        """The counts of this gateway."""
        return {
            telemetry.ANSWERS_REPEATED: {"": self.hits},
            telemetry.ANSWERS_NOT_KNOWN: {"": self.misses},
            telemetry.ANSWERS_BYTES: {"": self.bytes},
        }

    def _drop(self, question: Question) -> None:
        gone = self._kept.pop(question)
        self.bytes -= gone.size
        same = self._counts[question[:2]]
        del same[question]
        if not same:
            del self._counts[question[:2]]


def ask(release: str, endpoint: str, table: Any) -> Question:
    """The question a request's table asks of an endpoint."""
    hashed = hashlib.blake2b(digest_size=32)
    for piece in _canonical(table):
        hashed.update(len(piece).to_bytes(8, "little"))  # so that no two sequences of pieces are one
        hashed.update(piece)
    return Question(release, endpoint, hashed.digest())


def _canonical(table: Any) -> Iterable[bytes]:
    """A request's values as bytes: types, names and shapes are part of it.

    Python's own notation tells apart what JSON would not: 1, 1.0, True and "1"; None, nan and inf; 0.0 and -0.0.
    """
    rows = getattr(table, "rows", None)
    if rows is not None:
        yield b"rows"
        for row in rows:
            yield repr(sorted(row.items())).encode()
        return
    columns: Mapping[str, Any] = table.content()
    for name in sorted(columns):
        yield name.encode()
        yield from _values(columns[name])


def _values(values: Any) -> Iterable[bytes]:
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        yield f"{values.dtype.str}{values.shape}".encode()
        yield np.ascontiguousarray(values).tobytes()
    else:
        yield b"list"
        yield repr(values.tolist() if isinstance(values, np.ndarray) else list(values)).encode()


class _Own:
    """Blocks without views into a whole batch or a request's body, which would stay in memory with them."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}  # by identity: a part's outputs are those of its run

    def __call__(self, block: Any) -> Any:
        found = self._done.get(id(block))
        if found is None:
            found = self._done[id(block)] = (
                {name: _owned(values) for name, values in block.items()} if isinstance(block, dict) else _owned(block)
            )
        return found


def _owned(values: Any) -> Any:
    return values.copy() if isinstance(values, np.ndarray) and values.base is not None else values


def _mark(marked: dict[NodeFacts, NodeFacts], facts: NodeFacts) -> NodeFacts:
    """The same node under the arm "cache": one object per node and release, for the journal tells them by identity."""
    found = marked.get(facts)
    if found is None:
        found = NodeFacts(facts.model, facts.version, facts.inputs, facts.outputs, ARM, facts.fields)
        marked[facts] = found
    return found


def _size(value: Any) -> int:
    """About how many bytes a block or outputs take."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes) if value.dtype.kind != "O" else _size(value.tolist())
    if isinstance(value, Mapping):
        return sum(_PER_VALUE + _size(inner) for inner in value.values())
    if isinstance(value, str | bytes):
        return _PER_VALUE + len(value)
    if isinstance(value, Sequence):
        return _PER_VALUE + sum(_size(inner) for inner in value)
    return _PER_VALUE
