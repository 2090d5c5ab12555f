"""Batch predictions in the journal: a summary for each partition, and where asked for a fact for each row."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retinue.control.query import query
from retinue.scoring.ledger import Done, Job
from retinue.scoring.rows import Scored
from retinue.store.journal import (
    BATCH,
    CLOSED,
    ENCODER,
    FORMAT,
    NODE,
    REQUEST,
    Batch,
    Header,
    Node,
    Request,
    Run,
    beginning,
    frame,
    segments_of,
)

ARM = "batch"


def batch_id(job: Job, number: int, chunk: int) -> str:
    """The id of one batch of rows: the same whenever the same run scores them again."""
    return str(uuid.uuid5(uuid.UUID(job.id), f"{number}/{chunk}"))


@dataclass(slots=True)
class Facts:
    """The facts of a partition's rows, gathered while it is scored."""

    job: Job
    number: int
    endpoint: str
    release: int
    frames: list[bytes] = field(default_factory=list)
    nodes: dict[tuple[str, str], int] = field(default_factory=dict)
    chunks: int = 0

    def add(self, found: Scored, arrived: int, seconds: float) -> str:
        """Note one batch; returns its id."""
        identity = batch_id(self.job, self.number, self.chunks)
        self.chunks += 1
        runs = tuple(
            Run(
                self._node(part.served.name, part.served.version),
                None if part.rows is None else part.rows.tolist(),
                None,
                None,
                0.0,
                seconds,
                part.fallback,
            )
            for part in found.parts
        )
        request = Request(identity, self.endpoint, self.release, None, None, 200, found.rows, arrived, seconds, 0.0,
                          found.errors or None, runs)  # fmt: skip
        self.frames.append(frame(REQUEST, ENCODER.encode(request)))
        return identity

    def _node(self, model: str, version: str) -> int:
        number = self.nodes.get((model, version))
        if number is None:
            number = self.nodes[model, version] = len(self.nodes) + 1
            self.frames.append(frame(NODE, ENCODER.encode(Node(number, model, version, ARM, (), ()))))
        return number


@dataclass(frozen=True, slots=True)
class Writing:
    """Where the journal of a stage is, and what every record of a run says."""

    folder: Path
    portfolio: str
    stage: str
    job: Job
    output: str

    def write(self, done: Done, ended: int, facts: Sequence[bytes]) -> None:
        """Put one closed segment with a partition's records into the journal, durably. Raises OSError."""
        asked = self.job.asked
        models = [tuple(entry) for entry in done.models]
        batch = Batch(
            self.job.id, done.number, asked["endpoint"], asked["release"], str(asked["source"]),
            f"{self.output}/{done.path}", ended, done.seconds, done.rows, done.errors, tuple(models),
        )  # fmt: skip
        header = Header(FORMAT, os.getpid(), ended, self.portfolio, self.stage)
        data = beginning(header) + b"".join(facts) + frame(BATCH, ENCODER.encode(batch))
        segments = segments_of(self.folder)
        segments.mkdir(parents=True, exist_ok=True)
        stem = f"{ended:020d}-{self.job.id}-{done.number}"
        new = segments / f".{stem}.score"
        try:
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.rename(segments / f"{stem}{CLOSED}")
        finally:
            new.unlink(missing_ok=True)


def journalled(folder: Path, job: Job) -> set[int]:
    """The partitions of a run that the journal has already: a kill may have come before they were marked."""
    if not folder.exists():
        return set()
    answer = query(folder, f"select distinct part from batches where run = '{uuid.UUID(job.id)}'")  # noqa: S608  a UUID
    return {int(row[0]) for row in answer.rows}
