"""Kill -9 after every numbered durable effect of restore and gc: run again, they finish, and the state is whole."""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from contextlib import closing
from enum import IntEnum
from pathlib import Path

import pytest
from tests.control.kept import State, add, land, moment, opened

from retinue.build.environment import _STAMP
from retinue.control.backup import restore_state, write_backup
from retinue.control.effects import GcEffect, OnStep, RestoreEffect
from retinue.control.events import utc_now
from retinue.control.gc import Collector
from retinue.control.gc_lease import alone
from retinue.control.leases import name_holder
from retinue.control.pins import Keep
from retinue.core.errors import StateError
from retinue.store.releasefile import ReleaseFile, current

AT_ONCE = -60.0


def killed_after(number: int, act: Callable[[OnStep], object]) -> bool:
    """Whether a process of its own that does `act` was killed after its n-th effect; False: there are fewer."""
    child = os.fork()
    if child == 0:
        left = [number]

        def on_effect(effect: IntEnum, what: str) -> None:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            act(on_effect)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - told to the parent, which must not go on twice
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), "see the output above"
    return status == signal.SIGKILL


def tree(state: State) -> dict[str, bytes]:
    """Every durable file but the database, the caches and locks of processes."""
    folder = state.settings.directory
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(("state.db", "cache/")) and not path.name.endswith(".lock"):
            found[name] = path.read_bytes()
    return found


def rows(state: State) -> list[bytes]:
    with closing(state.registry):
        return list(state.dump.lines())


def whole(root: Path) -> None:
    """What gateways are pointed at can be read, and has all its artifacts."""
    state = opened(root)
    with closing(state.registry):
        for pointer in state.settings.directory.glob("releases/*/*/current"):
            number = current(pointer.parent)
            with ReleaseFile(pointer.parent / f"{number}.release") as served:
                for digest in served.artifacts():
                    state.artifacts.get(digest)


def made(root: Path) -> None:
    """A state with two releases, a lock, training logs and an environment that nothing uses."""
    state = opened(root)
    with closing(state.registry):
        for number in range(4):
            land(state, "prod", number, {"a": add(state, "a", number, number)})
        land(state, "dev", 9, {"a": "a-1"})
        for name in ("locks/x.lock-text", "logs/training/nobody.log", "cache/old"):
            path = state.settings.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        environment = state.settings.environments / ("e" * 64)
        environment.mkdir(parents=True)
        for name in (_STAMP, "python"):
            (environment / name).write_text(name)


def restore(root: Path, file: Path, force: bool = False) -> Callable[[OnStep], object]:
    def act(on_effect: OnStep) -> None:
        state = opened(root)
        with closing(state.registry):
            restore_state(state.dump, state.artifacts, state.settings, file, force=force, on_effect=on_effect)

    return act


@pytest.mark.parametrize("over", ["an empty state", "another state"])
def test_a_restore_survives_a_kill_after_each_effect(tmp_path: Path, over: str) -> None:
    made(tmp_path / "source")
    source, file = opened(tmp_path / "source"), tmp_path / "b.tar"
    for name in ("logs/training/nobody.log", f"environments/{'e' * 64}"):  # not in a backup
        path = source.settings.directory / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    write_backup(source.dump, source.artifacts, source.settings, file, journal=False, made={})
    wanted_rows, wanted = rows(source), tree(source)
    force = over == "another state"
    start = tmp_path / "start"
    start.mkdir()
    if force:
        state = opened(start)
        with closing(state.registry):
            for number in range(7):
                land(state, "prod", number, {"b": add(state, "b", number, number)})
    seen: list[IntEnum] = []
    shutil.copytree(start, tmp_path / "undisturbed")
    restore(tmp_path / "undisturbed", file, force)(lambda effect, what: seen.append(effect))
    assert set(seen) == set(RestoreEffect)
    for number in range(1, len(seen) + 1):
        root = tmp_path / f"killed-{number}"
        shutil.copytree(start, root)
        assert killed_after(number, restore(root, file, force)), number
        whole(root)
        if number < len(seen) or force:
            restore(root, file, force)(lambda effect, what: None)
        else:
            with pytest.raises(StateError, match="there is a state already"):  # it had finished
                restore(root, file)(lambda effect, what: None)
        whole(root)
        again = opened(root)
        assert rows(again) == wanted_rows, seen[number - 1]
        assert wanted.items() <= tree(again).items(), seen[number - 1]
        if not force:
            assert tree(again) == wanted
        assert not list(again.settings.directory.glob(".restoring-*"))


def test_a_restore_that_was_killed_is_no_leave_to_overwrite_what_happened_since(tmp_path: Path) -> None:
    made(tmp_path / "source")
    source, file = opened(tmp_path / "source"), tmp_path / "b.tar"
    with closing(source.registry):
        write_backup(source.dump, source.artifacts, source.settings, file, journal=False, made={})
    root = tmp_path / "killed"
    seen: list[IntEnum] = []
    restore(tmp_path / "undisturbed", file)(lambda effect, what: seen.append(effect))
    assert killed_after(seen.index(RestoreEffect.ROWS_LOADED) + 1, restore(root, file))
    state = opened(root)
    with closing(state.registry):
        land(state, "prod", 20, {"b": add(state, "b", 1, 20)})
    with pytest.raises(StateError, match="there is a state already"):
        restore(root, file)(lambda effect, what: None)


def collect(root: Path) -> Callable[[OnStep], object]:
    def act(on_effect: OnStep) -> None:
        state = opened(root)
        with closing(state.registry):
            collector = Collector(
                state.dump, state.registry, state.artifacts, state.settings, Keep(1, moment(9_999)), grace=AT_ONCE,
                cache_age=AT_ONCE,
            )  # fmt: skip
            with alone(state.registry, state.dump.portfolios(), name_holder("ann"), utc_now()):
                collector.remove(collector.find(), on_effect)

    return act


def test_a_gc_survives_a_kill_after_each_effect_and_the_lease_of_the_dead_one_is_no_hindrance(tmp_path: Path) -> None:
    start = tmp_path / "start"
    made(start)
    before = rows(opened(start))
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(start, undisturbed)
    seen: list[IntEnum] = []
    collect(undisturbed)(lambda effect, what: seen.append(effect))
    assert set(seen) == set(GcEffect)
    wanted = tree(opened(undisturbed))
    for number in range(1, len(seen) + 1):
        root = tmp_path / f"killed-{number}"
        shutil.copytree(start, root)
        assert killed_after(number, collect(root)), number
        whole(root)
        collect(root)(lambda effect, what: None)
        whole(root)
        assert tree(opened(root)) == wanted, seen[number - 1]
        assert [row for row in rows(opened(root)) if b'"portfolio":"*"' not in row] == before  # but for its own fence
