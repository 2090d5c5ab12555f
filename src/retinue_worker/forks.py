"""One fork per request: what a trainer does with a child, and the messages on its pipes.

The child is forked before there is a request, so that none waits for it.
A child that has left its result waits for what is asked next about what it has in memory, until it is told to end; it
is killed then, and the next request need not wait until its memory was given back.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
from collections.abc import Callable
from typing import Any

_LENGTH = struct.Struct(">I")


class Line:
    """A child's end of the pipes to its trainer."""

    def __init__(self, told: int, say: int) -> None:
        self._told, self._say = told, say

    def first(self) -> dict[str, Any] | None:
        """The request that this child is for; None when the trainer goes without one."""
        return receive(self._told)

    def left(self) -> dict[str, Any] | None:
        """Say that a result was left, and wait for what is asked next; None when nothing is."""
        try:
            os.write(self._say, b"1")
            return receive(self._told)
        except OSError:  # the user's code closed what it did not open
            return None


def serve(act: Callable[[Line], None], requests: int, answers: int) -> bool:
    """Run `act` in a child for the next request and report what becomes of it, until the platform lets it go.

    {"started": pid}, then for each request {"left": true} or, once, {"ended": status}. After {"left"} the platform
    asks again or says {"op": "end"}, which has no answer. False when the platform is gone.
    """
    told, tell = os.pipe()
    heard, say = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            for descriptor in (requests, answers, tell, heard):
                os.close(descriptor)
            act(Line(told, say))
            status = 0
        finally:
            os._exit(status)
    with contextlib.suppress(OSError):  # whichever of the two comes first: it is ended by its group
        os.setpgid(child, child)
    os.close(told)
    os.close(say)
    watched = _watch(child)
    try:
        request = receive(requests)
        if request is None:
            _end_group(child)
            os.waitpid(child, 0)
            return False
        send(answers, {"started": child})
        with contextlib.suppress(OSError):
            send(tell, request)
        while not _turn(child, (requests, answers), (tell, heard), watched):
            pass
        return True
    finally:
        for descriptor in (tell, heard, *watched):
            os.close(descriptor)


def _turn(child: int, platform: tuple[int, int], line: tuple[int, int], watched: list[int]) -> bool:
    """Wait for a child at work, then for what the platform says to that; whether the child is gone."""
    (requests, answers), (tell, heard) = platform, line
    status = _work(child, requests, heard, watched)
    if status is not None:
        _end_group(child)
        send(answers, {"ended": status})
        return True
    send(answers, {"left": True})
    following = receive(requests)
    if following is None or following["op"] == "end":
        _end_group(child)
        os.waitpid(child, 0)
        if following is None:
            os._exit(1)
        return True
    with contextlib.suppress(OSError):  # it may be gone: the next look finds it
        send(tell, following)
    return False


def _work(child: int, requests: int, heard: int, watched: list[int]) -> int | None:
    """The status of a child that ended, None of one that left a result; ends with the platform."""
    listening = [heard]
    while True:
        readable, _, _ = select.select([requests, *listening, *watched], [], [], None if watched else 0.005)
        if heard in readable:
            if os.read(heard, 1):
                return None
            listening = []  # closed, and yet it may go on
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if requests in readable:  # nothing is sent while a child works: this is the end of the platform
            _end_group(child)
            os._exit(1)


def _watch(child: int) -> list[int]:
    """A descriptor that becomes readable when the child ends; none where the kernel or Python is too old."""
    try:
        return [os.pidfd_open(child)]
    except (AttributeError, OSError):
        return []


def _end_group(child: int) -> None:
    """Kill a child with all that it started."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def send(descriptor: int, message: dict[str, Any]) -> None:
    """Write one message, whole. Raises OSError when the other side is gone."""
    data = json.dumps(message).encode()
    data = _LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int) -> dict[str, Any] | None:
    """The next message, None when the other side is gone."""
    header = _exactly(descriptor, _LENGTH.size)
    body = _exactly(descriptor, _LENGTH.unpack(header)[0]) if header else None
    return json.loads(body) if body else None


def _exactly(descriptor: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return data
