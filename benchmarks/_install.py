"""Environments of the peers: one each, made by uv from locked requirements, under a folder that git does not see."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".cache" / "peers"
OLD = {"pytriton": (3, 11, 2)}  # its binary is built for this interpreter and breaks under newer ones of 3.11


class PeerMissingError(Exception):
    """This peer cannot be had on this machine; the message says why."""


def python(peer: str, *, install: bool) -> Path:
    """The interpreter of a peer's environment. Raises PeerMissingError."""
    folder = ENVIRONMENTS / peer
    requirements = HERE / "_peers" / f"{peer}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = folder / "requirements.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return folder / "bin" / "python"
    if not install:
        raise PeerMissingError("not installed (a run without --quick installs it)")
    uv = _uv()
    _run([uv, "venv", "-q", "--clear", "--python", _interpreter(peer), str(folder)])
    target = ["--python", str(folder / "bin" / "python")]
    _run([uv, "pip", "sync", "-q", "--compile-bytecode", *target, "--require-hashes", str(requirements)])
    stamp.write_text(digest)
    return folder / "bin" / "python"


def lock() -> None:
    """Resolve the requirements of all peers anew: `python -m benchmarks._install`."""
    for source in sorted((HERE / "_peers").glob("*.in")):
        command = [_uv(), "pip", "compile", "-q", "--python-version", "3.11", "--generate-hashes", "--no-annotate"]
        said = ["--custom-compile-command", "python -m benchmarks._install"]
        _run([*command, *said, str(source), "-o", str(source.with_suffix(".txt"))])


def _interpreter(peer: str) -> str:
    limit = OLD.get(peer)
    if limit is None:
        return sys.executable
    for candidate in (sys.executable, shutil.which("python3.11", path="/usr/bin:/usr/local/bin") or ""):
        if not candidate:
            continue
        said = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:3])"], capture_output=True, text=True, check=False
        )
        found = tuple(map(int, said.stdout.split()))
        if found[:2] == limit[:2] and found <= limit:
            return candidate
    raise PeerMissingError(f"needs a Python {limit[0]}.{limit[1]} up to {'.'.join(map(str, limit))}")


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise PeerMissingError("there is no uv")
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise PeerMissingError(f"{' '.join(command[:3])}: {done.stdout.strip()[-500:]}")


if __name__ == "__main__":
    lock()
