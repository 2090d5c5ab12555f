"""Wrong requests of all kinds, in short; `benchmarks/fuzz.py` is the long form. And what the OpenAPI page promises."""

from __future__ import annotations

import fcntl
import hashlib
import random
import subprocess
import tempfile
from itertools import islice
from pathlib import Path

import pytest
from benchmarks._mutants import KINDS, mutants
from benchmarks.fuzz import answers, fuzz, serving
from uv import find_uv_bin

LOCK = Path(__file__).parent / "requirements" / "schemathesis.txt"


def test_the_same_seed_makes_the_same_mutants() -> None:
    first, second = ([m.parts for m in islice(mutants(random.Random(5), KINDS), 200)] for _ in range(2))
    assert first == second


def test_answers_are_read_strictly() -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert answers(whole + b"HTTP/1.1 100 Continue\r\n\r\n" + whole) == [200, 200]
    for wrong in (whole[:-1], whole + b"x", whole.replace(b"content-length", b"content-size"), b"hello"):
        with pytest.raises(ValueError, match="answer"):
            answers(wrong)


@pytest.mark.e2e
def test_wrong_requests_of_all_kinds_are_refused_and_harm_nobody() -> None:
    assert fuzz(2_000, seed=11, kinds=list(KINDS)) == []


@pytest.mark.e2e
def test_the_openapi_page_is_kept_to_by_right_and_wrong_requests_alike(tmp_path: Path) -> None:
    with serving(tmp_path) as (record, _):
        page = f"{record.url}/openapi.json"
        checks = ["--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", "40", "--seed", "1"]
        command = [str(_environment() / "bin" / "schemathesis"), "run", page, "--mode", "all", *checks]
        done = subprocess.run(
            [*command, "--no-color", "--generation-database", "none"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def _environment() -> Path:
    """schemathesis in an environment of its own, kept between runs."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    root = Path(tempfile.gettempdir()) / f"retinue-test-schemathesis-{digest}"
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "ready").exists():
            subprocess.run([find_uv_bin(), "venv", "-q", "--clear", "--python", "3.11", str(root)], check=True)
            python = str(root / "bin" / "python")
            install = [find_uv_bin(), "pip", "sync", "-q", "--python", python, "--require-hashes", str(LOCK)]
            subprocess.run(install, check=True, timeout=200)
            (root / "ready").touch()
    return root
