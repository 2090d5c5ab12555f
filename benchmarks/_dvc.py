"""The same question to DVC: a pipeline of as many stages as there are models, nothing changed, `dvc status`.

Each stage depends on the training code and one data file and makes one model file; all of it is locked and cached, as
after a `dvc repro`. DVC 3 has no server and keeps its record in files, as Retinue does on one machine.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from benchmarks._install import PeerMissingError, python

UP_TO_DATE = "Data and pipelines are up to date."


def make(folder: Path, stages: int, *, install: bool) -> list[str]:
    """A pipeline of so many stages in `folder`; returns the command that asks what changed. Raises PeerMissingError."""
    dvc = str(python("dvc", install=install).with_name("dvc"))
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "models").mkdir(parents=True)
        for command in (["git", "init", "-q"], [dvc, "init", "-q"], [dvc, "config", "core.analytics", "false"]):
            subprocess.run(command, cwd=folder, check=True)
        _fill(folder, [f"m{n:05}" for n in range(stages)])
        (folder / "made").touch()
    command = [dvc, "--cd", str(folder), "status"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if UP_TO_DATE not in said.stdout:
        raise PeerMissingError(f"dvc status says {said.stdout[-200:]!r} {said.stderr[-200:]!r}")
    return command


def _fill(folder: Path, names: list[str]) -> None:
    (folder / "train.py").write_text("import sys\n")
    (folder / "sales.csv").write_text("price,units\n1,2\n")
    wanted = "".join(f"      - {name}\n" for name in names)
    (folder / "dvc.yaml").write_text(
        f"stages:\n  train:\n    foreach:\n{wanted}    do:\n      cmd: python train.py ${{item}}\n"
        "      deps: [sales.csv, train.py]\n      outs: ['models/${item}.bin']\n"
    )
    deps = "".join(_entry(folder / name, name) for name in ("sales.csv", "train.py"))
    locked = ["schema: '2.0'\nstages:\n"]
    for name in names:
        file = folder / "models" / f"{name}.bin"
        file.write_text(name)
        kept = folder / ".dvc" / "cache" / "files" / "md5" / _md5(file)[:2] / _md5(file)[2:]
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)
        kept.chmod(0o444)
        own = _entry(file, f"models/{name}.bin")
        locked.append(f"  train@{name}:\n    cmd: python train.py {name}\n    deps:\n{deps}    outs:\n{own}")
    (folder / "dvc.lock").write_text("".join(locked))


def _entry(file: Path, name: str) -> str:
    return f"    - path: {name}\n      hash: md5\n      md5: {_md5(file)}\n      size: {file.stat().st_size}\n"


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
