"""Environments: locked, content-addressed sets of packages, one virtual environment per lock digest.

    lock ──► environments/<digest>/                 bin/python, `.ready` once everything is in
         └─► environments/<digest>.converters/     what only compilation needs, never seen by training code

uv resolves and installs. It does not read pip's configuration, so pip's indexes and wheel folders are handed on.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import uv

from retinue.core.errors import EnvironmentFailure
from retinue.core.identity import digest
from retinue.core.portfolio import EnvironmentSpec

IMPLIED = ("numpy", "pyarrow", "skops")
"""What `retinue_worker` needs inside every environment: visible lines of its lock."""

CONVERTERS = ("skl2onnx==1.20.*", "onnx<1.24", "protobuf<7")  # with protobuf 7 every HistGradientBoosting model fails
BOOSTER_CONVERTERS = ("onnxmltools==1.16.*",)
_CONVERTIBLE = {"scikit-learn", "xgboost", "xgboost-cpu", "lightgbm", "catboost"}
_HEADER = (
    "# Locked by Retinue from {name}; `retinue env lock` writes it anew.\n# wishes: {wishes}\n# python: {python}\n"
)
_STAMP = ".ready"
_SUFFIX = ".converters"


@dataclass(frozen=True, slots=True)
class Lock:
    """Exact packages with hashes. `digest` covers names, versions, hashes and `python` ("3.11"), nothing else."""

    text: str
    digest: str
    python: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """A materialised environment: its interpreter, the digest of its lock, its folder."""

    digest: str
    folder: Path
    python: Path


@dataclass(frozen=True, slots=True)
class Stored:
    """An environment on disk: `size` bytes as seen, `own` bytes not shared with uv's cache, `used` as a UNIX time."""

    digest: str
    size: int
    own: int
    used: float


def lock(spec: EnvironmentSpec, root: Path, *, refresh: bool = False, memory: Path | None = None) -> Lock:
    """The lock of an environment, resolved if its requirements changed since it was written beside them.

    An unchanged requirements file is never resolved again unless `refresh`, which takes the newest versions; an
    edited one keeps the pins it can. `memory` is a folder that remembers the lock of every requirements file seen:
    an edit that is taken back gets its old lock back. Raises EnvironmentFailure when packages are unknown or in
    conflict.
    """
    requirements = root / spec.requirements
    try:
        wishes = digest([*_wishes(requirements), *IMPLIED, spec.python])
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFailure(
            f"the requirements file {spec.requirements!r} of environment {spec.name!r} cannot be read: {error}",
            where=spec.where,
            hint=f"Create {spec.requirements}, one package a line.",
        ) from error
    path = requirements.with_suffix(".lock")
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if not refresh and _header(old, "wishes") == wishes:
        _remember(memory, wishes, old)
        return read_lock(old, path)
    remembered = memory / f"{wishes}.lock" if memory is not None else None
    if not refresh and remembered is not None and remembered.exists():
        text = remembered.read_text(encoding="utf-8")
        if _header(text, "wishes") == wishes:
            _replace(path, text)
            return read_lock(text, path)
    python = spec.python or f"{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = _interpreter(python)
    found = _version(interpreter)
    pins = _resolve(spec, requirements, interpreter, old if _header(old, "python") == found else "", refresh)
    text = _HEADER.format(name=requirements.name, wishes=wishes, python=found) + pins
    _replace(path, text)
    _remember(memory, wishes, text)
    return read_lock(text, path)


def _remember(memory: Path | None, wishes: str, text: str) -> None:
    if memory is not None and not (memory / f"{wishes}.lock").exists():
        memory.mkdir(parents=True, exist_ok=True)
        _replace(memory / f"{wishes}.lock", text)


def read_lock(text: str, path: Path | None = None) -> Lock:
    """A lock from its text, for example out of a bundle. Raises EnvironmentFailure when it is not one of ours."""
    python = _header(text, "python")
    if python is None:
        raise EnvironmentFailure("this is not a lock that Retinue wrote", where=str(path) if path else None)
    lines = text.replace("\\\n", " ").splitlines()
    pins = sorted(" ".join(sorted(line.split())) for line in lines if line.strip() and not line.startswith("#"))
    return Lock(text, digest({"python": python, "pins": pins}), python, path)


def packages(locked: Lock) -> dict[str, str]:
    """Package → version, as locked."""
    return dict(sorted(re.findall(r"^([A-Za-z0-9][\w.-]*)\s*==\s*([^\s;\\]+)", locked.text, re.MULTILINE)))


def materialise(locked: Lock, folder: Path) -> Environment:
    """The virtual environment of a lock below `folder`, installed if it is not there.

    Ready environments cost one look. Concurrent makers wait for each other; one that was killed leaves nothing
    that could be mistaken for ready. Raises EnvironmentFailure when the interpreter or a package is not to be had.
    """
    target = folder / locked.digest
    environment = Environment(locked.digest, target, target / "bin" / "python")

    def make(scratch: Path) -> None:
        _run(["venv", "--relocatable", "--python", str(_interpreter(locked.python)), str(scratch)])
        _install(locked.text, scratch, ["--python", str(scratch / "bin" / "python"), "--require-hashes"])

    if not environment.python.exists():  # the interpreter it was made from is gone
        (target / _STAMP).unlink(missing_ok=True)
    _make_once(target, make)
    return environment


def converters(locked: Lock, folder: Path) -> tuple[Path | None, str | None]:
    """(overlay folder with the converters to ONNX that the environment lacks, None), or (None, why there is none)."""
    names = _names(locked.text) & _CONVERTIBLE
    if not names:
        return None, "neither scikit-learn nor a booster is in the environment"
    tools = (*CONVERTERS, *(BOOSTER_CONVERTERS if names - {"scikit-learn", "catboost"} else ()))
    target = folder / f"{locked.digest}{_SUFFIX}"

    def make(scratch: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            wanted, constraint = Path(temporary, "converters.in"), Path(temporary, "environment.lock")
            wanted.write_text("\n".join(tools) + "\n")
            constraint.write_text(locked.text)
            python = ["--python", str(_interpreter(locked.python))]
            pins = _run([*_COMPILE, str(wanted), "-c", str(constraint), *python])
        extra = _without(pins, _names(locked.text))
        _install(extra, scratch, [*python, "--target", str(scratch)])

    try:
        _make_once(target, make)
    except EnvironmentFailure as error:
        return None, f"no converters fit this environment: {error.message}"
    return target, None


def list_environments(folder: Path) -> list[Stored]:
    """Every ready environment below `folder`, the most recently used first; converters are counted in."""
    stamps = [stamp for stamp in folder.glob(f"*/{_STAMP}") if not stamp.parent.name.endswith(_SUFFIX)]
    found = []
    for stamp in stamps:
        parts = [stamp.parent, stamp.parent.with_name(stamp.parent.name + _SUFFIX)]
        stats = [os.lstat(Path(base, name)) for part in parts for base, _, names in os.walk(part) for name in names]
        own = sum(stat.st_size for stat in stats if stat.st_nlink == 1)
        found.append(Stored(stamp.parent.name, sum(stat.st_size for stat in stats), own, stamp.stat().st_mtime))
    return sorted(found, key=lambda stored: stored.used, reverse=True)


def prune(folder: Path, keep: Collection[str], grace: float) -> list[str]:
    """Remove environments that are not in `keep` and unused for `grace` seconds; returns their digests."""
    oldest = time.time() - grace
    gone = [stored.digest for stored in list_environments(folder) if stored.digest not in keep and stored.used < oldest]
    for name in gone:
        for target in (folder / f"{name}{_SUFFIX}", folder / name):
            with _alone(target):
                (target / _STAMP).unlink(missing_ok=True)  # first, so that a half-removed one is not ready
                shutil.rmtree(target, ignore_errors=True)
    return gone


# ------------------------------------------------------------------------------------------------------ resolving
_COMPILE = ("pip", "compile", "-q", "--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url")


def _wishes(requirements: Path) -> list[str]:
    """What a requirements file asks for, comments and blank lines apart, included files followed."""
    lines: list[str] = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        plain = re.sub(r"(^|\s)#.*$", "", line).strip()
        included = re.match(r"(?:-r|-c|--requirement|--constraint)[ =]\s*(\S+)", plain)
        lines.extend([plain, *(_wishes(requirements.parent / included[1]) if included else [])] if plain else [])
    return lines


def _resolve(spec: EnvironmentSpec, requirements: Path, interpreter: Path, old: str, refresh: bool) -> str:
    """Pins with hashes. uv prefers the versions it finds in the output file, so the old lock is put there."""
    with tempfile.TemporaryDirectory() as temporary:
        implied, output = Path(temporary, "implied.in"), Path(temporary, "out.lock")
        implied.write_text("\n".join(IMPLIED) + "\n")
        output.write_text(old)
        arguments = [*_COMPILE, requirements.name, str(implied), "-o", str(output), "--python", str(interpreter)]
        try:
            _run([*arguments, *(["--upgrade"] if refresh else [])], cwd=requirements.parent)
        except EnvironmentFailure as error:
            raise EnvironmentFailure(
                f"environment {spec.name!r} ({spec.requirements}) does not resolve: {error.message}",
                where=spec.where,
                hint=f"Correct {spec.requirements}, then run `retinue env lock`.",
            ) from error
        pins = output.read_text(encoding="utf-8")
    local = re.search(r"^(?:-e\b|\S+ @ file:|\.{0,2}/).*$", pins, re.MULTILINE)
    if local:
        raise EnvironmentFailure(
            f"environment {spec.name!r} ({spec.requirements}) names a package by a path, which other machines lack: "
            f"{local[0].split()[0]}",
            where=spec.where,
            hint="Build a wheel, put it into a folder that UV_FIND_LINKS names, and require it by name and version.",
        )
    return pins


def _names(pins: str) -> set[str]:
    return {
        re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([A-Za-z0-9][\w.-]*)\s*(?:==|@)", pins, re.M)
    }


def _without(pins: str, names: Collection[str]) -> str:
    """Pins less the packages of these names (their hash lines go with them)."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", pins, flags=re.MULTILINE)
    return "".join(block for block in blocks if not _names(block) & set(names))


def _header(text: str, key: str) -> str | None:
    found = re.search(rf"^# {key}: (\S+)$", text, re.MULTILINE)
    return found[1] if found else None


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


# ----------------------------------------------------------------------------------------------------- installing
def _install(pins: str, scratch: Path, options: list[str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pins)
        file.flush()
        _run(["pip", "install", "-q", "--no-deps", "--compile-bytecode", "-r", file.name, *options], cwd=scratch)


def _make_once(target: Path, make: Callable[[Path], None]) -> None:
    """Have `target` made under another name, stamped and renamed, unless it is ready already."""
    stamp = target / _STAMP
    if not stamp.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if not stamp.exists():
                scratch = target.with_name(f".making-{target.name}")
                for leftover in (scratch, target):  # of a maker that was killed: we hold its lock now
                    shutil.rmtree(leftover, ignore_errors=True)
                scratch.mkdir()
                try:
                    make(scratch)
                    (scratch / _STAMP).touch()
                    scratch.rename(target)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.suppress(OSError):  # a read-only folder serves as well; only `used` stays older
        stamp.touch()


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the file lock of one target; the kernel frees it when its holder dies."""
    with open(target.with_name(f".{target.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _interpreter(python: str) -> Path:
    """An interpreter of that version: the running one if it fits, else one that uv finds. Downloads none."""
    if python in (f"{sys.version_info.major}.{sys.version_info.minor}", ".".join(map(str, sys.version_info[:3]))):
        return Path(sys.executable)
    try:
        found = _run(["python", "find", "--no-project", "--system", "--no-python-downloads", python])
    except EnvironmentFailure as error:
        raise EnvironmentFailure(
            f"there is no Python {python} on this machine",
            hint=f"Install Python {python}, or change `python:` of the environment.",
        ) from error
    return Path(found.strip())


@functools.cache
def _version(interpreter: Path) -> str:
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([interpreter, "-I", "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def _run(arguments: list[str], cwd: Path | None = None) -> str:
    """Run uv, return what it printed. Raises EnvironmentFailure with uv's own reason, shortened."""
    done = subprocess.run(
        [uv.find_uv_bin(), *arguments],
        cwd=cwd,
        env=_uv_environment(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        lines = [line for line in lines if not line.lower().startswith("warning:")] or [
            f"uv ended with {done.returncode}"
        ]
        reason = " ".join(re.sub(r"^(?:error:|cause:|×|╰─▶|│)\s*", "", line) for line in lines)
        reason = reason.removeprefix("No solution found when resolving dependencies ").lstrip(": ")
        raise EnvironmentFailure(reason if len(reason) <= 600 else reason[:599] + "…")
    return done.stdout


def _uv_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv: what is set for uv stays, what is set only for pip is handed on under uv's names."""
    result = {name: value for name, value in environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "RUST_LOG")}
    pip = {**_pip_configuration(environ), **{k: v for k, v in environ.items() if k.startswith("PIP_")}}
    for ours, theirs, others in (
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", ("UV_INDEX_URL",)),
        ("PIP_EXTRA_INDEX_URL", "UV_INDEX", ("UV_EXTRA_INDEX_URL",)),
        ("PIP_FIND_LINKS", "UV_FIND_LINKS", ()),
        ("PIP_NO_INDEX", "UV_NO_INDEX", ()),
        ("PIP_CERT", "SSL_CERT_FILE", ()),
    ):
        if pip.get(ours) and not any(name in environ for name in (theirs, *others)):
            separator = "," if theirs == "UV_FIND_LINKS" else " "
            result[theirs] = separator.join(pip[ours].split())
            if theirs == "UV_INDEX":  # pip takes the best of all its indexes; uv by default only the first that answers
                result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return {**result, "NO_COLOR": "1"}


def _pip_configuration(environ: Mapping[str, str]) -> dict[str, str]:
    """The [global] and [install] options of pip's configuration files, named as pip's variables are."""
    home = Path(environ.get("HOME", "/nonexistent"))
    own = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    named = environ.get("PIP_CONFIG_FILE")
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", own, Path(sys.prefix) / "pip.conf"]
    parser = configparser.RawConfigParser(strict=False)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        parser.read([] if named == os.devnull else [*files, *([named] if named else [])], encoding="utf-8")
    return {
        f"PIP_{key.replace('-', '_').upper()}": value
        for section in ("global", "install")
        if parser.has_section(section)
        for key, value in parser.items(section)
    }
