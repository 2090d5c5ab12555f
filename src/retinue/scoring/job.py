"""One run over a table: partitions scored side by side, each written whole, journalled, and marked as done.

The durable effects are numbered in `ledger.Effect`. Killed between any two of them, the same command scores what is
not marked; a partition that was in place already is written again with the same rows, and journalled at most once.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from retinue.core.errors import ConflictError, UsageError
from retinue.scoring import output
from retinue.scoring.journal import Facts, Writing, journalled
from retinue.scoring.ledger import Done, Effect, Job, Ledger, differences, on_disk
from retinue.scoring.models import Models
from retinue.scoring.parts import OnEffect, PartWriter, Stopped, Watch
from retinue.scoring.release import ScoringRelease, Wanted
from retinue.scoring.rows import RowScorer
from retinue.scoring.tables import Partition, Table, by_column, by_rows


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a run. `partition`: a column's name, a number of rows as text, or "" for about a million rows.

    `columns`: what the output carries of the input ("*": all); None: `kept`. `journal`: facts, summary or none.
    """

    endpoint: str
    source: str
    out: Path
    partition: str = ""
    columns: tuple[str, ...] | None = None
    kept: tuple[str, ...] = ()
    journal: str = "summary"
    restart: bool = False
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, over all partitions."""

    rows: int
    total: int
    errors: int
    parts: int
    of_parts: int


@dataclass(frozen=True, slots=True)
class ScoreOutcome:
    """What a run came to, what earlier runs of it did included. `scored` and `seconds` are of this run alone."""

    endpoint: str
    release: int
    output: str
    rows: int
    errors: int
    partitions: int
    scored: int
    seconds: float
    models: tuple[tuple[str, str, int, bool], ...]
    texts: tuple[tuple[str, int], ...]

    @property
    def by_fallback(self) -> int:
        """Rows that the endpoint's fallback answered."""
        return sum(rows for _, _, rows, fallback in self.models if fallback)


@dataclass(slots=True)
class Run:
    """A run with everything it needs; `go` does it."""

    ask: Ask
    table: Table
    release: ScoringRelease
    models: Models
    journal: Path
    portfolio: str
    stage: str
    observer: Callable[[Progress], None] = lambda progress: None
    on_effect: OnEffect = lambda effect, what: None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _counts: dict[str, int] = field(default_factory=lambda: {"rows": 0, "errors": 0, "parts": 0})
    _total: tuple[int, int] = (0, 0)

    def go(self, ledger: Ledger, before: Job | None) -> ScoreOutcome:
        """Score what is not done yet. Raises DataError, UsageError, ConflictError, StateUnavailableError."""
        began = time.perf_counter()
        ask = self.ask
        wanted = self.release.wanted(ask.endpoint)
        output.check_columns(ask.endpoint, self.table.name, self.table.schema, wanted)
        parts = self._parts()
        writer = self._writer(wanted)
        job = self._job(ledger, before, writer)
        done = ledger.done()
        known: set[int] = set()
        if before is not None and ask.journal != "none" and before.id == job.id:
            known = journalled(self.journal, job)
        left = [part for part in parts if part.number not in done]
        self._total = (self.table.rows, len(parts))
        self._counts = {"rows": sum(one.rows for one in done.values()), "parts": len(done),
                        "errors": sum(one.errors for one in done.values())}  # fmt: skip
        self._tell(0, 0, 0)
        scorer = RowScorer(self.release, self.models, ask.endpoint)
        writing = Writing(self.journal, self.portfolio, self.stage, job, str(ask.out.resolve()))

        def one(part: Partition) -> Done:
            facts = Facts(job, part.number, ask.endpoint, self.release.number) if ask.journal == "facts" else None
            made = writer.write(part, scorer, facts)
            if ask.journal != "none" and part.number not in known:
                with on_disk(self.journal):
                    writing.write(made, time.time_ns(), facts.frames if facts else ())
                self.on_effect(Effect.JOURNALLED, part.path)
            with self._lock:
                ledger.mark(made)
            self.on_effect(Effect.PART_MARKED, part.path)
            self._tell(0, 0, 1)
            return made

        for made in self._spread(one, left):
            done[made.number] = made
        return self._outcome(done, sum(done[part.number].rows for part in left), time.perf_counter() - began)

    def _spread(self, one: Callable[[Partition], Done], left: Sequence[Partition]) -> list[Done]:
        """All partitions, side by side; the first error ends the run, and what is done stays done."""
        if min(self.ask.workers, len(left)) <= 1:
            return [one(part) for part in left]
        with ThreadPoolExecutor(self.ask.workers, thread_name_prefix="score") as threads:
            futures: list[Future[Done]] = [threads.submit(one, part) for part in left]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if not all(f.done() for f in futures):  # one has failed, or Ctrl-C came
                    self._stop.set()
                    for future in futures:
                        future.cancel()
            wait(futures)
            failed = [f.exception() for f in futures if f.done() and not f.cancelled() and f.exception()]
            for error in failed:
                if error is not None and not isinstance(error, Stopped):
                    raise error
            return [future.result() for future in futures]

    # ------------------------------------------------------------------------------------------------ before it runs
    def _parts(self) -> list[Partition]:
        text = self.ask.partition
        if not text or (text.isdigit() and text not in self.table.schema.names):
            if text and int(text) < 1:
                raise UsageError("a partition has at least one row", hint="--partition COLUMN, or a number of rows.")
            return by_rows(self.table, int(text) if text else None)
        return by_column(self.table, text)

    def _writer(self, wanted: Wanted) -> PartWriter:
        ask, names = self.ask, self.table.schema.names
        extra = [output.ROW, *([output.ID] if ask.journal == "facts" else [])]
        chosen = ask.columns
        if chosen is None:
            by = [ask.partition] if ask.partition in names else []
            taken = {*output.FACTS, *extra, *(one.name for one in wanted.outputs)}
            chosen = tuple(name for name in dict.fromkeys([*ask.kept, *by, *wanted.keys]) if name not in taken)
        passed = output.passed_through(self.table.schema, chosen, wanted.outputs, extra)
        watch = Watch(self._stop, self._tell, self.on_effect)
        return PartWriter(self.table, ask.out, passed, wanted, self.release.number, watch)

    def _job(self, ledger: Ledger, before: Job | None, writer: PartWriter) -> Job:
        ask = self.ask
        asked = {
            "endpoint": ask.endpoint, "stage": self.stage, "release": self.release.number, "input": self.table.identity,
            "source": ask.source, "partition": ask.partition, "columns": list(writer.passed), "journal": ask.journal,
        }  # fmt: skip
        if before is not None and not ask.restart:
            changed = differences({**before.asked, "source": ""}, {**asked, "source": ""})
            if changed:
                raise ConflictError(
                    f"{ask.out} was begun with something else; changed: {', '.join(changed)}",
                    hint="--restart scores everything anew; --resume goes on with the release it was begun with; "
                    "or name another folder.",
                )
            return before
        job = Job(str(uuid.uuid4()), time.time_ns(), asked)
        ledger.begin(job)
        self.on_effect(Effect.JOB_WRITTEN, job.id)
        return job

    # ------------------------------------------------------------------------------------------------------ telling
    def _tell(self, rows: int, errors: int, parts: int) -> None:
        with self._lock:
            counts = self._counts
            counts["rows"] += rows
            counts["errors"] += errors
            counts["parts"] += parts
            total, of_parts = self._total
            self.observer(Progress(counts["rows"], total, counts["errors"], counts["parts"], of_parts))

    def _outcome(self, done: dict[int, Done], scored: int, seconds: float) -> ScoreOutcome:
        models: Counter[tuple[str, str, bool]] = Counter()
        texts: Counter[str] = Counter()
        for one in done.values():
            for model, version, rows, fallback in one.models:
                models[model, version, fallback] += rows
            for text, count in one.texts:
                texts[text] += count
        rows = sum(one.rows for one in done.values())
        return ScoreOutcome(
            self.ask.endpoint, self.release.number, str(self.ask.out), rows, sum(o.errors for o in done.values()),
            len(done), scored, seconds,
            tuple(sorted((m, v, rows, fallback) for (m, v, fallback), rows in models.items())),
            tuple(texts.most_common(10)),
        )  # fmt: skip
