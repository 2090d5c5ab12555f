"""A gateway that kills itself with SIGKILL at a numbered point of the answer path: `RETINUE_TEST_KILL=POINT:N:NOTE`.

Right after the N-th time that any gateway of this supervisor has come to the point; NOTE is a file, and only the
gateway that makes it dies, so that its successor lives.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from retinue.gateway import main
from retinue.gateway.batcher import Batcher
from retinue.gateway.http import HttpServer
from retinue.gateway.recorder import Recorder


class Point(IntEnum):
    """What has just happened to a request, in the order in which it happens."""

    QUEUED = 1  # admitted; it waits for its batch
    RAN = 2  # its batch has run; its answer is not made
    RECORDED = 3  # its answer is made and recorded in memory
    WRITTEN = 4  # the journal has it; the answer has not left
    SENT = 5  # the answer has left


PLACES: dict[Point, tuple[tuple[type[Any], str], ...]] = {
    Point.QUEUED: ((Batcher, "add"),),
    Point.RAN: ((Batcher, "_ran"),),
    Point.RECORDED: ((Recorder, "answered"), (Recorder, "single")),
    Point.WRITTEN: ((Recorder, "flush"),),
    Point.SENT: ((HttpServer, "_flush"),),
}
BEFORE = frozenset({Point.RAN})  # what follows it is within the same call


def arm(point: Point, last: int, note: str) -> None:
    """Let this process die at the point."""
    seen = 0

    def wrapped(inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            if point in BEFORE:
                seen += 1
                die_at_last()
            result = inner(*arguments, **named)
            if point not in BEFORE:
                seen += 1
                die_at_last()
            return result

        return outer

    def die_at_last() -> None:
        if seen == last:
            try:
                os.close(os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    for owner, name in PLACES[point]:
        setattr(owner, name, wrapped(getattr(owner, name)))


if __name__ == "__main__":
    wish, count, path = os.environ["RETINUE_TEST_KILL"].split(":", 2)
    if not os.path.exists(path):
        arm(Point(int(wish)), int(count), path)
    sys.exit(main.main(sys.argv[1:]))
