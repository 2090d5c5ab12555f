"""What a gateway journals: every answered request, before its answer leaves.

The data plane calls `answered` (or, for the commonest request, `single`) when an answer is known; `flush` writes all
of a loop turn with one `write()` and is called before that turn's answers leave, so `kill -9` loses no answered
prediction. Both run on the loop's thread.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from retinue import telemetry
from retinue.core.contract import Field
from retinue.core.state import ServedEndpoint, ServedJournal
from retinue.gateway.budget import Budget
from retinue.gateway.redaction import HIDDEN, UNKNOWN, Policies, Policy
from retinue.settings import Settings
from retinue.store.journal import (
    ENCODER,
    FORMAT,
    GAP,
    NODE,
    REQUEST,
    REQUESTS,
    Gap,
    Header,
    Node,
    describe,
    frame,
)
from retinue.store.journal_key import hash_key
from retinue.store.journal_write import SegmentWriter

REMEMBERED = (
    64  # releases whose endpoints' wishes are known: the last requests of a release end after its successor began
)
RETRY = 3_000_000_000  # nanoseconds between two tries to journal again
_encode = ENCODER.encode
SMALL = 64  # rows of a request that shares its frame with others


class NodeFacts:
    """One node of a release's graph: what runs there. Shared by all requests, compared by identity.

    `fields`: for each input the request's field it is read from, "" for an upstream's output; empty: as `inputs`
    are named. Redaction needs it: a feature may have another name than the field it comes from.
    """

    __slots__ = ("arm", "fields", "inputs", "model", "outputs", "version")

    def __init__(
        self,
        model: str,
        version: str,
        inputs: Sequence[Field],
        outputs: Sequence[Field],
        arm: str = "",
        fields: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.version = version
        self.arm = arm
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.fields = tuple(fields) or tuple(field.name for field in inputs)


class Ran(NamedTuple):
    """One node's run over some rows of a request (`rows` None: all). Blocks as the batcher has them; seconds."""

    facts: NodeFacts
    rows: Sequence[int] | None
    inputs: Any
    outputs: Any
    queued: float
    ran: float
    fallback: bool = False


class Answered(NamedTuple):
    """One admitted request whose answer is known. `arrived` in nanoseconds since 1970; `errors` by row."""

    id: str
    endpoint: str
    release: int
    client: str | None
    client_id: str | None
    status: int
    rows: int
    arrived: int
    seconds: float
    runs: Sequence[Ran]
    errors: Mapping[int, str] = {}


class Recorder:
    """The journal of one gateway. Does nothing until a release is followed; never raises into the data plane.

    `clock` gives nanoseconds since 1970, `coin` a number in [0, 1): who keeps its tensors when they are over budget.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], int] = time.time_ns,
        coin: Callable[[], float] = random.random,
        pid: int | None = None,
        tell: Callable[[str, str], None] = lambda event, text: None,
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._enabled = settings.journal_enabled
        self._clock = clock
        self._coin = coin
        self._pid = os.getpid() if pid is None else pid
        self._budget = Budget(settings.journal_budget)
        self._chance = 1.0  # of the budget: that a request's tensors are kept
        self._policies: dict[int, dict[str, Policy]] = {}  # by release; endpoints without wishes have none
        self._place: tuple[str, str] | None = None
        self._writer: SegmentWriter | None = None
        self._opened = 0
        self._numbers: dict[NodeFacts, int] = {}
        self._parts: list[bytes] = []
        self._whole: list[tuple[Any, ...]] = []  # small requests of this turn, with their tensors
        self._bare: list[tuple[Any, ...]] = []  # and those without
        self._waiting = 0  # requests in all of these
        self._stopped = ""  # why nothing is journalled, if so
        self._since = self._retry = 0
        self._lost = 0  # answers since then
        self.records = self.bytes = self.unjournalled = self.sampled_out = 0

    # ------------------------------------------------------------------------------------------------ the hot calls
    def answered(self, record: Answered) -> None:
        """Take one answered request; it is written by the next `flush`."""
        if self._writer is None:
            self._miss()
            return
        try:
            policy = self._policies.get(record.release, UNKNOWN).get(record.endpoint)
            chance = self._chance if policy is None else self._chance * policy.tensors
            kept = chance >= 1.0 or self._coin() < chance
            runs = [self._run(ran, kept, policy) for ran in record.runs]
            errors = record.errors or None
            if errors and policy is not None and policy.redaction is not None:
                errors = dict.fromkeys(errors, HIDDEN)
            self._add(
                (record.id, record.endpoint, record.release, record.client, record.client_id, record.status,
                 record.rows, record.arrived, record.seconds, chance, errors, runs), kept,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  an answer must not fail because it cannot be journalled
            self._unwritable(error)

    def single(  # noqa: PLR0913, PLR0917  the commonest request, flat: what it would be packed into costs more than the record
        self, identity: str, endpoint: str, release: int, client: str | None, client_id: str | None, status: int,
        rows: int, arrived: int, seconds: float, facts: NodeFacts, inputs: Any, outputs: Any, queued: float, ran: float,
    ) -> None:  # fmt: skip
        """`answered` for a request whose rows one node answered, without errors or fallback."""
        if self._writer is None:
            self._miss()
            return
        try:
            if endpoint in self._policies.get(release, UNKNOWN):
                run = Ran(facts, None, inputs, outputs, queued, ran)
                self.answered(
                    Answered(identity, endpoint, release, client, client_id, status, rows, arrived, seconds, (run,))
                )
                return
            chance = self._chance
            kept = chance >= 1.0 or self._coin() < chance
            if not kept:
                inputs = outputs = None
            number = self._numbers.get(facts) or self._define(facts)
            self._add(
                (identity, endpoint, release, client, client_id, status, rows, arrived, seconds, chance, None,
                 ((number, None, inputs, outputs, queued, ran, False),)), kept,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  an answer must not fail because it cannot be journalled
            self._unwritable(error)

    def flush(self) -> None:
        """Write what this loop turn answered; called before the answers leave."""
        parts = self._parts
        if not (parts or self._whole or self._bare):
            return
        self._encode_small()
        data = b"".join(parts)
        parts.clear()
        count, self._waiting = self._waiting, 0
        writer = self._writer
        if writer is None:
            return
        try:
            writer.write(data, durable=self._settings.journal_fsync)
        except OSError as error:
            self._stop(error, count)
            return
        self.records += count
        self.bytes += len(data)
        now = self._clock()
        self._chance = self._budget.spend(now)
        if writer.size >= self._settings.journal_rotate_bytes:
            self.rotate()

    # --------------------------------------------------------------------------------------------------- the others
    def follow(self, release: int, portfolio: str, stage: str, endpoints: Mapping[str, ServedEndpoint]) -> None:
        """A release will be served: know what its endpoints' journals keep. Opens the first segment."""
        if not self._enabled:
            return
        plain = ServedJournal()
        wishes = {name: endpoint.journal for name, endpoint in endpoints.items() if endpoint.journal != plain}
        try:
            key = hash_key(self._settings.journals) if any(wish.hash for wish in wishes.values()) else None
        except OSError:  # better not at all than as it is
            wishes = {name: ServedJournal(wish.tensors, drop=wish.drop + wish.hash) for name, wish in wishes.items()}
            key = None
        self._policies[release] = Policies(wishes, key, endpoints) if wishes else {}
        for old in list(self._policies)[:-REMEMBERED]:
            del self._policies[old]
        self._place = (portfolio, stage)
        if self._writer is None and not self._stopped:
            self._begin()

    def tick(self) -> None:
        """A few times a second: rotate by time, and try again after a stop."""
        now = self._clock()
        self._chance = self._budget.spend(now)
        if self._stopped:
            if now >= self._retry:
                self._try_again(now)
        elif self._writer is not None and now - self._opened >= self._settings.journal_rotate_seconds * 1e9:
            self.rotate()

    def rotate(self) -> None:
        """Close the open segment and begin another, if it holds anything."""
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._begin()

    def close(self) -> None:
        """The gateway ends."""
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._enabled = False

    def status(self) -> dict[str, Any]:
        """What the gateway says of its journal; `stopped` is why nothing is written, empty while all is well."""
        return {
            "records": self.records,
            "bytes": self.bytes,
            "unjournalled": self.unjournalled,
            "sampled_out": self.sampled_out,
            "stopped": self._stopped,
        }

    @property
    def trouble(self) -> str | None:
        """What a person should see to."""
        if not self._stopped:
            return None
        return f"journalling has stopped: {self._stopped}; {self._lost} answers have left unjournalled since"

    def metrics(self) -> dict[str, dict[str, float]]:
        """The same as metrics, by name."""
        return {
            telemetry.JOURNAL_RECORDS: {"": self.records},
            telemetry.JOURNAL_BYTES: {"": self.bytes},
            telemetry.JOURNAL_SAMPLED_OUT: {"": self.sampled_out},
            telemetry.UNJOURNALLED: {"": self.unjournalled},
            telemetry.JOURNAL_STOPPED: {"": 1 if self._stopped else 0},
        }

    # ------------------------------------------------------------------------------------------------------- inside
    def _run(self, ran: Ran, kept: bool, policy: Policy | None) -> tuple[Any, ...]:
        facts = ran.facts
        number = self._numbers.get(facts) or self._define(facts)
        inputs, outputs = (ran.inputs, ran.outputs) if kept else (None, None)
        if policy is not None and policy.redaction is not None and kept:
            inputs = policy.redaction.block(inputs, [field.name for field in facts.inputs], facts.fields)
        return number, ran.rows, inputs, outputs, ran.queued, ran.ran, ran.fallback

    def _add(self, record: tuple[Any, ...], kept: bool) -> None:
        """Small ones wait for the turn's end, when one frame holds them all; large ones are encoded now."""
        if record[6] <= SMALL:
            (self._whole if kept else self._bare).append(record)
        else:
            self._encode_one(record, kept)
        self._waiting += 1

    def _encode_one(self, record: tuple[Any, ...], kept: bool) -> None:
        try:
            payload = _encode(record)
        except (ValueError, TypeError, OverflowError):  # such as text that is no Unicode: the facts are kept
            payload, kept = _encode(_facts_only(record)), False
        self._parts.append(frame(REQUEST, payload))
        self._account(len(payload), 1, kept)

    def _encode_small(self) -> None:
        """All small requests of the turn, in one frame each for those with and those without tensors."""
        for records, kept in ((self._whole, True), (self._bare, False)):
            if not records:
                continue
            try:
                payload = _encode(records)
            except (ValueError, TypeError, OverflowError):
                for record in records:  # one of them cannot be encoded as it is
                    self._encode_one(record, kept)
            else:
                self._parts.append(frame(REQUESTS, payload))
                self._account(len(payload), len(records), kept)
            records.clear()

    def _account(self, size: int, count: int, kept: bool) -> None:
        if kept:
            self._budget.spent += size
            self._budget.wished += size / self._chance
        else:
            self.sampled_out += count

    def _define(self, facts: NodeFacts) -> int:
        """The number of a node in this segment, which tells what it is before it is named."""
        number = self._numbers[facts] = len(self._numbers) + 1
        inputs, outputs = describe(facts.inputs), describe(facts.outputs)
        node = Node(number, facts.model, facts.version, facts.arm, inputs, outputs)
        self._parts.append(frame(NODE, _encode(node)))
        return number

    def _unwritable(self, error: Exception) -> None:
        """A record that cannot be encoded."""
        self.unjournalled += 1
        self._tell("journal.left_out", f"a record was left out of the journal: {type(error).__name__}: {error}")

    def _miss(self) -> None:
        """An answer leaves unjournalled."""
        if self._enabled:
            self.unjournalled += 1
            self._lost += 1

    def _begin(self) -> None:
        try:
            self._writer = self._segment()
        except OSError as error:
            self._stop(error, 0)

    def _segment(self) -> SegmentWriter:
        """A new segment. Raises OSError."""
        assert self._place is not None
        self._numbers.clear()
        self._opened = max(self._clock(), self._opened + 1)  # its name
        header = Header(FORMAT, self._pid, self._opened, *self._place)
        return SegmentWriter(self._settings.journal(*self._place), header)

    def _stop(self, error: OSError, answers: int) -> None:
        """The disk takes nothing more: serving goes on, journalling stops, and says so."""
        now = self._clock()
        if not self._stopped:
            self._since = now
            self._tell("journal.stopped", f"journalling has stopped, answers leave unjournalled: {error}")
        self._stopped = error.strerror or str(error)
        self._retry = now + RETRY
        self._lost += answers
        self.unjournalled += answers
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _try_again(self, now: int) -> None:
        """Begin a new segment with a record of the gap."""
        try:
            writer = self._segment()
        except OSError as error:
            self._stop(error, 0)
            return
        try:
            writer.write(frame(GAP, _encode(Gap(self._since, now, self._lost, self._stopped))))
        except OSError as error:
            writer.close()
            self._stop(error, 0)
            return
        self._writer, self._stopped, self._lost = writer, "", 0
        self._tell("journal.resumed", "journalling goes on")


def _facts_only(record: tuple[Any, ...]) -> tuple[Any, ...]:
    """A record without its tensors, its texts made Unicode."""
    *facts, _, _, runs = record
    texts = [fact.encode("utf-8", "replace").decode() if isinstance(fact, str) else fact for fact in facts]
    return (*texts, 0.0, None, [(*run[:2], None, None, *run[4:]) for run in runs])
