"""What a server logged is there when its terminal is gone."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from tests.e2e.serve.conftest import until

from retinue.core.errors import StateError
from retinue.processes.log_files import last_lines

pytestmark = pytest.mark.e2e


def test_gateways_and_the_controller_are_heard_after_the_server_has_gone(stage: Any) -> None:
    stage.publish(1, [stage.model("m", "v1")], {})
    running = stage.start()
    (pid,) = (gateway["pid"] for gateway in running.status()["gateways"])

    def controllers() -> list[int]:
        children = f"/proc/{running.process.pid}/task/{running.process.pid}/children"
        with open(children, encoding="ascii") as file:
            return [int(child) for child in file.read().split() if int(child) != pid]

    until(controllers, 10, "the controller")
    os.kill(controllers()[0], signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)

    def events(process: str) -> list[str]:
        try:
            return [line.event for line in last_lines(stage.settings, process, 100)]
        except StateError:
            return []

    until(lambda: "gateway.died" in events("gateway"), 10, "the death in the log")
    until(lambda: events("controller"), 10, "the controller's end in the log")
    until(lambda: any(g["serving"] for g in running.status()["gateways"]), 15, "its successor")
    assert running.stop() == 0
    assert {"server.started", "release.changed", "server.stopping"} <= set(events("gateway"))
    assert "ended with -9" in last_lines(stage.settings, "controller", 1)[0].text
