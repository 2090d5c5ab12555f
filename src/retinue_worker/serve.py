"""The worker process: hosts the models of one environment behind one inherited Unix socket.

One frame in, one frame out, in order. `load` names a file, `run` carries one batch of columns, `unload` forgets.
A large batch lies in a span of shared memory that the header names; the answer goes into the same span if it fits.
An error of one model is that frame's answer and nothing else; the socket's end is the worker's end.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import sys
from typing import Any

from retinue_worker import frames, runtime, tensor
from retinue_worker.arena import SMALLEST, Window

OLDEST_PYTHON = (3, 9)


class Host:
    """The models of one worker process, by the id under which the gateway loaded them."""

    def __init__(self, memory: Window | None = None) -> None:
        self._models: dict[str, runtime.Model] = {}
        self._memory = memory

    def answer(self, header: dict[str, Any], body: bytes) -> bytes:
        """The answering frame, whatever the request was: errors are answers."""
        reply: dict[str, Any] = {"seq": header.get("seq")}
        outputs = b""
        try:
            outputs = self._do(header, body, reply)
        except runtime.ModelError as error:
            reply["error"] = str(error)
        except Exception as error:  # noqa: BLE001  whatever a model raises must not end its siblings
            reply["error"] = f"{type(error).__name__}: {error}"
        return frames.encode(reply, outputs)

    def _do(self, header: dict[str, Any], body: bytes, reply: dict[str, Any]) -> bytes:
        operation, name = header.get("op"), str(header.get("model"))
        if operation == "run":
            model = self._models.get(name)
            if model is None:
                reply["missing"] = True
                raise runtime.ModelError("the model is not loaded in this worker")
            return self._leave(header, model.run(self._columns(header, body)), reply)
        if operation == "load":
            if name not in self._models:
                self._models[name] = runtime.load(header["path"], header["format"], header["signature"])
            return b""
        if operation == "unload":
            model = self._models.pop(name, None)
            if model is not None:
                model.close()
            return b""
        if operation == "ping":
            return b""
        raise runtime.ModelError(f"unknown operation {operation!r}")

    def _columns(self, header: dict[str, Any], body: bytes) -> dict[str, Any]:
        """The batch, as arrays of the model's own: it may change and keep them."""
        if "at" not in header:
            return tensor.decode(body)
        assert self._memory is not None
        with self._memory.view(header["at"], header["size"]) as view:
            return tensor.decode(view)

    def _leave(self, header: dict[str, Any], outputs: dict[str, Any], reply: dict[str, Any]) -> bytes:
        """Put the outputs into the request's span, or return them for the frame."""
        parts, size = tensor.pack(outputs)
        room = header.get("room", 0)
        if not SMALLEST <= size <= room:
            if size >= SMALLEST:
                reply["large"] = size  # so that the next span has room for it
            return b"".join(parts)
        assert self._memory is not None
        with self._memory.view(header["at"], room) as view:
            at = 0
            for part in parts:
                view[at : at + len(part)] = part
                at += len(part)
        reply["size"] = size
        return b""


def main(arguments: list[str]) -> int:
    """Serve frames on the inherited socket until it ends; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m retinue_worker serve")
    parser.add_argument("--fd", type=int, required=True, help="number of the inherited Unix socket")
    parser.add_argument("--memory", type=int, help="number of the inherited file that is shared memory")
    options = parser.parse_args(arguments)
    if sys.version_info[:2] < OLDEST_PYTHON:
        sys.stderr.write("retinue_worker needs Python 3.9 or newer\n")
        return 1
    _end_with_parent()
    os.dup2(2, 1)  # a model that prints writes to the log
    host = Host(Window(options.memory) if options.memory is not None else None)
    with socket.socket(fileno=options.fd) as connection:
        while True:
            try:
                frame = frames.receive(connection)
            except (frames.FrameError, ConnectionError) as error:
                sys.stderr.write(f"retinue_worker: {error}\n")
                return 1
            if frame is None:
                return 0
            try:
                connection.sendall(host.answer(*frame))
            except ConnectionError:
                return 0


def _end_with_parent() -> None:
    """A gateway that is killed takes its workers along, even one that hangs; and out of memory hits workers first."""
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")
