"""The user's own pytest files as gates: one result per test, run in a process of their own against the served model."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from retinue.build.contract import Columns, Predict
from retinue.core.errors import EnvironmentFailure
from retinue.core.gate_specs import TestFile
from retinue.core.gates import GateResult, failed, passed

ADDRESS, KEY = "RETINUE_GATE_SOCKET", "RETINUE_GATE_KEY"  # as in the plug-in, which imports pytest
LONGEST = 600  # characters of a message that are kept


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the tests may ask: facts for the fixtures, and the models by name ("model", "champion")."""

    facts: Mapping[str, Any]
    predict: Mapping[str, Predict]


def run_user_tests(
    tests: tuple[TestFile, ...],
    contents: Callable[[str], bytes],
    judged: Judged,
    *,
    project: Path,
    folder: Path,
    seconds: float,
) -> list[GateResult]:
    """Run the files against the model and return one result per test; `contents` gives a file's bytes by digest.

    Raises EnvironmentFailure when pytest is not installed beside Retinue.
    """
    if find_spec("pytest") is None:
        raise EnvironmentFailure(
            "gates.pytest: pytest is not installed beside Retinue", hint="Install it: pip install 'retinue[test]'."
        )
    place = folder / "tests"
    for test in tests:
        path = place / test.path.replace("..", "_")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents(test.digest))
    report, key = folder / "report.xml", secrets.token_bytes(32)
    address = str(folder / "gate.sock") if len(str(folder)) < 90 else f"\0retinue-{secrets.token_hex(8)}"
    with Listener(address, "AF_UNIX", authkey=key) as listener:
        serving = threading.Thread(target=_serve, args=(listener, judged), daemon=True)
        serving.start()
        said = _run(tests, place, project, report, {ADDRESS: address.replace("\0", "@"), KEY: key.hex()}, seconds)
        serving.join(1)
        if serving.is_alive():  # nobody came: end its wait
            with contextlib.suppress(OSError):
                _wake(address, key)
            serving.join(5)
    return _results(tests, report, said)


def _run(
    tests: tuple[TestFile, ...], place: Path, project: Path, report: Path, told: Mapping[str, str], seconds: float
) -> str:
    """Run pytest; returns why there is no whole report, or nothing."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "retinue.build.pytest_plugin"]
    command += [
        "-c",
        os.devnull,
        f"--rootdir={place}",
        "--import-mode=importlib",
        "--continue-on-collection-errors",
        f"--junitxml={report}",
    ]
    command += [test.path.replace("..", "_") for test in tests]
    environment = {
        **os.environ,
        **told,
        "PYTHONPATH": str(project),
        "PYTEST_ADDOPTS": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with open(place.parent / "pytest.log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:g} s (`limits: time`)"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode not in (0, 1, 2, 5):
        tail = (place.parent / "pytest.log").read_text(errors="replace").strip()[-LONGEST:]
        return f"the test process ended with {process.returncode}: {tail}"
    return ""


def _results(tests: tuple[TestFile, ...], report: Path, said: str) -> list[GateResult]:
    found: list[GateResult] = []
    if report.exists():
        for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 — written by our own pytest
            found.append(_result(tests, case))
    if said:
        found.append(failed("pytest", said))
    if not found:
        found.append(failed("pytest", f"{', '.join(t.path for t in tests)}: no test was found"))
    return found


def _result(tests: tuple[TestFile, ...], case: ElementTree.Element) -> GateResult:
    module, name = case.get("classname", ""), case.get("name", "")
    file = next((t.path for t in tests if _dotted(t.path) in (module or name, name)), module or name)
    gate = f"pytest.{file}" + (f"::{name}" if module else "")
    for kind in ("failure", "error"):
        body = case.find(kind)
        if body is not None:
            first = (body.get("message") or "").strip()
            text = _last_line(body.text or "") if kind == "error" else first.splitlines()[0] if first else kind
            place = _place(body.text or "", file)
            return failed(gate, f"{place}{text}"[:LONGEST])
    skipped = case.find("skipped")
    return passed(gate, f"skipped: {skipped.get('message')}" if skipped is not None else "")


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").replace("..", "_")


def _last_line(text: str) -> str:
    lines = [line.removeprefix("E").strip() for line in text.splitlines() if line.startswith("E ")]
    return lines[-1] if lines else (text.strip().splitlines() or ["error"])[-1]


def _place(text: str, file: str) -> str:
    """`file:line: ` of the last line of a traceback within the test file, if there is one."""
    for line in reversed(text.splitlines()):
        head, _, rest = line.strip().partition(":")
        number = rest.partition(":")[0]
        if head and file.endswith(head.lstrip("./")) and number.isdigit():
            return f"{file}:{number}: "
    return ""


def _serve(listener: Listener, judged: Judged) -> None:
    """Answer one test process until it hangs up."""
    try:
        connection: Connection = listener.accept()
    except Exception:  # noqa: BLE001 — a stranger without the key, or nobody: the tests say what they miss
        return
    with connection, contextlib.suppress(EOFError, OSError):
        while True:
            question = connection.recv()
            connection.send(_answer(question, judged))


def _answer(question: tuple[Any, ...], judged: Judged) -> tuple[bool, Any]:
    try:
        if question[0] == "facts":
            return True, judged.facts
        answer: Columns = judged.predict[question[1]](question[2])
        return True, dict(answer)
    except Exception as error:  # noqa: BLE001 — the model's own error belongs to the test that asked
        return False, f"the model raised: {error}"


def _wake(address: str, key: bytes) -> None:
    """Connect once, so that a server nobody asked ends its wait."""
    from multiprocessing.connection import Client

    Client(address, authkey=key).close()
