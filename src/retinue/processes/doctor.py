"""Checks of one host: each finding is ok, a warning or a failure with its next step. Changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import uv

from retinue import compose
from retinue.build.environment import list_environments
from retinue.control.events import utc_now
from retinue.control.leases import is_gone
from retinue.core.errors import RetinueError
from retinue.gateway.memory import machine
from retinue.gateway.record import read_record
from retinue.loader import load
from retinue.settings import Settings, load_settings
from retinue.store.journal import list_segments
from retinue.store.journal_days import state as journal_state
from retinue.store.releasefile import ReleaseFile, pointer

_SPACE = 1024**3  # bytes: below it a build or a journal soon finds the disk full
_MEMORY = 512 * 1024**2


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `next` is what to do, empty when all is well."""

    level: Literal["ok", "warn", "fail"]
    check: str
    text: str
    next: str = ""


def examine(root: Path, file: Path, *, deep: bool = False) -> list[Finding]:
    """All checks of the portfolio in folder `root`; with `deep` every artifact is read."""
    found = [*_guarded("installation", _installation)]
    try:
        settings = load_settings(root.resolve())
    except RetinueError as error:
        return [*found, Finding("fail", "settings", str(error), error.hint)]
    found.append(Finding("ok", "settings", f"state in {settings.directory}"))
    found += _guarded("machine", lambda: _machine(settings))
    found += _guarded("portfolio", lambda: _portfolio(file))
    try:
        state = compose.open_state(settings)
    except RetinueError as error:
        found.append(Finding("fail", "database", str(error), error.hint))
    else:
        with closing(state):
            found += _guarded("database", lambda: _database(state))
            found += _guarded("artifacts", lambda: _artifacts(state, deep))
            found += _guarded("releases", lambda: _releases(state))
            found += _guarded("environments", lambda: _environments(state))
            found += _guarded("leases", lambda: _leases(state))
    found += _guarded("journal", lambda: _journal(settings))
    found += _guarded("ports", lambda: _ports(settings))
    return found


def _guarded(check: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; one that cannot look says why."""
    found = []
    try:
        for finding in look():
            found.append(finding)
    except RetinueError as error:
        found.append(Finding("fail", check, str(error), error.hint))
    except OSError as error:
        found.append(
            Finding("fail", check, f"cannot be looked at: {error}", "Correct rights or path, then look again.")
        )
    return found


def _installation() -> Iterator[Finding]:
    yield Finding("ok", "python", f"{sys.version.split()[0]} at {sys.executable}")
    done = subprocess.run([uv.find_uv_bin(), "--version"], capture_output=True, text=True, check=False)
    if done.returncode:
        yield Finding("fail", "uv", f"does not run: {done.stderr.strip()[:200]}", "Reinstall it: `pip install uv`.")
    else:
        yield Finding("ok", "uv", done.stdout.strip())


def _machine(settings: Settings) -> Iterator[Finding]:
    place = next(p for p in (settings.directory, *settings.directory.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < _SPACE:
        yield Finding("warn", "disk", f"{free / 1e9:.1f} GB free at {place}", "Free space: `retinue gc`.")
    else:
        yield Finding("ok", "disk", f"{free / 1e9:.1f} GB free")
    memory = machine()
    level: Literal["ok", "warn"] = "ok" if memory >= _MEMORY else "warn"
    yield Finding(level, "memory", f"{memory / 1e9:.1f} GB available", "" if level == "ok" else "Stop something else.")
    if time.time() < 1_700_000_000:  # no Retinue is as old as that
        yield Finding("fail", "clock", f"says {utc_now()}", "Set the clock: leases and releases carry its time.")
    else:
        yield Finding("ok", "clock", utc_now())


def _portfolio(file: Path) -> Iterator[Finding]:
    path = file / "portfolio.yaml" if file.is_dir() else file
    if not path.is_file():
        yield Finding("warn", "portfolio", f"there is no {path}", "Name one with `retinue --file`.")
        return
    portfolio = load(path)
    declared = len(portfolio.models)
    yield Finding("ok", "portfolio", f"{portfolio.name}: {declared} declaration{'s' if declared != 1 else ''}")


def _database(state: compose.State) -> Iterator[Finding]:
    found = compose.database_schema(state.settings)
    dump = compose.open_dump(state.registry)
    count = sum(1 for _ in dump.lines())  # every row is read
    yield Finding("ok", "database", f"{found['database']}, schema {found['schema']}, {count:,} rows readable")


def _artifacts(state: compose.State, deep: bool) -> Iterator[Finding]:
    missing = damaged = count = 0
    for digest in sorted(_live_artifacts(state)):
        count += 1
        if not state.artifacts.has(digest):
            missing += 1
        elif deep:
            try:
                state.artifacts.get(digest)
            except RetinueError:
                damaged += 1
    if missing or damaged:
        hint = "Restore a backup, or `retinue rebuild MODEL --reason TEXT`."
        yield Finding("fail", "artifacts", f"of {count} live ones {missing} are gone, {damaged} damaged", hint)
    else:
        yield Finding(
            "ok", "artifacts", f"{count} live {'one' if count == 1 else 'ones'} {'verified' if deep else 'there'}"
        )


def _live_artifacts(state: compose.State) -> set[str]:
    found = set()
    for portfolio, stages in compose.open_dump(state.registry).portfolios().items():
        for stage in stages:
            release = state.registry.current(portfolio, stage)
            ids = {entry.version for entry in release.models.values()} if release else set()
            found |= {v.manifest["artifact"]["digest"] for v in state.registry.versions(ids).values()}
    return found


def _releases(state: compose.State) -> Iterator[Finding]:
    folders = sorted(state.settings.directory.glob("releases/*/*/"))
    for folder in folders:
        portfolio, stage = folder.parts[-2:]
        there, release = pointer(folder), state.registry.current(portfolio, stage)
        if there is None:
            continue
        with ReleaseFile(folder / f"{there.number}.release"):
            pass
        name = f"{portfolio}/{stage}"
        if release is None:
            hint = "The database was lost or is another one: `retinue restore FILE`, or correct [state] database."
            yield Finding("fail", "releases", f"{name} serves release {there.number}, which is not recorded", hint)
        elif release.number != there.number:
            text = f"{name} serves release {there.number}, recorded is {release.number}"
            yield Finding("warn", "releases", text, "Run `retinue apply`: it publishes what is recorded.")
        else:
            yield Finding("ok", "releases", f"{name} at release {there.number}")
    if not folders:
        yield Finding("ok", "releases", "none yet")


def _environments(state: compose.State) -> Iterator[Finding]:
    stored = list_environments(state.settings.environments)
    broken = [s.digest[:12] for s in stored if not (state.settings.environments / s.digest / "bin" / "python").exists()]
    if broken:
        hint = "Run `retinue apply`: they are installed anew when they are needed."
        yield Finding("warn", "environments", f"without their interpreter: {', '.join(broken)}", hint)
    else:
        yield Finding("ok", "environments", f"{len(stored)} on disk")


def _leases(state: compose.State) -> Iterator[Finding]:
    held = 0
    for portfolio, stages in compose.open_dump(state.registry).portfolios().items():
        for stage in stages:
            for lease in state.registry.leases(portfolio, stage, utc_now()):
                held += 1
                if is_gone(lease.holder):
                    text = f"{lease.holder} is gone and holds {portfolio}/{stage}"
                    yield Finding("warn", "leases", text, "The next `retinue apply` ends it.")
    if not held:
        yield Finding("ok", "leases", "none held")


def _journal(settings: Settings) -> Iterator[Finding]:
    folders = [f for f in sorted(settings.journals.glob("*/*/")) if f.is_dir()]
    for folder in folders:
        journal_state(folder, time.time_ns())
        damaged = list(folder.rglob("*.damaged"))
        name = "/".join(folder.parts[-2:])
        if damaged:
            text = f"{name}: {len(damaged)} segments could be read in part only"
            yield Finding(
                "warn", "journal", text, "What could be read was kept; delete them when nobody asks for them."
            )
        else:
            yield Finding("ok", "journal", f"{name}: {len(list_segments(folder, closed=True))} segments to compact")
    if not folders:
        yield Finding("ok", "journal", "empty")


def _ports(settings: Settings) -> Iterator[Finding]:
    served = [read_record(folder) for folder in settings.directory.glob("releases/*/*/")]
    ours = {port for record in served if record is not None for port in (record.port, record.admin_port)}
    for name, host, port in (("port", settings.host, settings.port), ("admin_port", "127.0.0.1", settings.admin_port)):
        if not port or port in ours:
            yield Finding("ok", "ports", f"{name} {port}: {'a server of ours' if port else 'chosen when serving'}")
            continue
        try:
            with socket.create_server((host, port)):
                yield Finding("ok", "ports", f"{name} {port} is free")
        except OSError as error:
            hint = f"Stop what uses it, or set [serve] {name} (RETINUE_{name.upper()})."
            text = f"{name} {host}:{port}: {error.strerror or os.strerror(error.errno or 0)}"
            yield Finding("warn", "ports", text, hint)
