"""The worker process: hosts the models of one environment behind one inherited Unix socket.

One frame in, one frame out, in order. `load` names a file, `run` carries one batch of columns, `unload` forgets.
An error of one model is that frame's answer and nothing else; the socket's end is the worker's end.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import Any

from retinue_worker import frames, runtime, tensor

OLDEST_PYTHON = (3, 9)


class Host:
    """The models of one worker process, by the id under which the gateway loaded them."""

    def __init__(self) -> None:
        self._models: dict[str, runtime.Model] = {}

    def answer(self, header: dict[str, Any], body: bytes) -> bytes:
        """The answering frame, whatever the request was: errors are answers."""
        reply: dict[str, Any] = {"seq": header.get("seq")}
        outputs = b""
        try:
            outputs = self._do(header, body)
        except runtime.ModelError as error:
            reply["error"] = str(error)
        except Exception as error:  # noqa: BLE001  whatever a model raises must not end its siblings
            reply["error"] = f"{type(error).__name__}: {error}"
        return frames.encode(reply, outputs)

    def _do(self, header: dict[str, Any], body: bytes) -> bytes:
        operation, name = header.get("op"), str(header.get("model"))
        if operation == "run":
            model = self._models.get(name)
            if model is None:
                raise runtime.ModelError("the model is not loaded in this worker")
            return tensor.encode(model.run(tensor.decode(body)))
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


def main(arguments: list[str]) -> int:
    """Serve frames on the inherited socket until it ends; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m retinue_worker serve")
    parser.add_argument("--fd", type=int, required=True, help="number of the inherited Unix socket")
    options = parser.parse_args(arguments)
    if sys.version_info[:2] < OLDEST_PYTHON:
        sys.stderr.write("retinue_worker needs Python 3.9 or newer\n")
        return 1
    os.dup2(2, 1)  # a model that prints writes to the log
    host = Host()
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
