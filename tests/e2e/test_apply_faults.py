"""Kill -9 after every numbered durable effect of an apply: the next one reaches the very same state."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.e2e.killed_apply import started
from tests.routes.harbour import ENVIRONMENTS, PORTFOLIO, Harbour, write

from retinue.control.effects import Effect
from retinue.control.events import utc_now
from retinue.control.leases import LEASE_SECONDS, later, name_holder
from retinue.core.errors import LeaseHeldError
from retinue.store.releasefile import ReleaseFile, current

pytestmark = pytest.mark.e2e

_ALL = PORTFOLIO[PORTFOLIO.index("  late-all:\n") : PORTFOLIO.index("endpoints:")]
SMALL = (
    PORTFOLIO.replace(_ALL, "")
    .replace("    fallback: {model: late-all, when: [unknown, unavailable]}\n", "")
    .replace("min_rows: 150", "min_rows: 390")
)
"""One upstream, one member: as few models as have every effect."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Harbour:
    """The small portfolio, nothing applied."""
    harbour = write(tmp_path_factory.mktemp("faults") / "fresh", SMALL)
    (harbour.root / "retinue.toml").write_text("[build]\nworkers = 1\n")
    (harbour.root / ".retinue").mkdir()
    os.symlink(ENVIRONMENTS, harbour.root / ".retinue" / "environments")
    harbour.plan()  # fingerprints are cached, as they would be
    return harbour


@pytest.fixture(scope="module")
def applied(fresh: Harbour) -> Harbour:
    """The small portfolio after its first apply."""
    harbour = copied(fresh, "applied")
    harbour.apply()
    return harbour


def copied(harbour: Harbour, name: str) -> Harbour:
    target = harbour.root.with_name(name)
    shutil.copytree(harbour.root, target, symlinks=True)
    return Harbour(target)


def update(harbour: Harbour) -> None:
    """An upstream change, one member's change, and settings: every kind of effect at once."""
    harbour.edit("alpha: 1.0", "alpha: 2.0")
    harbour.edit("params: {C: 1.0}", "params: {C: 0.5}")
    harbour.edit("owner: ada@", "owner: grace@")


def settings_of(harbour: Harbour) -> object:
    revision = harbour.do(lambda p: p.registry.settings("harbour"))
    return (revision.revision, revision.body)


def kill_after(harbour: Harbour, number: int) -> Path:
    """Apply in a process that dies after its n-th effect."""
    note = harbour.root.with_suffix(".json")
    script = Path(__file__).with_name("killed_apply.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(harbour.root), str(number), str(note)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return note


def all_gone(note: Path) -> bool:
    """Whether what the killed process had started is gone; waits for it, because a trainer ends by itself."""
    below = json.loads(note.read_text())["below"]
    for _ in range(600):
        if all(started(pid) != moment for pid, moment in below):
            return True
        time.sleep(0.05)
    return False


def whole(harbour: Harbour) -> None:
    """Nothing is half-registered: all that is recorded has what it refers to, and gateways have a release to serve."""
    project = harbour.project()
    try:
        for model in ("delay", "late-north"):
            for version in project.registry.versions_of_model("harbour", model):
                assert project.registry.definitions([version.definition])
                assert project.registry.snapshots([version.snapshot])
                for part in ("artifact", "native"):
                    project.artifacts.get(version.manifest[part]["digest"])
        folder, number = project.releases, current(project.releases)
    finally:
        project.close()
    if number is not None:
        with ReleaseFile(folder / f"{number}.release") as file:
            assert file.number in (harbour.number(), (harbour.number() or 0) - 1)


def survive(
    start: Harbour, name: str, change: Callable[[Harbour], None], after: Collection[str] = Effect.__members__
) -> list[str]:
    """Kill after each effect of the apply that follows `change`, apply again, compare. Returns the effects."""
    undisturbed = copied(start, f"{name}-undisturbed")
    change(undisturbed)
    old = undisturbed.live()
    effects: list[str] = []
    undisturbed.do(lambda p: p.apply(on_effect=lambda effect, what: effects.append(effect.name)))
    new = undisturbed.live()
    settings = settings_of(undisturbed)

    def killed(number: int) -> tuple[int, Harbour, Path]:
        harbour = copied(start, f"{name}-{number}")
        change(harbour)
        return number, harbour, kill_after(harbour, number)

    with ThreadPoolExecutor(2) as pool:
        numbers = [n for n, effect in enumerate(effects, 1) if effect in after]
        for number, harbour, note in pool.map(killed, numbers):
            at = f"killed after effect {number}, {effects[number - 1]}"
            assert json.loads(note.read_text())["effects"] == effects[:number], at
            assert all_gone(note), at
            live = harbour.live()
            assert live in (old, new), at
            whole(harbour)
            harbour.apply()  # at once: the dead process's lease has not expired
            assert harbour.live() == new, at
            assert harbour.number() == undisturbed.number(), at
            assert settings_of(harbour) == settings, at
            assert harbour.do(lambda p: p.registry.applies("harbour", "prod", "running")) == [], at
            assert harbour.do(lambda p: p.registry.leases("harbour", "prod", utc_now())) == [], at
            assert harbour.do(lambda p: current(p.releases)) == harbour.number(), at
            assert harbour.plan().empty, at
            whole(harbour)
            shutil.rmtree(harbour.root)
    return effects


def test_the_first_apply_survives_a_kill_after_each_effect(fresh: Harbour) -> None:
    effects = survive(fresh, "first", lambda harbour: None)
    assert set(effects) == {e.name for e in Effect} - {"HOLDS_RECORDED"}
    assert effects.count("VERSION_REGISTERED") == 2


def test_an_update_survives_a_kill_after_each_effect(applied: Harbour) -> None:
    effects = survive(applied, "update", update)
    assert set(effects) == {e.name for e in Effect} - {"HOLDS_RECORDED"}


def test_a_failed_gate_survives_a_kill_around_its_hold(applied: Harbour) -> None:
    def fail(harbour: Harbour) -> None:
        harbour.edit("params: {C: 1.0}", "params: {C: 0.5}")
        harbour.edit("roc_auc: {min: 0.55}", "accuracy: {min: 0.9999}\n      roc_auc: {min: 0.55}")

    after = ("EVIDENCE_RECORDED", "HOLDS_RECORDED")  # what differs from an update that lands
    assert set(after) <= set(survive(applied, "failing", fail, after))


def waiting(harbour: Harbour) -> None:
    """The upstream changes, and group risk must approve it."""
    (harbour.root / "retinue.toml").write_text('[build]\nworkers = 1\n[approvers]\nrisk = ["grace"]\n')
    harbour.edit("    train: harbour.delay:train", "    approval: required by risk\n    train: harbour.delay:train")
    harbour.edit("alpha: 1.0", "alpha: 2.0")


def test_what_waits_for_approval_survives_a_kill_around_its_hold(applied: Harbour) -> None:
    effects = survive(applied, "waiting", waiting, ("HOLDS_RECORDED",))
    assert "HOLDS_RECORDED" in effects
    assert "RELEASE_LANDED" not in effects


def test_what_was_approved_lands_whole_after_a_kill_anywhere(applied: Harbour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINUE_USER", "grace")
    start = copied(applied, "approved")
    waiting(start)
    start.apply()
    die = (
        "import os, sys; from pathlib import Path; from retinue.project import Project; p = Project(Path(sys.argv[1]));"
        "p.registry.hold = lambda holds: os.kill(os.getpid(), 9); p.approve(['delay'], why='seen')"
    )
    ended = subprocess.run([sys.executable, "-c", die, str(start.root)], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert start.holds()["delay"] == "approval"  # the act is on record, and has not happened yet
    start.do(lambda p: p.approve(["delay"], why="seen"))
    effects = survive(start, "landing", lambda harbour: None, ("DEFINITIONS_STORED", "RELEASE_LANDED"))
    assert "VERSION_REGISTERED" not in effects
    assert "RELEASE_LANDED" in effects


def test_a_living_apply_is_not_taken_for_a_dead_one(applied: Harbour) -> None:
    harbour = copied(applied, "living")
    update(harbour)

    def held(project: object) -> None:
        registry = harbour.project().registry
        sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            mine = name_holder("ada")
            theirs = f"{mine.partition(' pid ')[0]} pid {sleeper.pid} [{mine.partition('[')[2].partition('-')[0]}-"
            now = utc_now()
            holder = f"{theirs}{started(sleeper.pid)}]"
            registry.acquire("harbour", "prod", ["delay"], holder=holder, now=now, expires=later(now, LEASE_SECONDS))
            with pytest.raises(LeaseHeldError, match=f"ada@{socket.gethostname()} pid {sleeper.pid}"):
                harbour.apply()
        finally:
            sleeper.communicate()
        harbour.apply()  # now it is gone

    harbour.do(held)
    assert harbour.plan().empty
